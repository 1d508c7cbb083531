"""Labels a list of samples in batches, so that what is wrong with one sample costs that sample.

A batch that raises, breaks its promise or takes too long is halved until the sample at fault is alone, and becomes a
null with the reason. A batch that does not fit into memory is halved too, and the smaller size is kept. A labeler that
fails on every sample is broken: that is an error, not a list of nulls. Errors of the system itself (no memory for a
single sample, a module that cannot be imported, the storage) are never a sample's fault and are raised.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from types import FrameType

from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, LabelError, Modality, Null
from pipeline.errors import Incomplete, ManymodalError

Labels = dict[str, Label | Null]
Guard = Callable[[Sequence[Sample]], contextlib.AbstractContextManager[None]]
FAILED = "labeler failed: "  # how the reason of a null begins when the labeler raised or broke its promise
KILLED = "killed the worker"


class _TooLong(Exception):
    pass


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise inside the block once it has run for `seconds`. Without effect for 0, and outside the main thread, where
    Python delivers no signals; what never returns to Python is ended by the executor's limit on the whole shard.
    """
    if seconds <= 0 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooLong(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def unguarded(samples: Sequence[Sample]) -> Iterator[None]:
    yield


class Batches:
    """One labeler and how it is called: images a batch, seconds a batch may take (0: no limit), a guard round it."""

    def __init__(self, labeler: Labeler, size: int, seconds: float = 0.0, guard: Guard = unguarded) -> None:
        self.labeler, self.size, self.seconds, self.guard = labeler, size, seconds, guard

    def label(self, samples: Sequence[Sample | Null], poison: Collection[str] = ()) -> list[Labels]:
        """One dict of checked labels a sample, in order. A sample that is a Null already has that Null everywhere.

        poison: ids that are not even tried, because they killed workers before. Incomplete where the labeler fails on
        every one of several samples.
        """
        real = [s for s in samples if not isinstance(s, Null) and s.id not in poison]
        rows: dict[str, Labels] = {}
        at = 0
        while at < len(real):
            batch = real[at : at + self.size]
            at += len(batch)
            rows |= {s.id: row for s, row in zip(batch, self._batch(batch), strict=True)}
        failures = [reason for row in rows.values() if (reason := _failure(row))]
        if len(rows) > 1 and len(failures) == len(rows):
            raise Incomplete(
                f"{self.labeler.name} fails on every sample of the shard; nothing committed. First: {failures[0]}"
            )
        return [self._nulls(s) if isinstance(s, Null) else rows.get(s.id) or self._nulls(_KILLER) for s in samples]

    def _nulls(self, null: Null) -> Labels:
        return {modality.name: null for modality in self.labeler.produces}

    def _batch(self, samples: Sequence[Sample]) -> list[Labels]:
        try:
            with self.guard(samples), time_limit(self.seconds):
                rows = self.labeler.label(samples)
            if len(rows) != len(samples):
                raise LabelError(f"{len(rows)} results for {len(samples)} samples")
            return [{m.name: _checked(m, row) for m in self.labeler.produces} for row in rows]
        except (ImportError, ManymodalError):
            raise
        except Exception as error:
            memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            if len(samples) == 1:
                if isinstance(error, MemoryError):
                    raise
                return [self._nulls(Null(f"{FAILED}{type(error).__name__.strip('_')}: {one_line(error)}"))]
            half = len(samples) // 2
            if memory:
                self.size = min(self.size, half)
            return self._batch(samples[:half]) + self._batch(samples[half:])


_KILLER = Null(f"{FAILED}{KILLED}")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _failure(row: Labels) -> str:
    return next((v.reason for v in row.values() if isinstance(v, Null) and v.reason.startswith(FAILED)), "")


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
