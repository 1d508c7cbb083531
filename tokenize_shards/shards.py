"""Token shards: Arrow IPC files the loader memory-maps; one uncompressed record batch, rows in index order.

    id           string
    tokens       fixed-width: fixed_size_list<uint16>[views * tokens]; ragged: fixed_size_list<list<uint16>>[views];
                 vectors in place of tokens: fixed_size_list<list<fixed_size_list<float16>[width]>>[views]
    null_reason  string, set where tokens is null

The schema carries one JSON string that says what the file is made from. Equal tokens give equal bytes. Any Arrow reader
opens it; `open_tokens` hands out numpy arrays that are the mapped file itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labelers.core.modality import Null
from pipeline.commits import Verified
from pipeline.errors import DamageError

KEY = b"manymodal"
FORMAT = 1
# (views, tokens), or one array a view, or why there is none
Cells = NDArray[np.uint16] | NDArray[np.float16]
Row = Cells | Sequence[Cells] | Null


@dataclass(frozen=True)
class TokenMeta:
    """What a token shard holds and is made from.

    modality: token modality, "tok_rgb". tokens: how many a view has; None where they are ragged. vocab: tokens are
    0..vocab-1. recipe: recipe8. inputs: modality -> sha256 of the shard it was computed from. width: numbers in a vector
    where a shard holds vectors (it is then ragged, and has no vocab), 1 where no row has any; 0: it holds tokens.
    """

    modality: str
    views: int
    tokens: int | None
    vocab: int
    recipe: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    width: int = 0


@dataclass(frozen=True)
class TokenShard:
    """A token shard, memory-mapped. Arrays are read-only.

    fixed: uint16 (n, views, tokens), zeros where not valid; None for a ragged shard. Ragged shards have values, uint16
    (total,), and offsets, int64 (n * views + 1,): view v of row i is values[offsets[j] : offsets[j + 1]] with
    j = i * views + v; of vectors values is float16 (total, width). valid: bool (n,). reasons: why, by id, for the rows
    that are not valid.
    """

    ids: list[str]
    meta: TokenMeta
    valid: NDArray[np.bool_]
    reasons: dict[str, str]
    fixed: NDArray[np.uint16] | None = None
    values: Cells | None = None
    offsets: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> NDArray[np.uint16] | tuple[Cells, NDArray[np.int64]]:
        """The (n, views, tokens) array, or (values, offsets)."""
        if self.fixed is not None:
            return self.fixed
        return self._ragged()

    def row(self, i: int, view: int) -> Cells | None:
        """Tokens of one view of row i; None where the row is null."""
        if not self.valid[i]:
            return None
        if self.fixed is not None:
            return self.fixed[i, view]
        values, offsets = self._ragged()
        at = i * self.meta.views + view
        return values[offsets[at] : offsets[at + 1]]

    def _ragged(self) -> tuple[Cells, NDArray[np.int64]]:
        if self.values is None or self.offsets is None:
            raise ValueError(f"{self.meta.modality}: a shard holds either fixed tokens, or values and offsets")
        return self.values, self.offsets


def write_tokens(path: Path, meta: TokenMeta, ids: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a shard. rows: for each id uint16 (views, tokens), or for ragged modalities one array a view, or a Null.

    Everything is checked before the file is opened: ValueError for ids that are not 32 hex digits or occur twice,
    another number of rows than ids, wrong shapes, tokens outside the vocabulary, or a Null without a reason.
    """
    _check_ids(ids)
    if len(rows) != len(ids):
        raise ValueError(f"{meta.modality}: {len(rows)} rows of tokens for {len(ids)} ids")
    null = np.array([isinstance(row, Null) for row in rows], bool)
    cells = [_cells(meta, id, row) for id, row in zip(ids, rows, strict=True)]
    values = np.concatenate([cell for row in cells for cell in row] or [_empty(meta, 0)])
    if problem := _problem(meta, values):
        raise ValueError(f"{meta.modality}: {problem}")
    inner, width = pa.array(values.reshape(-1)), meta.views * (meta.tokens or 1)
    if meta.width:
        inner = pa.FixedSizeListArray.from_arrays(inner, type=_cell_type(meta))
    if meta.tokens is None:
        lengths = [len(cell) for row in cells for cell in row]
        inner = pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), inner)
    column = pa.FixedSizeListArray.from_arrays(inner, type=_tokens_type(meta, width), mask=pa.array(null))
    reasons = pa.array([row.reason if isinstance(row, Null) else None for row in rows], pa.string())
    schema = _schema(meta, width).with_metadata({KEY: _meta_json(meta)})
    batch = pa.record_batch([pa.array(ids, pa.string()), column, reasons], schema=schema)
    plain = pa.ipc.IpcWriteOptions(compression=None, use_threads=False)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=plain) as writer:
        writer.write_batch(batch)


