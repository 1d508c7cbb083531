"""What one recipe has committed: read from a listing, from packs where there are any, else commit by commit.

A commit is a small object of its own, so that committing never waits for anybody; but a hundred thousand small objects
take long to read. So the driver of a run packs them: one Arrow file `_commits/pack-<digest>.arrow` with every commit of
the recipe, and for each the size and stamp its object had in the listing. A pack is only ever a faster way to read: a
row counts while the listing still shows the commit object with that size and stamp, so a commit that was withdrawn or
made again is read afresh, and a pack may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.records import Commit, file_sha256, folder_of, require_of
from pipeline.storage import Entry, Storage

READERS = 16  # threads that read commits from a bucket
PACK_AT = 32  # commits outside a pack that make a new one worth writing
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "stamp", "file", "sha256", "inputs", "nulls")),
        *((name, pa.int64()) for name in ("size", "shard", "count", "bytes", "attempt")),
        ("seconds", pa.float64()),
    ]
)


@dataclass
class Survey:
    """One recipe as it lies on storage.

    commits: by shard, those whose data file is there with the committed length. damage: shard -> sentence for the
    others. records: every commit that is its shard's, with its listing entry. packed: how many were read from packs.
    """

    commits: dict[int, Commit] = field(default_factory=dict)
    damage: dict[int, str] = field(default_factory=dict)
    records: dict[str, tuple[Entry, Commit]] = field(default_factory=dict)
    packed: int = 0


def survey(storage: Storage, modality: str, recipe: str) -> Survey:
    """Everything a listing and the commits say about a recipe. Opens no data file."""
    with _no_collection():
        return _survey(storage, modality, recipe)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Records hold no cycles; looking for some after every few hundred of a million takes longer than reading them."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _survey(storage: Storage, modality: str, recipe: str) -> Survey:
    folder = folder_of(modality, recipe)
    lengths, listed = storage.list(folder), storage.list(f"{folder}/_commits")
    found = Survey()
    known = dict(_packed(storage, listed, modality, recipe))
    found.packed = len(known)
    loose = _read(storage, [key for key in listed if key.endswith(".json") and key not in known])
    for key, entry in listed.items():
        if not key.endswith(".json"):
            continue
        commit = known.get(key)
        if commit is None:
            data = loose[key]
            if data is None:
                continue  # withdrawn since the listing
            try:
                commit = Commit.from_json(data)
                require_of(commit, modality, recipe, shard_of(key))
            except ValueError as error:
                found.damage[shard_of(key)] = f"{key}: not a commit record ({error})"
                continue
        found.records[key] = entry, commit
        file = f"{folder}/{commit.file}"
        have = lengths.get(file)
        if have is None:
            found.damage[commit.shard] = f"{file}: committed, but the file is missing"
        elif have.size != commit.bytes:
            found.damage[commit.shard] = f"{file}: {have.size} bytes where its commit says {commit.bytes}"
        else:
            found.commits[commit.shard] = commit
    return found


def _read(storage: Storage, keys: list[str]) -> dict[str, bytes | None]:
    """The bytes of small objects, None for those that went; from a bucket many at a time, for each takes milliseconds."""

    def one(key: str) -> bytes | None:
        try:
            return storage.read_bytes(key)
        except FileNotFoundError:
            return None

    if "://" not in storage.url or len(keys) < 2:
        return {key: one(key) for key in keys}
    with ThreadPoolExecutor(READERS, "commits") as pool:
        return dict(zip(keys, pool.map(one, keys), strict=True))


def shard_of(key: str) -> int:
    """The number in ".../shard-000012.json"; -1 where there is none."""
    digits = key.rsplit("shard-", 1)[-1].split(".")[0]
    return int(digits) if digits.isdigit() else -1


def _packed(storage: Storage, listed: Mapping[str, Entry], modality: str, recipe: str) -> Iterator[tuple[str, Commit]]:
    """The commits that packs hold and the listing confirms."""
    for pack in [key for key in listed if key.endswith(".arrow")]:
        try:
            with pa.ipc.open_file(pa.BufferReader(storage.read_bytes(pack))) as reader:
                table = reader.read_all()
        except (FileNotFoundError, pa.ArrowException):
            continue  # replaced by a newer one, or damaged: the commits themselves are read
        if table.schema != _SCHEMA:
            continue
        columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
        for key, stamp, file, sha, inputs, nulls, size, shard, count, length, attempt, seconds in zip(
            *columns, strict=True
        ):
            if listed.get(key) == (size, stamp):
                yield key, Commit(
                    modality, recipe, shard, sys.intern(file), count, length, sys.intern(sha),
                    _shared(inputs), _shared(nulls), seconds, attempt,
                )  # fmt: skip


@lru_cache(maxsize=1 << 17)
def _shared(text: str) -> dict[str, str]:
    """The mapping a JSON text stands for; equal texts share one, which is what keeps a million commits small."""
    return {sys.intern(key): sys.intern(value) for key, value in json.loads(text).items()}


def write_pack(storage: Storage, modality: str, recipe: str, least: int = PACK_AT) -> Survey:
    """Pack the commits of a recipe if at least `least` of them lie outside a pack; what was found on the way."""
    found = survey(storage, modality, recipe)
    if len(found.records) - found.packed < least:
        return found
    folder = f"{folder_of(modality, recipe)}/_commits"
    old = [key for key in storage.list(folder) if key.endswith(".arrow")]
    rows = [row_of(key, entry, commit) for key, (entry, commit) in found.records.items()]
    with storage.scratch() as scratch:
        path = scratch / "pack.arrow"
        write_rows(path, rows)
        name = f"{folder}/pack-{len(rows):07d}-{file_sha256(path)[:12]}.arrow"
        storage.publish(path, name)
    for key in old:
        if key != name:
            storage.delete(key)
    return found


def row_of(key: str, entry: Entry, commit: Commit) -> dict[str, Any]:
    return {
        "key": key, "stamp": entry.stamp, "file": commit.file, "sha256": commit.sha256,
        "inputs": json.dumps(dict(commit.inputs), sort_keys=True), "nulls": json.dumps(dict(commit.nulls), sort_keys=True),
        "size": entry.size, "shard": commit.shard, "count": commit.count, "bytes": commit.bytes,
        "attempt": commit.attempt, "seconds": commit.seconds,
    }  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_table(table)
