"""Remove samples for good: their bytes leave every recipe of every modality, their place stays as a null.

A mark in `_removed` comes first, so that a run that ends half-way is completed by the same command. Then each shard
that holds the sample is written again without it, those that others read before those that read them, and every commit
names the digests its inputs have now: nothing becomes stale, and every count, order and digest stays true.

Labels are written again as they are stored, so that nothing that made them need be here: a labeler that was uninstalled
since, or the trainer, of what a model generated.

Imported labels came from a file of the user's, of which the data set kept a copy for its workers. The copies go, too; the
file itself is not ours to change. A later run that imports from it copies it anew, for as long as it lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from labelers.core.importing import ImportLabeler
from labelers.core.modality import Modality, Null
from labelers.core.registry import all_labelers, all_modalities
from pipeline.care.removed import REMOVED, removed
from pipeline.care.verify import refs_on
from pipeline.commits import Verify, commit_shard, data_key, retract
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.ingest.ingest import verify_rgb
from pipeline.plan import Ref
from pipeline.records import SOURCE, Commit, canonical_json, folder_of
from pipeline.shards import (
    HEADER,
    NULL_EXT,
    iter_tar,
    read_parquet,
    read_stored,
    verify_labels,
    write_stored,
    write_tar,
)
from pipeline.storage.interface import below
from pipeline.survey import shard_of
from pipeline.weights import kept_keys


@dataclass(frozen=True)
class Rewrite:
    """How a kind of shard is written again. write(source, target, ids, inputs): the same rows, with the ids as nulls."""

    write: Callable[[Path, Path, set[str], Mapping[str, str]], None]
    verify: Verify


RewriteOf = Callable[[str], Rewrite | None]


def find(ds: Dataset, ids: Sequence[str]) -> dict[int, set[str]]:
    """Shard -> ids in it. ConfigError for an id the index does not have."""
    found: dict[int, set[str]] = {}
    left = set(ids)
    for k in ds.shards():
        here = left & set(ds.ids(k))
        if here:
            found[k] = here
            left -= here
    if left:
        raise ConfigError(f"{min(left)}: no sample has this id. `manymodal why` finds ids by file name.")
    return found


def forget(ds: Dataset, ids: Sequence[str], rewrite_of: RewriteOf) -> dict[str, int]:
    """Remove the samples everywhere; how many shards of each recipe were written again.

    rewrite_of: how shards that are neither images nor labels (tokens) are written again; None for those that are.
    DamageError, after all others were written, where a shard is damaged: written again, it would pass for sound.
    """
    places = find(ds, ids)
    for k, here in places.items():
        for sample in here:
            ds.storage.put_if_absent(f"_removed/{sample}.json", canonical_json({"id": sample, "shard": k}))
    counts: dict[str, int] = {}
    damaged: list[DamageError] = []
    for ref in _readers_last(ds):
        known = rewrite_of(ref[0]) or _rewrite_of(ref[0])
        for k, here in places.items():
            try:
                done = _in_shard(ds, ref, k, here, known)
            except DamageError as error:
                damaged.append(error)
                continue
            if done is not None:
                counts[f"{ref[0]}@{ref[1]}"] = counts.get(f"{ref[0]}@{ref[1]}", 0) + done
    drop_sources(ds)
    _drop_indexes(ds, ids)
    if damaged:
        raise damaged[0]
    return counts


def _in_shard(ds: Dataset, ref: Ref, k: int, ids: set[str], how: Rewrite) -> bool | None:
    """Remove the samples from one shard; whether it was written again, None where there is no such shard."""
    _resume(ds, ref, k, how)
    commit = ds.commit_of(*ref, k)
    if commit is None and ref != SOURCE:
        return None
    return _again(ds, commit or ds.open_shard(*ref, k)[1], ids, how)


def sources(ds: Dataset) -> dict[str, str]:
    """What imports of this data set have read, whether or not it is still kept here: sha256 -> URL."""
    found: dict[str, str] = {}
    for key in ds.storage.list("_recipes"):
        recipe = ds.recipe(key.rsplit("/", 1)[-1].removesuffix(".json"))
        cls = all_labelers().get(recipe["labeler"])
        if cls is not None and issubclass(cls, ImportLabeler):
            found |= {w["sha256"]: w["url"] for slot, w in recipe["weights"].items() if slot in cls.sources}
    return found


def source_keys(ds: Dataset) -> list[str]:
    """The copies of imported labels that a data set must not keep, because samples were removed from it; else none."""
    return kept_keys(ds.storage, list(sources(ds))) if removed(ds) else []


def drop_sources(ds: Dataset) -> None:
    """Delete the copies of imported labels, where samples were removed. After a run that used them, too: a worker of
    another run that needs one just then fails, and the next run mends that.
    """
    for key in source_keys(ds):
        ds.storage.delete(key)


def indexes_with(ds: Dataset, ids: Sequence[str]) -> list[str]:
    """The vector indexes (`manymodal index`) that hold one of the samples in some version, or cannot be read."""
    wanted = set(ids)
    return [
        folder.rstrip("/").rpartition("/")[2]
        for folder in ds.storage.list("_indexes")
        if any(_lists(ds, key, wanted) for key in below(ds.storage, folder.rstrip("/")) if key.endswith(".parquet"))
    ]


def _lists(ds: Dataset, key: str, ids: set[str]) -> bool:
    try:
        return not ids.isdisjoint(read_parquet(ds.storage.local(key)).column("id").to_pylist())
    except (DamageError, KeyError):
        return True


def _drop_indexes(ds: Dataset, ids: Sequence[str]) -> None:
    """Delete indexes that hold the samples' vectors, records first; they are made again from what is left."""
    for name in indexes_with(ds, ids):
        for key in sorted(below(ds.storage, f"_indexes/{name}"), key=lambda key: not key.endswith(".json")):
            ds.storage.delete(key)
    ds.storage.prune(["_indexes"])