def _empty(meta: TokenMeta, length: int) -> Cells:
    return np.zeros((length, meta.width), np.float16) if meta.width else np.zeros(length, np.uint16)


def _problem(meta: TokenMeta, values: Cells) -> str:
    """What is wrong with the values of a shard, or an empty string."""
    if meta.width:
        return "" if np.isfinite(values).all() else "a vector holds numbers that are not finite"
    top = int(values.max(initial=0))
    return f"token {top} is outside the vocabulary of {meta.vocab}" if values.size and top >= meta.vocab else ""


def _cells(meta: TokenMeta, id: str, row: Row) -> list[Cells]:
    """The views of one row as arrays; a Null takes zeros of the fixed width, or empty arrays."""
    if isinstance(row, Null):
        if not row.reason:
            raise ValueError(f"{meta.modality}: the null of sample {id} gives no reason")
        return [_empty(meta, meta.tokens or 0)] * meta.views
    cells = list(row)
    shapes = [getattr(cell, "shape", None) for cell in cells]
    inner, kind = ((meta.width,), np.float16) if meta.width else ((), np.uint16)
    right = all(s is not None and len(s) and s[1:] == inner and meta.tokens in (None, s[0]) for s in shapes)
    if len(cells) != meta.views or not right or any(cell.dtype != kind for cell in cells):
        what = f"vectors of {meta.width} float16" if meta.width else "uint16 tokens"
        wanted = f"{meta.views} views of {'any number of' if meta.tokens is None else meta.tokens} {what}"
        kinds = sorted({str(getattr(cell, "dtype", type(cell).__name__)) for cell in cells})
        raise ValueError(f"{meta.modality}: sample {id} has tokens of shapes {shapes}, {kinds}; expected {wanted}")
    return cells


def _check_ids(ids: Sequence[str]) -> None:
    bad = next((id for id in ids if not re.fullmatch("[0-9a-f]{32}", id)), None)
    if bad is not None:
        raise ValueError(f"{bad!r} is not a sample id (32 lower-case hex digits)")
    if len(set(ids)) != len(ids):
        raise ValueError("a sample id occurs twice in one shard")


def _tokens_type(meta: TokenMeta, width: int) -> pa.DataType:
    return pa.list_(pa.uint16() if meta.tokens is not None else pa.list_(_cell_type(meta)), width)


def _cell_type(meta: TokenMeta) -> pa.DataType:
    return pa.list_(pa.float16(), meta.width) if meta.width else pa.uint16()


def _schema(meta: TokenMeta, width: int) -> pa.Schema:
    return pa.schema([("id", pa.string()), ("tokens", _tokens_type(meta, width)), ("null_reason", pa.string())])


def _meta_json(meta: TokenMeta) -> bytes:
    said = {"format": FORMAT, **asdict(meta)}
    if not meta.width:
        del said["width"]  # shards of tokens are the bytes they were before there were vectors
    return json.dumps(said, sort_keys=True).encode()


