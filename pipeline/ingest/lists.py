"""Lists of paths or URIs as a source: Parquet, CSV and TSV with a column uri, path or url (and perhaps caption), or
text lines.

Relative paths count from the list's folder; in a bucket too, where absolute ones count from its top. Side-cars beside a
listed file come along (not those of s3:// images: to ask would cost two requests an image); the list's own caption goes
before them. Web addresses are not fetched.
"""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.ingest.candidate import Candidate, Payload, refused, uri_of
from pipeline.ingest.folder import file_candidate
from pipeline.ingest.s3 import S3, s3_candidate
from pipeline.storage.places import here
from pipeline.storage.s3_client import shown

LIST_EXTS = ("parquet", "csv", "tsv", "txt")
_URI_COLUMNS = ("uri", "path", "url")
_Row = tuple[str | None, str | None]  # (path or URI, caption)


def read_list(path: Path, uri: str = "") -> Iterator[Candidate]:
    """Candidates in the order of the list. uri: where it lies in a bucket, of which `path` is a copy. ConfigError where
    the list itself cannot be read.
    """
    rows = {".parquet": _parquet_rows, ".txt": _text_rows}.get(path.suffix.lower(), _csv_rows)
    name, s3 = shown(uri) if uri else str(path), S3()
    own = shown(uri) if uri else uri_of(path)
    try:
        for number, (entry, caption) in enumerate(rows(path), 1):
            if entry is None or not entry.strip():
                yield refused(f"{own}#row%3D{number}", "empty_entry", f"row {number} of the list names nothing")
            else:
                entry = _in_bucket(uri, entry.strip()) if uri else entry.strip()
                yield _captioned(_listed(path.absolute().parent, s3, entry), caption)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{name}: cannot be read as a list ({' '.join(str(error).split())[:200]}). Write it again."
        ) from error


def read_s3_list(uri: str) -> Iterator[Candidate]:
    """`read_list` of a list in a bucket. ConfigError at once where it is not there."""
    path = here(uri)
    if not path.is_file():
        raise ConfigError(f"{shown(uri)}: no such list. Check the name of the source.")
    return read_list(path, uri)


def _in_bucket(uri: str, entry: str) -> str:
    """An entry of the list at `uri`, its relative path as a URI of the same bucket."""
    if "://" in entry:
        return entry
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return f"s3://{bucket}/{posixpath.normpath(posixpath.join('/', posixpath.dirname(key), entry)).lstrip('/')}"


def _listed(folder: Path, s3: S3, entry: str) -> Candidate:
    """The candidate an entry of a list names."""
    scheme = entry.partition("://")[0].lower() if "://" in entry else ""
    if scheme == "s3":
        return s3_candidate(s3, entry)
    if scheme in ("http", "https"):
        return refused(
            quote(entry, safe=":/?&=%#"),
            "remote_urls_off",
            "web addresses are not fetched; download it, and list the file",
        )
    if scheme not in ("", "file"):
        return refused(
            quote(entry, safe=":/?&=%#"),
            "unsupported_scheme",
            f"{scheme!a} cannot be read; list files of this machine, or s3://",
        )
    try:
        local = Path(os.fsdecode(unquote_to_bytes(urlsplit(entry).path))) if scheme else folder / entry
    except ValueError as error:  # file://[...
        return refused(quote(entry), "bad_name", f"is no URI of a file ({error})")
    if "\0" in str(local):
        return refused(quote(entry), "bad_name", "the path has a NUL character in it")
    return file_candidate(local)


def _captioned(candidate: Candidate, caption: str | None) -> Candidate:
    """The candidate with the caption that the list has for it, if it has one, as its .txt."""
    if not caption:
        return candidate

    def read() -> Payload:
        payload = candidate.read()
        return Payload(payload.data, {**payload.sidecars, "txt": caption.encode(errors="backslashreplace")})

    return Candidate(candidate.uri, read)


def _columns(path: Path, names: Sequence[str]) -> tuple[str, str | None]:
    """The columns of a list that are used: that of the path, and that of the caption or None."""
    found = [name for name in _URI_COLUMNS if name in names]
    if not found:
        raise ConfigError(
            f"{path}: has no column uri, path or url; its columns are {', '.join(map(str, names)) or 'none'}."
        )
    return found[0], "caption" if "caption" in names else None


def _parquet_rows(path: Path) -> Iterator[_Row]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        uri, caption = _columns(path, file.schema_arrow.names)
        for batch in file.iter_batches(columns=[c for c in (uri, caption) if c]):
            entries = batch.column(uri).cast(pa.string()).to_pylist()
            captions = batch.column(caption).cast(pa.string()).to_pylist() if caption else [None] * len(entries)
            yield from zip(entries, captions, strict=True)


def _csv_rows(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        uri, caption = _columns(path, reader.fieldnames or [])
        for row in reader:
            yield row[uri], row[caption] if caption else None


def _text_rows(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig") as handle:
        for line in handle:
            if line.strip():
                yield line.rstrip("\r\n"), None
