"""One labeler on one shard: the poison sample alone is lost, broken promises are refused, broken labelers stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, Null
from pipeline.batches import FAILED, Batches
from pipeline.errors import Incomplete, StorageError
from tests.world import FAKE_VECTOR, fake_vector

Rows = list[dict[str, Label | Null]]


class Scripted(Labeler):
    """Labels as the fake does, after a hook has had its say about the batch."""

    name = "scripted"
    version = 1
    backend = "fake"
    produces = (FAKE_VECTOR,)

    def __init__(self, hook: Callable[[Sequence[Sample], Rows], Rows]) -> None:
        super().__init__()
        self.hook, self.batches = hook, list[int]()

    def label(self, samples: Sequence[Sample]) -> Rows:
        self.batches.append(len(samples))
        return self.hook(samples, [{"fake_vector": fake_vector(s.id, "a")} for s in samples])


def samples(n: int) -> list[Sample]:
    return [Sample(f"{i:04x}", np.zeros((2, 2, 3), np.uint8)) for i in range(n)]


def failed(rows: Rows) -> list[int]:
    return [i for i, row in enumerate(rows) if isinstance(row["fake_vector"], Null)]


def spoil(kind: str, at: str) -> Callable[[Sequence[Sample], Rows], Rows]:
    """A hook that goes wrong, in one of the ways labelers do, on batches that hold sample `at`."""

    def hook(batch: Sequence[Sample], rows: Rows) -> Rows:
        place = next((i for i, s in enumerate(batch) if s.id == at), None)
        if place is None:
            return rows
        if kind == "raises":
            raise RuntimeError("bad pixel\nin line 2")
        if kind == "too few":
            return rows[:-1]
        wrong: dict[str, Label] = {
            "nan": np.full(8, np.nan, np.float32),
            "shape": np.zeros(7, np.float32),
            "dtype": np.zeros(8, np.float64),
            "no reason": Null(""),
        }
        rows[place] = {} if kind == "missing" else {"fake_vector": wrong[kind]}
        return rows

    return hook


@pytest.mark.parametrize("kind", ["raises", "too few", "nan", "shape", "dtype", "no reason", "missing"])
def test_the_sample_at_fault_alone_is_lost(kind: str) -> None:
    labeler = Scripted(spoil(kind, "0005"))
    rows = Batches(labeler, 16).label(samples(16))
    assert failed(rows) == [5]
    null = rows[5]["fake_vector"]
    assert isinstance(null, Null)
    assert null.reason.startswith(FAILED)
    assert "\n" not in null.reason
    for i in (0, 4, 6, 15):
        assert np.array_equal(rows[i]["fake_vector"], fake_vector(f"{i:04x}", "a"))
    assert len(labeler.batches) <= 1 + 2 * 4, "bisection takes 2 log2 n batches"


def test_a_labeler_that_fails_on_everything_commits_nothing() -> None:
    def hook(batch: Sequence[Sample], rows: Rows) -> Rows:
        raise RuntimeError("no kernel image")

    with pytest.raises(Incomplete, match=r"every sample.*no kernel image"):
        Batches(Scripted(hook), 2).label(samples(4))


def test_nulls_of_the_labelers_own_are_no_failure() -> None:
    rows = Batches(Scripted(lambda batch, rows: [{"fake_vector": Null("nobody")} for _ in batch]), 2).label(samples(3))
    assert [row["fake_vector"].reason for row in rows] == ["nobody"] * 3


@pytest.mark.parametrize("error", [ImportError("x"), StorageError("disk")])
def test_errors_of_the_system_are_never_a_samples_fault(error: Exception) -> None:
    def hook(batch: Sequence[Sample], rows: Rows) -> Rows:
        raise error

    with pytest.raises(type(error)):
        Batches(Scripted(hook), 2).label(samples(4))


class OutOfMemoryError(RuntimeError):
    """Named like torch's, which cannot be raised without a GPU."""


@pytest.mark.parametrize("error", [OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_makes_smaller_batches_and_loses_nothing(error: Exception) -> None:
    def hook(batch: Sequence[Sample], rows: Rows) -> Rows:
        if len(batch) > 3:
            raise error
        return rows

    labeler = Scripted(hook)
    batches = Batches(labeler, 16)
    assert failed(batches.label(samples(32))) == []
    assert batches.size == 2
    assert labeler.batches[-8:] == [2] * 8, "the size that fits is kept"


def test_no_memory_for_one_sample_is_the_systems_fault() -> None:
    def hook(batch: Sequence[Sample], rows: Rows) -> Rows:
        raise MemoryError

    with pytest.raises(MemoryError):
        Batches(Scripted(hook), 4).label(samples(4))


def test_a_hanging_sample_is_found_by_the_time_limit() -> None:
    def hook(batch: Sequence[Sample], rows: Rows) -> Rows:
        while any(s.id == "0003" for s in batch):
            pass
        return rows

    rows = Batches(Scripted(hook), 4, seconds=0.05).label(samples(8))
    assert failed(rows) == [3]
    assert "longer than 0.05 s" in rows[3]["fake_vector"].reason


def test_removed_samples_and_poison_are_not_tried() -> None:
    seen: list[str] = []

    def hook(batch: Sequence[Sample], rows: Rows) -> Rows:
        seen.extend(s.id for s in batch)
        return rows

    rows = Batches(Scripted(hook), 2, poison={"0001"}).label([*samples(2), Null("removed"), *samples(4)[2:]])
    assert seen == ["0000", "0002", "0003"]
    assert rows[2]["fake_vector"] == Null("removed")
    assert "killed the worker" in rows[1]["fake_vector"].reason
