"""Labels one shard with one labeler: read, batch, check, write, commit. Runs inside a worker; idempotent.

What is wrong with one sample costs that sample: a batch that raises is split until the sample that raises is alone, and
becomes a null with the reason. A labeler that fails on every sample of a shard is broken, and the shard is refused, not
nulled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, LabelError, Modality, Null
from labelers.core.registry import all_modalities
from pipeline.dataset import Dataset
from pipeline.errors import Incomplete, ManymodalError
from pipeline.plan import Step
from pipeline.recipes import Target
from pipeline.records import Commit, shard_name
from pipeline.shard_task import look, replace
from pipeline.shards import verify_labels, write_labels

Labels = dict[str, Label | Null]
FAILED = "labeler failed: "  # how the reason of a null begins when the labeler raised or broke its promise


@dataclass(frozen=True)
class MakeLabelWorker:
    """Builds the worker of a target in its process; pickles."""

    root: str
    target: Target

    def __call__(self) -> Callable[[int, int], tuple[Commit, ...]]:
        ds = Dataset.open(self.root)
        labeler = self.target.build(ds)
        return lambda shard, attempt: label_shard(ds, labeler, self.target, shard, attempt)


def label_shard(ds: Dataset, labeler: Labeler, target: Target, k: int, attempt: int = 1) -> tuple[Commit, ...]:
    """Make and commit every output of the target for shard k; returns the commits in force. Outputs already current are
    left.
    """
    start = time.monotonic()
    due = look(ds, Step(target.labeler, target.reads, target.outputs), k)
    commits = dict(due.current)
    if due.outputs:
        known = all_modalities()
        reads = {name: (known[name], recipe) for name, recipe in target.reads if name != "rgb"}
        rows = label_samples(labeler, ds.samples(k, reads, pixels=labeler.uses_pixels), target.batch)
        seconds = round(time.monotonic() - start, 3)
        for name, recipe in due.outputs:
            modality, labels = known[name], [row[name] for row in rows]
            file = shard_name(k, "tar" if modality.container == "tar" else "parquet")
            draft = Commit(name, recipe, k, file, 0, 0, "", seconds=seconds, attempt=attempt)
            commits[name, recipe] = replace(
                ds, draft,
                partial(write_labels, modality=modality, ids=ds.ids(k), labels=labels, inputs=due.inputs),
                partial(verify_labels, modality=modality),
            )  # fmt: skip
    return tuple(commits[ref] for ref in target.outputs)


def label_samples(labeler: Labeler, samples: Sequence[Sample], batch: int) -> list[Labels]:
    """One dict of checked labels a sample, in order. Raises Incomplete where the labeler fails on every one of several
    samples.
    """
    rows: list[Labels] = []
    for i in range(0, len(samples), batch):
        rows += _label_batch(labeler, samples[i : i + batch])
    failures = [reason for row in rows if (reason := _failure(row))]
    if len(rows) > 1 and len(failures) == len(rows):
        raise Incomplete(f"{labeler.name} fails on every sample of the shard; nothing committed. First: {failures[0]}")
    return rows


def _failure(row: Labels) -> str:
    return next((v.reason for v in row.values() if isinstance(v, Null) and v.reason.startswith(FAILED)), "")


def _label_batch(labeler: Labeler, samples: Sequence[Sample]) -> list[Labels]:
    """Label a batch; where it raises or breaks its promise, halve it until the sample at fault is alone."""
    try:
        rows = labeler.label(samples)
        if len(rows) != len(samples):
            raise LabelError(f"{len(rows)} results for {len(samples)} samples")
        return [{m.name: _checked(m, row) for m in labeler.produces} for row in rows]
    except (MemoryError, ImportError, ManymodalError):
        raise
    except Exception as error:
        if len(samples) == 1:
            null = Null(f"{FAILED}{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return [{m.name: null for m in labeler.produces}]
        half = len(samples) // 2
        return _label_batch(labeler, samples[:half]) + _label_batch(labeler, samples[half:])


def _checked(modality: Modality, row: Labels) -> Label | Null:
    if modality.name not in row:
        raise LabelError(f"{modality.name}: missing from the labeler's result")
    label = row[modality.name]
    if isinstance(label, Null):
        if not label.reason:
            raise LabelError(f"{modality.name}: a Null needs a reason")
        return label
    modality.check(label)
    return label
