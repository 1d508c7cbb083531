"""Labels one shard with one labeler, or with several that look at the same decoded images: read, label in batches,
write, commit. Runs inside a worker; idempotent.

Samples stream through: decoded by threads ahead of the labelers, labelled as soon as a labeler's batch is full, and
kept only in the form in which they will be stored. What is wrong with one labeler costs its own shard alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from labelers.core.ahead import helpers
from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, Null
from labelers.core.registry import all_modalities
from pipeline.batches import Batches, Labels, unguarded
from pipeline.dataset import NO_PIXELS, Dataset, with_labels
from pipeline.execution.work import Done, cannot_start, sentence
from pipeline.plan import Ref, Step
from pipeline.recipes import Target
from pipeline.records import Commit
from pipeline.shard_task import look, replace
from pipeline.shards import label_file, stored, verify_labels, write_stored
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


@dataclass(frozen=True)
class MakeLabelCrew:
    """Builds in its process what labels with any of the targets; pickles. A labeler is set up when first needed."""

    root: str
    targets: tuple[Target, ...]
    seconds: float = 0.0
    threads: int = 1

    def __call__(self) -> Callable[[Sequence[str], int, int], list[Done]]:
        ds = Dataset.open(self.root)
        targets = {target.labeler: target for target in self.targets}
        built: dict[str, Labeler] = {}

        def crew(steps: Sequence[str], shard: int, attempt: int) -> list[Done]:
            broken = []
            for step in set(steps) - set(built):
                try:
                    built[step] = targets[step].build(ds)
                except Exception as error:
                    broken.append(Done(step, shard, error=cannot_start(error), hopeless=True))
            members = [(targets[step], built[step]) for step in steps if step in built]
            done = label_together(ds, members, shard, attempt, self.seconds, self.threads) if members else []
            return done + broken

        return crew


def label_shard(
    ds: Dataset, labeler: Labeler, target: Target, k: int, attempt: int = 1, seconds: float = 0.0
) -> tuple[Commit, ...]:
    """Make and commit every output of the target for shard k; the commits in force. Outputs already current are left.

    attempt: from 1; after the first, which a worker did not survive, samples are labelled one by one.
    """
    with helpers(1, "encode") as encoders:
        job = _Job(ds, target, labeler, k, attempt, seconds, encoders, {})
        if job.due:
            for i, sample in enumerate(ds.stream(k, labeler.uses_pixels, job.rgb, commit=job.images)):
                job.add(i, sample)
        return job.finish()


def label_together(
    ds: Dataset,
    members: Sequence[tuple[Target, Labeler]],
    k: int,
    attempt: int = 1,
    seconds: float = 0.0,
    threads: int = 1,
) -> list[Done]:
    """`label_shard` with several labelers over one decode; an outcome for each, in order."""
    start = time.monotonic()
    ended: dict[str, Done] = {}
    own: dict[str, float] = {target.labeler: 0.0 for target, _ in members}
    jobs: dict[str, _Job] = {}
    seen: dict[Ref, Commit] = {}

    def each(name: str, call: Callable[[], Any]) -> Any:
        """Run one labeler's part; what it raises ends its job alone."""
        begun = time.monotonic()
        try:
            return call()
        except Exception as error:
            ended[name] = Done(name, k, error=sentence(error))
            jobs.pop(name, None)
        finally:
            own[name] += time.monotonic() - begun

    with ExitStack() as stack:
        encoders = stack.enter_context(helpers(threads, "encode"))
        for target, labeler in members:
            made = each(target.labeler, partial(_Job, ds, target, labeler, k, attempt, seconds, encoders, seen))
            if made is not None:
                jobs[target.labeler] = made
        try:
            _feed(ds, k, jobs, each, threads)
        except Exception as error:  # the images cannot be read: nobody can go on
            why = sentence(error)
            ended |= {name: Done(name, k, error=why) for name in jobs}
            jobs.clear()
        for name, job in list(jobs.items()):
            # Reading and decoding served all of them, so each bears an equal part.
            job.shared = max(0.0, time.monotonic() - start - sum(own.values())) / len(members)
            commits = each(name, job.finish)
            if commits is not None:
                ended[name] = Done(name, k, commits, own[name] + job.shared, busy=job.batches.busy)
    return [ended[target.labeler] for target, _ in members]


