"""Label shards: image-like labels as WebDataset tars, vectors and structures as Parquet; written and read in index
order.

Both are read by plain webdataset and plain pyarrow. Equal labels give equal bytes (fixed times, owners, order and
options). The fingerprints of the shards a label was computed from travel inside the file, so that a file says what it
was made from even before it has a commit.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labelers.core.modality import Label, Modality, Null
from pipeline.commits import Verified
from pipeline.errors import DamageError
from pipeline.records import shard_name

HEADER = "__manymodal__"  # a tar member plain webdataset skips; holds the same JSON as the Parquet metadata
NULL_EXT = "null"  # `<id>.null` holds the reason of a label that could not be made
MAX_MEMBER = 1 << 30


def label_file(modality: Modality, k: int) -> str:
    """Name of a label shard in its recipe's folder."""
    return shard_name(k, "tar" if modality.container == "tar" else "parquet")


def _header(modality: str, inputs: Mapping[str, str]) -> bytes:
    return json.dumps({"modality": modality, "inputs": dict(inputs)}, sort_keys=True).encode()


def write_tar(
    path: Path, modality: str, samples: Iterable[tuple[str, Mapping[str, bytes]]], inputs: Mapping[str, str]
) -> None:
    """Write (id, {extension: bytes}) samples as a WebDataset tar with fixed times, owners and modes."""
    from webdataset import TarWriter

    # The writer is closed before the file, also where it is interrupted: what it holds back would be written afterwards.
    with (
        path.open("wb") as handle,
        TarWriter(handle, encoder=False, mtime=0, user="manymodal", group="manymodal") as writer,
    ):
        head = _header(modality, inputs)
        info = tarfile.TarInfo(HEADER)
        info.size, info.mtime, info.mode = len(head), 0, 0o444
        writer.tarstream.addfile(info, io.BytesIO(head))
        for key, members in samples:
            writer.write({"__key__": key, **members})


def iter_tar(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension: bytes}) of each sample in order; the header comes first, under the key HEADER.

    DamageError for a truncated tar, a member that is no plain file, a name with folders, or a member over 1 GiB.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            key, members = "", dict[str, bytes]()
            end = 0
            for info in tar:
                if not info.isreg() or "/" in info.name or info.size > MAX_MEMBER:
                    raise DamageError(f"{path.name}: member {info.name!r} is not a plain file of at most 1 GiB")
                stem, _, ext = info.name.partition(".")
                handle = tar.extractfile(info)
                data = handle.read() if handle else b""
                if len(data) != info.size:
                    raise DamageError(f"{path.name}: cut inside member {info.name!r}")
                if key and stem != key:
                    yield key, members
                    members = {}
                key = stem
                members[ext] = data
                end = info.offset_data + (info.size + 511) // 512 * 512
            if key:
                yield key, members
            _require_end(path, end)
    except (tarfile.TarError, EOFError) as error:
        raise DamageError(f"{path.name}: not a whole tar ({error})") from error


def _require_end(path: Path, end: int) -> None:
    """A tar ends in two zero blocks; one cut at a member boundary does not, and would read as a smaller data set."""
    with path.open("rb") as handle:
        handle.seek(end)
        tail = handle.read()
    if len(tail) < 1024 or any(tail):
        raise DamageError(f"{path.name}: the end-of-archive blocks are missing; the tar was cut")


def write_labels(
    path: Path, modality: Modality, ids: Sequence[str], labels: Sequence[Label | Null], inputs: Mapping[str, str]
) -> None:
    """Write one label or Null an id, in order, in the modality's container. LabelError where a label breaks its
    promise.
    """
    if len(ids) != len(labels):
        raise ValueError(f"{modality.name}: {len(labels)} labels for {len(ids)} ids")
    for label in labels:
        if not isinstance(label, Null):
            modality.check(label)
    write_stored(path, modality, ids, [stored(modality, label) for label in labels], inputs)


def stored(modality: Modality, label: Label | Null) -> Any | Null:
    """A label in the form in which it is stored; a Null stays one."""
    return label if isinstance(label, Null) else modality.encode(label)


def write_stored(
    path: Path, modality: Modality, ids: Sequence[str], values: Sequence[Any | Null], inputs: Mapping[str, str]
) -> None:
    """Write labels that were checked and encoded before, one or a Null an id."""
    if modality.container == "tar":
        members = [{NULL_EXT: v.reason.encode()} if isinstance(v, Null) else {modality.ext: v} for v in values]
        write_tar(path, modality.name, zip(ids, members, strict=True), inputs)
        return
    reasons = [v.reason if isinstance(v, Null) else None for v in values]
    values = [None if isinstance(v, Null) else v for v in values]
    schema = pa.schema(
        [("id", pa.string()), ("value", modality.arrow), ("null_reason", pa.string())],
        metadata={"manymodal": _header(modality.name, inputs)},
    )
    table = pa.table(
        {"id": list(ids), "value": pa.array(values, modality.arrow), "null_reason": reasons}, schema=schema
    )
    write_parquet(path, table)


def write_parquet(path: Path, table: pa.Table) -> None:
    """The one way a Parquet file is written here: fixed options, zstd, page checksums."""
    pq.write_table(table, path, compression="zstd", version="2.6", write_page_checksum=True, store_schema=True)


def read_parquet(path: Path) -> pa.Table:
    """A Parquet file with its page checksums verified. DamageError where they do not hold."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise DamageError(f"{path.name}: not a whole Parquet file ({error})") from error


def read_stored(path: Path, modality: Modality) -> Iterator[tuple[str, Any | Null]]:
    """(id, label as it is stored, or Null) of a label shard, in order: what `modality.decode` takes. DamageError for
    anything malformed.
    """
    if modality.container == "tar":
        for key, members in iter_tar(path):
            if key == HEADER:
                continue
            if NULL_EXT in members:
                yield key, Null(members[NULL_EXT].decode())
            elif modality.ext in members:
                yield key, members[modality.ext]
            else:
                raise DamageError(f"{path.name}: sample {key} has neither .{modality.ext} nor .{NULL_EXT}")
        return
    table = read_parquet(path)
    columns = (table.column(name).to_pylist() for name in ("id", "value", "null_reason"))
    for key, value, reason in zip(*columns, strict=True):
        yield key, Null(reason) if reason is not None else value


def read_labels(path: Path, modality: Modality) -> Iterator[tuple[str, Label | Null]]:
    """(id, label or Null) of a label shard, in order. DamageError for anything malformed."""
    for key, value in read_stored(path, modality):
        yield key, value if isinstance(value, Null) else modality.decode(value)


def verify_labels(path: Path, modality: Modality) -> Verified:
    """Re-open a finished label shard as a reader would: every label decoded and checked again."""
    ids, nulls = [], {}
    for key, label in read_labels(path, modality):
        ids.append(key)
        if isinstance(label, Null):
            nulls[key] = label.reason
        else:
            modality.check(label)
    return Verified(ids, nulls, read_inputs(path))


def read_inputs(path: Path) -> dict[str, str]:
    """The fingerprints of the shards this file was computed from, by modality."""
    if path.suffix == ".tar":
        key, members = next(iter(iter_tar(path)), ("", {}))
        head = members.get("", b"") if key == HEADER else b""
    else:
        head = (pq.read_schema(path).metadata or {}).get(b"manymodal", b"")
    if not head:
        raise DamageError(f"{path.name}: has no manymodal header")
    inputs: dict[str, str] = json.loads(head)["inputs"]
    return inputs
