"""What nothing needs: temporary files of attempts that died, files without a commit, marks, and old packs' remains; of a
data set that forgot samples, the copies of what was imported.

Never what a commit or a manifest names. A recipe that no manifest ever named, or that one asks to drop by name, is
another matter: `drop` removes it whole, and refuses the current one and what a current one reads.
"""

from __future__ import annotations

import time

from pipeline.care.forget import source_keys
from pipeline.care.verify import refs_on
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.plan import Ref
from pipeline.records import SOURCE, folder_of
from pipeline.storage.interface import below
from pipeline.survey import shard_of

TEMPORARY = ("_tmp", "_suspects", "_fits/_unfinished")


def garbage(ds: Dataset, hours: float) -> list[str]:
    """What `collect` would delete: keys, and uploads that never ended."""
    return [*_files(ds, hours), *ds.storage.sweep(time.time() - hours * 3600, dry_run=True)]


def _files(ds: Dataset, hours: float) -> list[str]:
    """Keys that nothing needs and that are older than `hours`, by the storage's own clock where it has one."""
    limit = time.time() - hours * 3600
    found = [key for folder in TEMPORARY for key in below(ds.storage, folder)]
    for ref in refs_on(ds):
        kept = shards_in(ds, f"{folder_of(*ref)}/_commits")  # also where the record is damaged: `repair` needs the file
        if ref == SOURCE:
            kept |= shards_in(ds, "index")  # images are never garbage, even where their commit is lost
        files = ds.storage.list(folder_of(*ref))
        found += [key for key in files if not key.endswith("/") and shard_of(key) not in kept]
    found += source_keys(ds)
    return [key for key in found if ds.storage.modified(key) <= limit]


def shards_in(ds: Dataset, folder: str) -> set[int]:
    """Numbers of the shards that have a file in a folder."""
    return {shard_of(key) for key in ds.storage.list(folder)} - {-1}


def collect(ds: Dataset, hours: float) -> list[str]:
    """Delete the garbage; the keys that were deleted, and the uploads that were ended."""
    found = _files(ds, hours)
    for key in found:
        ds.storage.delete(key)
    ds.storage.prune(TEMPORARY)
    return [*found, *ds.storage.sweep(time.time() - hours * 3600)]


def drop(ds: Dataset, ref: Ref, dry_run: bool = False) -> list[str]:
    """Delete a whole recipe of a modality, commits first; the keys that go. ConfigError where it is current, or a current
    one reads it.
    """
    current = ds.manifest().modalities
    if current.get(ref[0]) == ref[1]:
        raise ConfigError(f"{ref[0]}@{ref[1]} is current. Promote another recipe of {ref[0]} first.")
    for name, recipe in current.items():
        if ds.recipe(recipe)["reads"].get(ref[0]) == ref[1]:
            raise ConfigError(f"{ref[0]}@{ref[1]} is read by the current {name}. Make {name} again first.")
    if ref not in refs_on(ds):
        raise ConfigError(f"{ref[0]}@{ref[1]}: there is no such recipe on storage.")
    keys = sorted(below(ds.storage, folder_of(*ref)), key=lambda key: "/_commits/" not in key)
    if not dry_run:
        for key in keys:
            ds.storage.delete(key)
        ds.storage.prune([folder_of(*ref)])
    return keys
