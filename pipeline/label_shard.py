"""Labels one shard with one labeler: read, label in batches, write, commit. Runs inside a worker; idempotent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from labelers.core.labeler import Labeler
from labelers.core.registry import all_modalities
from pipeline.batches import Batches, unguarded
from pipeline.dataset import Dataset
from pipeline.plan import Step
from pipeline.recipes import Target
from pipeline.records import Commit, shard_name
from pipeline.shard_task import look, replace
from pipeline.shards import verify_labels, write_labels
from pipeline.suspects import Suspects


@dataclass(frozen=True)
class MakeLabelWorker:
    """Builds the worker of a target in its process; pickles. seconds: time limit of a batch, 0 for none."""

    root: str
    target: Target
    seconds: float = 0.0

    def __call__(self) -> Callable[[int, int], tuple[Commit, ...]]:
        ds = Dataset.open(self.root)
        labeler = self.target.build(ds)
        return lambda shard, attempt: label_shard(ds, labeler, self.target, shard, attempt, self.seconds)


def label_shard(
    ds: Dataset, labeler: Labeler, target: Target, k: int, attempt: int = 1, seconds: float = 0.0
) -> tuple[Commit, ...]:
    """Make and commit every output of the target for shard k; the commits in force. Outputs already current are left.

    attempt: from 1; after the first, which a worker did not survive, samples are labelled one by one.
    """
    start = time.monotonic()
    due = look(ds, Step(target.labeler, target.reads, target.outputs), k)
    commits = dict(due.current)
    if due.outputs:
        known = all_modalities()
        reads = {name: (known[name], recipe) for name, recipe in target.reads if name != "rgb"}
        suspects = Suspects(ds.storage, f"{target.labeler}@{due.outputs[0][1]}", k)
        marks = suspects.marks()
        careful = attempt > 1 or bool(marks)
        batches = Batches(labeler, 1 if careful else target.batch, seconds, suspects.at if careful else unguarded)
        rows = batches.label(ds.samples(k, reads, pixels=labeler.uses_pixels), suspects.poison() if marks else ())
        spent = round(time.monotonic() - start, 3)
        for name, recipe in due.outputs:
            modality, labels = known[name], [row[name] for row in rows]
            file = shard_name(k, "tar" if modality.container == "tar" else "parquet")
            draft = Commit(name, recipe, k, file, 0, 0, "", seconds=spent, attempt=attempt)
            commits[name, recipe] = replace(
                ds, draft,
                partial(write_labels, modality=modality, ids=ds.ids(k), labels=labels, inputs=due.inputs),
                partial(verify_labels, modality=modality),
                inputs=due.inputs,
            )  # fmt: skip
        if careful:
            suspects.clear()
    return tuple(commits[ref] for ref in target.outputs)
