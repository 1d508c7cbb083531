"""Which recipe of a modality is current: switched by hand, atomically, and back by the same command."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.care.verify import refs_on
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.plan import Ref
from pipeline.records import Manifest
from pipeline.status import stored


def parse_ref(ds: Dataset, text: str) -> Ref:
    """'canny_edge@1a2b3c4d' or 'canny_edge' (its current recipe); a beginning of the recipe is enough. ConfigError."""
    name, at, recipe = text.rpartition("@")
    if not at or text in ds.manifest().modalities:  # a name may have an @ too: tok_rgb@448
        return text, ds.current(text)
    have = [ref for ref in refs_on(ds) if ref[0] == name and ref[1].startswith(recipe)]
    if len(have) != 1:
        known = ", ".join(f"{m}@{r}" for m, r in refs_on(ds) if m == name) or "none"
        raise ConfigError(f"{text}: names {len(have) or 'no'} recipes of {name}. There are: {known}.")
    return have[0]


def promote(ds: Dataset, refs: Sequence[Ref]) -> Manifest:
    """Make these recipes current, all at once. ConfigError where one of them is not complete."""
    shards = len(ds.shards())
    for ref in refs:
        have = len(ds.commits(*ref))
        if have != shards:
            raise ConfigError(
                f"{ref[0]}@{ref[1]}: has {have} of {shards} shards; complete it with `manymodal label` or `tokenize` first."
            )
    return ds.update_manifest(dict(refs))


def go_back(ds: Dataset, version: int) -> Manifest:
    """Make everything that manifest `version` named current again. ConfigError where there is no such version."""
    old = ds.manifest(version)
    if old.version != version:
        raise ConfigError(f"{ds.storage.url}: has no manifest {version}; the newest is {ds.manifest().version}.")
    have = refs_on(ds)
    promote(ds, [ref for ref in old.modalities.items() if ref in have or stored(ref[0])])
    return ds.update_manifest(old.modalities, old.tokenizers)