def _readers_last(ds: Dataset) -> list[Ref]:
    graph = {ref: set(ds.recipe(ref[1])["reads"].items()) for ref in refs_on(ds)}
    return [ref for ref in TopologicalSorter(graph).static_order() if ref in graph]


def _again(ds: Dataset, commit: Commit, ids: set[str], how: Rewrite) -> bool:
    """Write one shard again. False where it already is as it should be."""
    inputs = dict(commit.inputs)
    for name, recipe in ds.recipe(commit.recipe)["reads"].items():
        made = ds.sound_commit(name, recipe, commit.shard)
        if made is not None and name in inputs:
            inputs[name] = made.sha256
    if all(commit.nulls.get(sample) == REMOVED for sample in ids) and inputs == dict(commit.inputs):
        return False
    source, _ = ds.open_shard(commit.modality, commit.recipe, commit.shard, commit)
    with ds.storage.scratch() as folder:
        path = folder / commit.file
        how.write(source, path, ids, inputs)
        ds.storage.delete(_staged(commit))  # of an attempt that ended before it took anything away
        ds.storage.publish(path, _staged(commit))
    retract(ds.storage, commit)
    _finish(ds, commit, how)
    return True


def _staged(commit: Commit) -> str:
    """Where the new file waits while the old one is gone, so that a run that ends there loses nothing."""
    return f"_removed/staged/{data_key(commit)}"


def _finish(ds: Dataset, commit: Commit, how: Rewrite) -> None:
    """Commit the file that waits for it."""
    path = ds.storage.local(_staged(commit))
    commit_shard(ds.storage, replace(commit, sha256=""), path, ds.ids(commit.shard), how.verify)
    ds.storage.delete(_staged(commit))


def _resume(ds: Dataset, ref: Ref, k: int, how: Rewrite) -> None:
    """Put back what an earlier run had taken away and not put back."""
    for key in ds.storage.list(f"_removed/staged/{folder_of(*ref)}"):
        if shard_of(key) == k and ds.commit_of(*ref, k) is None:
            _finish(ds, Commit(*ref, k, key.rsplit("/", 1)[-1], 0, 0, ""), how)


def _rewrite_of(name: str) -> Rewrite:
    """For images and labels."""
    if name == "rgb":
        return Rewrite(_write_rgb, verify_rgb)

    def write(source: Path, target: Path, ids: set[str], inputs: Mapping[str, str]) -> None:
        modality = _modality_of(name, source)
        rows = [(key, Null(REMOVED) if key in ids else value) for key, value in read_stored(source, modality)]
        write_stored(target, modality, [key for key, _ in rows], [value for _, value in rows], inputs)

    return Rewrite(write, lambda path: verify_labels(path, _modality_of(name, path)))


def _modality_of(name: str, path: Path) -> Modality:
    """The registry's; else one that takes labels for what the file says they are stored as."""
    known = all_modalities().get(name)
    if known is not None:
        return known
    if path.suffix == ".tar":
        exts = (ext for key, members in iter_tar(path) if key != HEADER for ext in members if ext != NULL_EXT)
        return Modality(name, "record", "tar", _as_it_is, _as_it_is, _as_it_is, ext=next(exts, ""))
    arrow = read_parquet(path).schema.field("value").type
    return Modality(name, "record", "parquet", _as_it_is, _as_it_is, _as_it_is, arrow=arrow)


def _as_it_is(value: Any) -> Any:
    return value


def _write_rgb(source: Path, target: Path, ids: set[str], inputs: Mapping[str, str]) -> None:
    samples = [
        (key, {NULL_EXT: REMOVED.encode()} if key in ids else members)
        for key, members in iter_tar(source) if key != HEADER
    ]  # fmt: skip
    write_tar(target, "rgb", samples, inputs)
