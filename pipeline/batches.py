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
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from types import FrameType
from typing import Any

from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, LabelError, Modality, Null
from pipeline.errors import Incomplete, ManymodalError

Labels = dict[str, Label | Null]
Guard = Callable[[Sequence[Sample]], contextlib.AbstractContextManager[None]]
FAILED = "labeler failed: "  # how the reason of a null begins when the labeler raised or broke its promise
KILLED = "killed the worker"
WINDOW = 8  # batches of samples that may wait for others of their size
MOST_PIXELS = 1 << 30  # bytes of images that may wait


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


Kept = Any  # what `keep` makes of a checked row


class Batches:
    """One labeler and how it is called: images a batch, seconds a batch may take (0: no limit), a guard round it.

    Samples are added one by one and labelled as soon as a batch is full, so that a shard is never in memory as a whole;
    `keep` says what stays of each row of labels until the end. Batches depend on the order of the samples alone: the
    same shard gives the same batches. Those of a labeler with `by_resolution` hold images of one size each. busy:
    seconds spent in the labeler so far.
    """

    def __init__(
        self,
        labeler: Labeler,
        size: int,
        seconds: float = 0.0,
        guard: Guard = unguarded,
        poison: Collection[str] = (),
        keep: Callable[[Labels], Kept] = lambda row: row,
    ) -> None:
        self.labeler, self.size, self.seconds, self.guard = labeler, size, seconds, guard
        self.poison, self.keep, self.busy = poison, keep, 0.0
        self._rows: list[Kept] = []  # in order; None while the sample waits
        self._tried = 0
        self._waiting: dict[tuple[int, ...], list[tuple[int, Sample]]] = {}  # with their places
        self._pixels = 0  # bytes of images that wait
        self._failures: list[str] = []

    def label(self, samples: Sequence[Sample | Null]) -> list[Kept]:
        """All of a list at once; see `finish`."""
        for sample in samples:
            self.add(sample)
        return self.finish()

    def add(self, sample: Sample | Null) -> None:
        """The next sample. One that is a Null already has that Null everywhere; one that is poison (it killed workers
        before) is not even tried.
        """
        if isinstance(sample, Null) or sample.id in self.poison:
            self._rows.append(self.keep(self._nulls(sample if isinstance(sample, Null) else _KILLER)))
            return
        key = sample.image.shape[:2] if self.labeler.by_resolution else ()
        group = self._waiting.setdefault(key, [])
        group.append((len(self._rows), sample))
        self._rows.append(None)
        self._pixels += sample.image.nbytes
        if len(group) >= self.size:
            self._flush(key)
        elif self._pixels > MOST_PIXELS or sum(map(len, self._waiting.values())) >= WINDOW * self.size:
            self._flush(*self._waiting)

    def finish(self) -> list[Kept]:
        """Label what is left; one kept row a sample, in order. Incomplete where the labeler fails on every one of
        several samples.
        """
        self._flush(*self._waiting)
        if self._tried > 1 and len(self._failures) == self._tried:
            raise Incomplete(
                f"{self.labeler.name} fails on every sample of the shard; nothing committed. First: {self._failures[0]}"
            )
        return self._rows

    def _flush(self, *keys: tuple[int, ...]) -> None:
        for key in keys:
            waiting = self._waiting.pop(key)
            self._pixels -= sum(sample.image.nbytes for _, sample in waiting)
            self._tried += len(waiting)
            at = 0
            while at < len(waiting):  # the size may shrink on the way
                batch = waiting[at : at + self.size]
                at += len(batch)
                for (place, _), row in zip(batch, self._batch([sample for _, sample in batch]), strict=True):
                    if reason := _failure(row):
                        self._failures.append(reason)
                    self._rows[place] = self.keep(row)

    def _nulls(self, null: Null) -> Labels:
        return {modality.name: null for modality in self.labeler.produces}

    def _batch(self, samples: Sequence[Sample]) -> list[Labels]:
        start = time.perf_counter()
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
        finally:
            self.busy += time.perf_counter() - start
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
