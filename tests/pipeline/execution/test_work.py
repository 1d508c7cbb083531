"""The queue both executors share: order, retries, and what follows from a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.execution.local import LocalExecutor
from pipeline.execution.work import MAX_ATTEMPTS, Done, Pool, Queue, attempt
from pipeline.plan import Item

ITEMS = [
    Item("a", 0, "missing"),
    Item("a", 1, "missing"),
    Item("b", 0, "missing", (("a", 0),)),
    Item("b", 1, "missing", (("a", 1),)),
    Item("c", 0, "stale", (("a", 0), ("b", 0))),
]


def test_nothing_runs_before_what_it_waits_for() -> None:
    ended: list[Done] = []
    ran: list[tuple[str, int]] = []

    def make(step: str) -> Pool:
        return Pool(lambda: lambda shard, number: ran.append((step, shard)) or ())  # type: ignore[func-returns-value]

    LocalExecutor().run({s: make(s) for s in "abc"}, ITEMS, ended.append)
    assert sorted(ran) == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0)]
    assert [e.error for e in ended] == [""] * 5
    for item in ITEMS:
        assert all(ran.index(before) < ran.index((item.step, item.shard)) for before in item.after)


def test_a_failure_fails_what_waits_for_it_and_nothing_else() -> None:
    ended: list[Done] = []

    def fail(shard: int, number: int) -> tuple[()]:
        if shard == 0:
            raise ValueError("broken")
        return ()

    LocalExecutor().run({s: Pool(lambda: fail) for s in "abc"}, ITEMS, ended.append)
    found = {(e.step, e.shard): e.error for e in ended}
    assert found["a", 0] == "ValueError: broken"
    assert found["b", 0].startswith("not tried")
    assert found["c", 0].startswith("not tried")
    assert found["a", 1] == found["b", 1] == ""


def test_a_dying_worker_is_tried_a_bounded_number_of_times() -> None:
    ended: list[Done] = []
    queue = Queue(ITEMS[:1], ended.append)
    numbers = []
    while (taken := queue.take("a")) is not None:
        numbers.append(taken[1])
        queue.retry("a", taken[0], "worker died")
    assert numbers == list(range(1, MAX_ATTEMPTS + 1))
    assert "gave up after" in ended[0].error


def test_errors_of_the_system_stop_the_run(tmp_path: Path) -> None:
    def full(shard: int, number: int) -> tuple[()]:
        raise StorageError("full")

    with pytest.raises(StorageError):
        attempt(full, "a", 0, 1)