def _feed(
    ds: Dataset, k: int, jobs: Mapping[str, _Job], each: Callable[[str, Callable[[], Any]], Any], threads: int
) -> None:
    """Put every sample of the shard to every job that has something due."""
    due = [job for job in jobs.values() if job.due]
    if not due:
        return
    pixels = any(job.labeler.uses_pixels for job in due)
    for i, sample in enumerate(ds.stream(k, pixels, due[0].rgb, threads, due[0].images)):
        for job in due:
            if job.target.labeler in jobs:
                each(job.target.labeler, partial(job.add, i, sample))


class _Job:
    """One labeler on one shard: what is due, its labels so far, and their commits at the end."""

    def __init__(
        self,
        ds: Dataset,
        target: Target,
        labeler: Labeler,
        k: int,
        attempt: int,
        seconds: float,
        encoders: Executor,
        seen: dict[Ref, Commit],
    ) -> None:
        self.start = time.monotonic()
        self.ds, self.target, self.labeler, self.k, self.attempt = ds, target, labeler, k, attempt
        self.encoders, self.known, self.shared = encoders, all_modalities(), 0.0
        self.state = look(ds, Step(target.labeler, target.reads, target.outputs), k, seen)
        self.due: tuple[Ref, ...] = self.state.outputs
        self.rgb = next((recipe for name, recipe in target.reads if name == "rgb"), None)
        self.images = next((seen[ref] for ref in target.reads if ref[0] == "rgb"), None)
        self.columns: dict[str, list[Label | Null]] = {}
        if self.due:
            reads = [ref for ref in target.reads if ref[0] != "rgb"]
            self.columns = {ref[0]: ds.labels(self.known[ref[0]], k, ref[1], seen[ref]) for ref in reads}
        self.suspects = Suspects(ds.storage, f"{target.labeler}@{self.due[0][1] if self.due else ''}", k)
        marks = self.suspects.marks() if self.due and (attempt > 1 or self.suspects.any_before()) else None
        self.careful = attempt > 1 or bool(marks)
        guard = self.suspects.at if self.careful else unguarded
        poison = self.suspects.poison() if marks else ()
        self.batches = Batches(labeler, 1 if self.careful else target.batch, seconds, guard, poison, self._keep)

    def add(self, i: int, sample: Sample | Null) -> None:
        """The sample in row i. Those of a labeler that looks at no pixels come with an empty image."""
        sample = with_labels(sample, self.columns, i)
        if not self.labeler.uses_pixels and not isinstance(sample, Null):
            sample = dataclasses.replace(sample, image=NO_PIXELS)
        self.batches.add(sample)

    def _keep(self, row: Labels) -> dict[str, Future[Any]]:
        """The labels that are due, on the way to the form in which they are stored."""
        return {name: self.encoders.submit(stored, self.known[name], row[name]) for name, _ in self.due}

    def finish(self) -> tuple[Commit, ...]:
        """Write and commit what is due; the commits in force."""
        commits = dict(self.state.current)
        if self.due:
            rows = self.batches.finish()
            spent = round(time.monotonic() - self.start, 3)
            for name, recipe in self.due:
                modality, values = self.known[name], [row[name].result() for row in rows]
                file = label_file(modality, self.k)
                draft = Commit(name, recipe, self.k, file, 0, 0, "", seconds=spent, attempt=self.attempt)
                write = partial(
                    write_stored, modality=modality, ids=self.ds.ids(self.k), values=values, inputs=self.state.inputs
                )
                commits[name, recipe] = replace(
                    self.ds, draft, write, partial(verify_labels, modality=modality), inputs=self.state.inputs
                )
            if self.careful:
                self.suspects.clear()
        return tuple(commits[ref] for ref in self.target.outputs)
