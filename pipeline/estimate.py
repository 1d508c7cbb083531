"""What a plan will cost: seconds and bytes a sample, from a sample that is timed now, or from what was committed before.

A labeler whose inputs are there labels a few photos of the first shard that is due, in this process; its start-up is
not counted. A step that cannot be tried (what it reads is not made yet, or it is not a labeler) is estimated from the
commits of any recipe of its modalities; one that never ran has no estimate.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labelers.core.modality import Null
from labelers.core.registry import all_modalities
from pipeline.batches import Batches
from pipeline.care.verify import refs_on
from pipeline.dataset import Dataset
from pipeline.errors import Incomplete
from pipeline.plan import Item, Step
from pipeline.recipes import Target
from pipeline.records import Commit
from pipeline.shards import write_labels

TIMED = 8  # photos


@dataclass(frozen=True)
class Estimate:
    """For all that a step has to do. seconds: of one worker; None where nothing is known. how: where it comes from."""

    samples: int
    seconds: float | None
    bytes: int | None
    how: str


def estimate(
    ds: Dataset, steps: Sequence[Step], items: Sequence[Item], targets: Mapping[str, Target], files: Mapping[str, Path]
) -> dict[str, Estimate]:
    """By step, for those that have something to do. targets: of the steps that are labelers. files: weights by sha256,
    which may not lie in the data set yet.
    """
    found: dict[str, Estimate] = {}
    for step in steps:
        due = [item for item in items if item.step == step.name]
        if not due:
            continue
        samples = sum(len(ds.index(item.shard)) for item in due)
        target, first = targets.get(step.name), next((i.shard for i in due if not i.after), None)
        rate = _timed(ds, target, first, files) if target is not None and first is not None else None
        how = f"{TIMED} photos timed now" if rate else "earlier shards of this modality"
        rate = rate or _history(ds, step)
        if rate is None:
            found[step.name] = Estimate(samples, None, None, "it has never run, and what it reads is not made yet")
        else:
            found[step.name] = Estimate(samples, round(rate[0] * samples, 1), int(rate[1] * samples), how)
    return found


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
