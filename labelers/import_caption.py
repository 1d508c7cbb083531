"""import_caption: texts somebody already has, from text files, a table, JSON, or COCO's captions."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

from labelers.caption import CAPTION
from labelers.core.annotations import json_of, read_coco
from labelers.core.importing import ImportLabeler
from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from labelers.core.sources import MatchParams, Source, SourceError

_WHAT = "COCO captions, {name: text}, lines of JSON, CSV, TSV or Parquet"


class ImportCaptionParams(MatchParams):
    """name, text: columns (or keys of JSON lines) with the photo's id, path or file name, and its text. pick: of several
    texts of one photo, the first or the longest.
    """

    name: str = "file_name"
    text: str = "caption"
    pick: Literal["first", "longest"] = "first"


class ImportCaption(ImportLabeler):
    """Captions from a folder or .zip of .txt files, or one file: COCO's captions, {name: text or texts} as JSON, lines of
    JSON, or a table (CSV, TSV, Parquet) with a column of names and one of texts.
    """

    name = "import_caption"
    version = 2
    backend = "import: texts"
    produces = (CAPTION,)
    Params = ImportCaptionParams

    def load(self, source: Source) -> Iterable[str]:
        self._texts: dict[str, list[str]] = defaultdict(list)
        if not source.single:
            return source.of(".txt")
        data = source.read("")
        for name, text in _rows(data, self.params.name, self.params.text):
            if isinstance(name, str) and isinstance(text, str) and text.strip():
                self._texts[name].append(text)
        return self._texts

    def entry(self, name: str, sample: Sample) -> dict[str, Label | Null]:
        texts = self._texts[name] if self.source.single else [_utf8(self.source.read(name))]
        texts = [text.strip() for text in texts if text.strip()]
        if not texts:
            return {"caption": Null("the source's text is empty")}
        return {"caption": texts[0] if self.params.pick == "first" else max(texts, key=len)}


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"is not UTF-8 ({error.reason} at byte {error.start})") from error


def _rows(data: bytes, name: str, text: str) -> Iterable[tuple[Any, Any]]:
    """(name, text) pairs of a file of any of the kinds. SourceError where it is none of them."""
    if data[:4] == b"PAR1":
        return _parquet(data, name, text)
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] != b"{":
        return _table(_utf8(data), name, text)
    lines = data.splitlines()
    if len(lines) > 1 and lines[0].strip().endswith(b"}") and lines[1].strip()[:1] in (b"{", b""):
        return [(row.get(name), row.get(text)) for row in (json_of(line, _WHAT) for line in lines if line.strip())]
    raw = json_of(data, _WHAT)
    if "images" in raw and "annotations" in raw:
        images = read_coco(data, _WHAT).images.values()
        return [(image.name, one.get(text)) for image in images for one in image.annotations]
    if name in raw and text in raw:
        return [(raw[name], raw[text])]
    return [(key, one) for key, many in raw.items() for one in (many if isinstance(many, list) else [many])]


def _table(content: str, name: str, text: str) -> list[tuple[Any, Any]]:
    """Pairs of a CSV or TSV. Rows with more or fewer fields than the header are left out: some field was cut or joined."""
    rows = _tab_rows(content) if "\t" in content.partition("\n")[0] else _fields(content, delimiter=",")
    header, *rows = [row for row in rows if row] or [[]]
    _columns(header, name, text)
    whole = (dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header))
    return [(row[name], row[text]) for row in whole]


def _tab_rows(content: str) -> list[list[str]]:
    """By csv's quotes where the whole table keeps to them, else line by line.

    Most tab tables are not quoted: by csv's rules a caption that begins with a quotation mark would swallow the rows
    after it, and with them a tab.
    """
    try:
        rows = _fields(content, delimiter="\t", strict=True)
        if not any("\t" in field for row in rows for field in row):
            return rows
    except SourceError:
        pass
    return [[_unquoted(field) for field in row] for row in _fields(content, delimiter="\t", quoting=csv.QUOTE_NONE)]


def _fields(content: str, **rules: Any) -> list[list[str]]:
    reader = csv.reader(io.StringIO(content), **rules)
    try:
        return list(reader)
    except csv.Error as error:
        raise SourceError(f"is no whole table (line {reader.line_num}: {error})") from error


def _unquoted(field: str) -> str:
    """A field without its quotes where it is wholly quoted as in CSV."""
    inner = field[1:-1]
    whole = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else field


def _parquet(data: bytes, name: str, text: str) -> list[tuple[Any, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"is no whole Parquet file ({error})") from error
    _columns(table.column_names, name, text)
    return list(zip(table.column(name).to_pylist(), table.column(text).to_pylist(), strict=True))


def _columns(found: Iterable[str], name: str, text: str) -> None:
    missing = [column for column in (name, text) if column not in found]
    if missing:
        raise SourceError(
            f"has no column {missing[0]!r}; its columns are {', '.join(map(str, found)) or 'none'}. Name them in "
            "params.name and params.text"
        )