def _read_meta(schema: pa.Schema) -> TokenMeta:
    """The schema's JSON, checked against the columns. ValueError where they disagree."""
    raw = json.loads((schema.metadata or {})[KEY])
    if raw.pop("format") != FORMAT:
        raise ValueError(f"written by another version of the format; this one reads {FORMAT}")
    meta = TokenMeta(**raw)
    if not schema.equals(_schema(meta, meta.views * (meta.tokens or 1))):
        raise ValueError(f"columns are {schema.names} {schema.types}, which does not fit {meta}")
    return meta


def _one_batch(path: Path) -> tuple[pa.RecordBatch, pa.Buffer]:
    """The only record batch and the mapped file it must lie in."""
    source = pa.memory_map(str(path), "r")
    reader = pa.ipc.open_file(source)
    if reader.num_record_batches != 1:
        raise ValueError(f"{reader.num_record_batches} record batches instead of one")
    source.seek(0)
    return reader.get_batch(0), source.read_buffer()


def open_tokens(path: Path) -> TokenShard:
    """Memory-map a shard; no token is copied or read from the disk yet. DamageError for a file that is not as written.

    Structure is checked here: columns, ids, nulls, widths, offsets. The values are covered by the commit's digest, and
    by `verify_tokens`.
    """
    try:
        return _open(path)
    except (pa.ArrowException, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; Arrow's own have no number
            raise
        raise DamageError(f"{path} is not a whole token shard: {error}. Tokenize this shard again.") from error


def _open(path: Path) -> TokenShard:
    batch, whole = _one_batch(path)
    meta = _read_meta(batch.schema)
    batch.validate(full=True)  # offsets too: a wrong one would end the process, not raise
    ids, column, reasons = batch.column(0).to_pylist(), batch.column(1), batch.column(2).to_pylist()
    _check_ids([str(id) for id in ids])
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if any((reason is None) != ok for reason, ok in zip(reasons, valid.tolist(), strict=True)):
        raise ValueError("a null without a reason, or a reason without a null")
    why = {id: reason for id, reason in zip(ids, reasons, strict=True) if reason is not None}
    inner = column.values
    if len(inner) != len(ids) * column.type.list_size:
        raise ValueError(f"{len(inner)} views or tokens for {len(ids)} rows of {column.type.list_size}")
    if meta.tokens is not None:
        fixed = _mapped(inner, whole).reshape(len(ids), meta.views, meta.tokens)
        return TokenShard(ids, meta, valid, why, fixed=fixed)
    flat = inner.values.values if meta.width else inner.values
    if meta.width and (inner.values.null_count or len(flat) != len(inner.values) * meta.width):
        raise ValueError(f"vectors are not all of {meta.width} numbers")
    values = _mapped(flat, whole)
    values = values.reshape(-1, meta.width) if meta.width else values
    offsets = inner.offsets.to_numpy().astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any() or inner.null_count:
        raise ValueError("offsets do not rise from 0 to the number of tokens")
    return TokenShard(ids, meta, valid, why, values=values, offsets=offsets)


def _mapped(array: pa.Array, whole: pa.Buffer) -> NDArray[Any]:
    """The array as numpy, without a copy. ValueError where it does not lie in the mapped file (it was compressed)."""
    values = array.to_numpy(zero_copy_only=True)
    start = values.__array_interface__["data"][0]
    if values.nbytes and not whole.address <= start <= start + values.nbytes <= whole.address + whole.size:
        raise ValueError("the tokens are compressed and cannot be memory-mapped")
    return np.asarray(values)


def verify_tokens(path: Path) -> Verified:
    """Open a finished file as the commit protocol asks, and check every value too. DamageError for anything wrong."""
    shard = open_tokens(path)
    flat = shard.fixed if shard.fixed is not None else shard.values
    if flat is not None and (problem := _problem(shard.meta, flat)):
        raise DamageError(f"{path}: {problem}")
    return Verified(ids=shard.ids, nulls=shard.reasons, inputs=dict(shard.meta.inputs))
