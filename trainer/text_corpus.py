"""Text-only corpora for co-training: Parquet columns and text files, read as captions that have no image.

A document is a sample. It is cut into stretches of the stream's length, and each epoch takes the next one, as it takes
the next view of an image. Documents are tokenized when their part of the corpus is first opened, and kept on the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from labelers.core.weights import default_cache
from pipeline.errors import ConfigError, DamageError
from pipeline.storage import open_storage
from pipeline.storage.interface import Storage
from tokenize_shards.wordpiece import WordPiece
from trainer.corpus import Column, Corpus, LazyShards
from trainer.shuffle import Order
from trainer.streams import Stream, Tokens

KINDS = (".parquet", ".txt")
LINES, STRETCHES = 4096, 64  # documents of a text file in one part; the most stretches of a document that are read


@dataclass(frozen=True)
class Documents(Column):
    """Whole documents; a view is a stretch of one."""

    @property
    def views(self) -> int:
        return STRETCHES

    def take(self, row: Order, view: Order, limit: int) -> Tokens:
        assert self.offsets is not None
        first, length = self.offsets[row], self.offsets[row + 1] - self.offsets[row]
        start = view % np.maximum(1, -(-length // limit)) * limit
        return self._ragged(row, first + start, np.minimum(length - start, limit))


@dataclass(frozen=True)
class Part:
    """A piece of a corpus: a row group of a Parquet file, or lines of a text file from byte `start` to `end`. far: where
    the file is a copy of, which comes back where the cache had to make room.
    """

    path: Path
    documents: int
    group: int = 0
    start: int = 0
    end: int = 0
    far: tuple[Storage, str] | None = None

    def near(self) -> Part:
        """The same piece, its file at hand."""
        return self if self.far is None else replace(self, path=self.far[0].local(self.far[1]))

    def texts(self, column: str) -> list[str]:
        if self.path.suffix == ".parquet":
            table = pq.ParquetFile(self.path).read_row_group(self.group, columns=[column])
            return [text or "" for text in table.column(column).to_pylist()]
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.end - self.start).decode("utf-8", "replace").split("\n")[: self.documents]

    def key(self, column: str) -> str:
        stat = self.path.stat()
        what = (str(self.path.absolute()), stat.st_size, stat.st_mtime_ns, self.group, self.start, self.end, column)
        return repr(what)


def text_corpus(path: str, words: WordPiece, stream: Stream, column: str = "text", maker: str = "") -> Corpus:
    """The documents of a file, a folder, or a pattern (*.parquet, *.txt), as samples of one sequence stream. maker: of the
    tokens of data sets that `words` is of.

    ConfigError where there are none, or a Parquet file has no such column of text.
    """
    parts = [
        replace(part, far=far)
        for file, far in find(path)
        for part in (_groups(file, column) if file.suffix == ".parquet" else _lines(file))
        if part.documents
    ]
    if not parts:
        raise ConfigError(f"train.text: {path} holds no document")

    def open_part(k: int) -> Mapping[str, Column]:
        part = parts[k].near()
        key = hashlib.sha256(f"{part.key(column)} {words.digest} {stream.length}".encode()).hexdigest()
        ids, offsets = cached(key, lambda: encode(part.texts(column), words, stream.length))
        if len(offsets) != part.documents + 1:
            raise DamageError(f"{part.path}: changed while it was read; start the training again")
        return {stream.name: Documents(ids, np.diff(offsets) > 0, offsets)}

    held = [np.zeros(part.documents, np.bool_) for part in parts]
    return Corpus([stream], LazyShards(len(parts), open_part), held, makers={stream.name: maker}, window=4)


def find(path: str) -> list[tuple[Path, tuple[Storage, str] | None]]:
    """The .parquet and .txt files of a path, by name; those of far storage through its cache, with where they are."""
    if "://" in path:
        one = path.endswith(KINDS) or "*" in path.rpartition("/")[2]
        root, _, pattern = path.rpartition("/") if one else (path.rstrip("/"), "", "*")
        storage = open_storage(root)
        keys = [key for key in storage.list("") if Path(key).match(pattern) and key.endswith(KINDS)]
        found: list[tuple[Path, tuple[Storage, str] | None]] = [(storage.local(key), (storage, key)) for key in keys]
    else:
        given = Path(path).expanduser()
        if given.is_file():
            return [(given, None)]
        folder, pattern = (given, "*") if given.is_dir() else (given.parent, given.name)
        found = [(p, None) for p in sorted(folder.glob(pattern)) if p.suffix in KINDS and p.is_file()]
    if not found:
        raise ConfigError(f"train.text: {path} names no .parquet or .txt file")
    return found


def _groups(path: Path, column: str) -> list[Part]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: is no Parquet file ({error})") from None
    names = file.schema_arrow.names
    if column not in names or not _is_text(file.schema_arrow.field(column).type):
        raise ConfigError(f"{path}: has no column {column!r} of text. There are: {', '.join(names)}.")
    return [Part(path, file.metadata.row_group(i).num_rows, group=i) for i in range(file.num_row_groups)]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):  # as pandas writes categories
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _lines(path: Path) -> list[Part]:
    """A document a line; the file is read once, in blocks, to find where every LINES-th line begins."""
    ends: list[int] = []
    size, lines = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            at = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            first = (-lines - 1) % LINES
            ends += (size + at[first::LINES] + 1).tolist()
            size, lines = size + len(block), lines + len(at)
            last = block[-1:]
    if size and last != b"\n":
        lines += 1
    bounds = sorted({0, *ends, size})
    counts = [LINES] * (len(bounds) - 2) + [lines - LINES * (len(bounds) - 2)]
    return [Part(path, n, start=a, end=b) for n, a, b in zip(counts, bounds, bounds[1:], strict=False)]


def encode(texts: Sequence[str], words: WordPiece, limit: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    """Ids of all texts behind each other, and where each begins; the last offset is the end."""
    ids = [np.array(words.encode(text, STRETCHES * limit), np.uint16) for text in texts]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    return np.concatenate([np.zeros(0, np.uint16), *ids]), offsets


def cached(
    key: str, make: Callable[[], tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]]
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    """What `make` gives, kept in the cache under a key; memory-mapped."""
    folder = default_cache() / "text" / key[:2]
    paths = [folder / f"{key}.{name}.npy" for name in ("ids", "offsets")]
    if not all(path.is_file() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        made: tuple[np.ndarray, ...] = make()
        for path, array in zip(paths, made, strict=True):
            aside = path.with_name(f".{path.stem}.{np.random.default_rng().integers(1 << 60):x}.npy")
            np.save(aside, array, allow_pickle=False)
            aside.replace(path)
    ids, offsets = (np.load(path, mmap_mode="r" if path.stat().st_size > 256 else None) for path in paths)
    return ids, offsets
