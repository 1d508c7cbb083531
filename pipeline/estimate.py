"""What a plan will cost: seconds and bytes a sample, from a sample that is timed now, or from what was committed before.

A labeler whose inputs are there labels a few photos of the first shard that is due, in this process; its start-up is
not counted. A step that cannot be tried (what it reads is not made yet, or it is not a labeler) is estimated from the
commits of any recipe of its modalities; one that never ran has no estimate.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from labelers.core.modality import Null
from labelers.core.registry import all_modalities
from pipeline.batches import Batches
from pipeline.care.verify import refs_on
from pipeline.dataset import Dataset
from pipeline.errors import Incomplete
from pipeline.plan import Item, Ref, Step
from pipeline.recipes import Target
from pipeline.records import Commit
from pipeline.shards import write_labels

TIMED = 8  # photos


@dataclass(frozen=True)
class Estimate:
    """For all that a step has to do. shards, samples: how many. seconds: of one worker; None where nothing is known.
    bytes: written; read_bytes: read. how: where it comes from. on_gpu: whether it was timed on one; None if not known.
    """

    shards: int
    samples: int
    seconds: float | None
    bytes: int | None
    read_bytes: int
    how: str
    on_gpu: bool | None = None


def estimate(
    ds: Dataset,
    steps: Sequence[Step],
    items: Sequence[Item],
    targets: Mapping[str, Target],
    files: Mapping[str, Path],
    images: int | None = None,
) -> dict[str, Estimate]:
    """By step, for those that have something to do. targets: of the steps that are labelers. files: weights by sha256,
    which may not lie in the data set yet. images: as if the data set held so many, and nothing were made of them.
    """
    found: dict[str, Estimate] = {}
    sizes: dict[Ref, float] = {}  # bytes a sample
    held = committed_first(ds, steps)
    for step in steps:
        due = [item for item in items if item.step == step.name]
        if not due and images is None:
            continue
        samples = images if images is not None else sum(len(ds.index(item.shard)) for item in due)
        shards = ceil(images / ds.shard_size) if images is not None else len(due)
        target, first = targets.get(step.name), next((i.shard for i in due if not i.after), None)
        if first is None and images is not None and all(ref in held for ref in step.reads):
            first = 0
        rate = _timed(ds, target, first, files) if target is not None and first is not None else None
        how = f"{TIMED} photos timed now" if rate else "earlier shards of this modality"
        on_gpu = _gpu() if rate else None
        rate = rate or _history(ds, step)
        for ref in step.reads:
            sizes.setdefault(ref, held.get(ref, 0.0))
        reading = int(sum(sizes[ref] for ref in step.reads) * samples)
        if rate is None:
            how = "it has never run, and what it reads is not made yet"
            found[step.name] = Estimate(shards, samples, None, None, reading, how)
        else:
            sizes |= {ref: rate[1] / len(step.outputs) for ref in step.outputs}
            seconds, size = round(rate[0] * samples, 1), int(rate[1] * samples)
            found[step.name] = Estimate(shards, samples, seconds, size, reading, how, on_gpu)
    return found


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def committed_first(ds: Dataset, steps: Sequence[Step]) -> dict[Ref, float]:
    """Bytes a sample of the first shard of everything that the steps read and that is committed there."""
    refs = {ref for step in steps for ref in step.reads}
    found = {ref: ds.sound_commit(*ref, 0) for ref in refs} if ds.shards() else {}
    return {ref: commit.bytes / max(1, commit.count) for ref, commit in found.items() if commit is not None}


def _timed(ds: Dataset, target: Target, k: int, files: Mapping[str, Path]) -> tuple[float, float] | None:
    """(seconds, bytes) a sample of a few photos of shard k; None where the labeler fails on them."""
    known = all_modalities()
    labeler = target.build(ds, files)
    reads = {name: (known[name], recipe) for name, recipe in target.reads if name != "rgb"}
    samples = [s for s in ds.samples(k, reads, pixels=labeler.uses_pixels) if not isinstance(s, Null)][:TIMED]
    if not samples:
        return None
    try:
        Batches(labeler, 1).label(samples[:1])  # the first call builds what later ones use
        start = time.perf_counter()
        rows = Batches(labeler, target.batch).label(samples)
        seconds = time.perf_counter() - start
    except Incomplete:
        return None
    size = 0
    with ds.storage.scratch() as folder:
        for name, _ in target.outputs:
            path = folder / f"{name}.{known[name].container}"
            write_labels(path, known[name], [s.id for s in samples], [row[name] for row in rows], {})
            size += path.stat().st_size
    return seconds / len(samples), size / len(samples)


def _history(ds: Dataset, step: Step) -> tuple[float, float] | None:
    """(seconds, bytes) a sample of what was committed of these modalities under any recipe."""
    names = {name for name, _ in step.outputs}
    commits: list[Commit] = [c for ref in refs_on(ds) if ref[0] in names for c in ds.commits(*ref).values()]
    samples = sum(c.count for c in commits if c.modality == step.outputs[0][0])
    if not samples:
        return None
    # One run of a labeler writes all its modalities; each of their commits carries the same seconds.
    seconds = sum(c.seconds for c in commits if c.modality == step.outputs[0][0])
    return seconds / samples, sum(c.bytes for c in commits) / samples
