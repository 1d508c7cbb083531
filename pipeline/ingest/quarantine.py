"""Inputs that could not be used, kept as data: _quarantine/<content>.parquet with uri, reason and error; each entry
once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from pipeline.dataset import Dataset
from pipeline.records import canonical_json
from pipeline.shards import read_parquet, write_parquet

Entry = tuple[str, str, str]  # uri, reason, error
SCHEMA = pa.schema([("uri", pa.string()), ("reason", pa.string()), ("error", pa.string())])


def read_quarantine(ds: Dataset) -> list[Entry]:
    """Every entry ever written, oldest file name first."""
    entries: list[Entry] = []
    for key in ds.storage.list("_quarantine"):
        table = read_parquet(ds.storage.local(key))
        entries += [(row["uri"], row["reason"], row["error"]) for row in table.to_pylist()]
    return entries


def pending(ds: Dataset) -> list[Entry]:
    """Entries whose input is still not a sample, the last one of each input."""
    taken = {row.uri for k in ds.shards() for row in ds.index(k)}
    return [entry for uri, entry in {e[0]: e for e in read_quarantine(ds)}.items() if uri not in taken]


def append_quarantine(ds: Dataset, entries: Sequence[Entry]) -> int:
    """Write the entries that are not there yet, in one file named by its content; how many those were."""
    known = {entry[:2] for entry in read_quarantine(ds)}
    fresh = [entry for entry in entries if entry[:2] not in known]
    if fresh:
        name = hashlib.sha256(canonical_json(fresh)).hexdigest()[:16]
        with ds.storage.scratch() as folder:
            path = folder / f"{name}.parquet"
            write_parquet(
                path, pa.Table.from_pylist([dict(zip(SCHEMA.names, e, strict=True)) for e in fresh], schema=SCHEMA)
            )
            ds.storage.publish(path, f"_quarantine/{path.name}")
    return len(fresh)
