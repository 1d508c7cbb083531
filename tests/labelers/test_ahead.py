"""Work ahead: in order, early by a bounded number of items, and within the CPUs that a worker was given."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import cv2
import pyarrow
import pytest

import labelers.core.ahead
from labelers.core.ahead import ahead, confine, helpers


@pytest.fixture
def unconfined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `confine` sets is set back."""
    threads, cpus = cv2.getNumThreads(), pyarrow.cpu_count()
    monkeypatch.setattr(labelers.core.ahead, "_spare", None)
    yield
    cv2.setNumThreads(threads)
    pyarrow.set_cpu_count(cpus)


def threads_of(asked: int) -> set[str]:
    """Names of the threads that do the work of `asked` helpers."""
    barrier = threading.Barrier(2)

    def who(item: int) -> str:
        if threading.current_thread() is not threading.main_thread() and asked > 1 and item < 2:
            barrier.wait(10)  # so that a second thread takes the other one
        return threading.current_thread().name

    return set(ahead(who, range(8), asked))


def test_a_worker_of_one_cpu_has_one_thread(unconfined: None) -> None:
    assert threads_of(1) == {"ahead_0"}
    confine(1.0)
    assert threads_of(1) == threads_of(4) == {"MainThread"}
    assert cv2.getNumThreads() == pyarrow.cpu_count() == 1
    confine(0.5)
    assert threads_of(2) == {"MainThread"}


def test_more_cpus_and_gpus_have_helpers(unconfined: None) -> None:
    confine(3.0)
    assert threads_of(4) == {"ahead_0", "ahead_1"} and cv2.getNumThreads() == 3
    confine(1.0, gpu=0.5)
    assert "MainThread" not in threads_of(2), "a GPU does not wait for pictures"


@pytest.mark.parametrize("cpus", [None, 1.0])
def test_order_errors_and_bounds(unconfined: None, cpus: float | None) -> None:
    if cpus:
        confine(cpus)
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    results = ahead(lambda i: 60 // (5 - i), items(), 1, most=4)
    assert [next(results) for _ in range(5)] == [12, 15, 20, 30, 60]
    assert len(taken) <= 10
    with pytest.raises(ZeroDivisionError):
        next(results)
    with helpers(1, "x") as pool:
        assert pool.submit(pow, 2, exp=3).result() == 8
