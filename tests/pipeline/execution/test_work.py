"""The queue both executors share: order, retries, and what follows from a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.execution.local import LocalExecutor
from pipeline.execution.work import MAX_ATTEMPTS, MAX_LOSSES, Done, Pool, Queue, Taken, Worker, attempt
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
    while (taken := queue.take(["a"])) is not None:
        numbers.append(taken.number)
        queue.retry(taken, "worker died")
    assert numbers == list(range(1, MAX_ATTEMPTS + 1))
    assert "gave up after" in ended[0].error


def test_errors_of_the_system_stop_the_run(tmp_path: Path) -> None:
    def full(shard: int, number: int) -> tuple[()]:
        raise StorageError("full")

    with pytest.raises(StorageError):
        attempt(full, ["a"], 0, 1)


def test_a_lost_node_is_not_held_against_the_item() -> None:
    ended: list[Done] = []
    queue = Queue(ITEMS[:1], ended.append)
    for _ in range(MAX_LOSSES):
        taken = queue.take(["a"])
        assert taken is not None
        assert taken.number == 1, "or it would be labelled sample by sample"
        queue.retry(taken, "node gone", blame=False)
    assert queue.take(["a"]) is None
    assert "gave up after" in ended[0].error


def test_steps_of_one_pool_are_taken_together_shard_by_shard() -> None:
    items = [Item(s, k, "missing") for s in ("a", "b") for k in (0, 1)] + [Item("c", 0, "missing", (("a", 0),))]
    queue = Queue(items, lambda _: None)
    first = queue.take(["a", "b", "c"])
    assert first == Taken(("a", "b"), 0, 1)
    queue.done(Done("a", 0))
    queue.retry(first, "worker died")
    later = [queue.take(["a", "b", "c"]) for _ in range(4)]
    assert sorted(later, key=str) == [
        Taken(("a", "b"), 1, 1), Taken(("a",), 0, 2), Taken(("b",), 0, 2), Taken(("c",), 0, 1),
    ], "after a death each comes alone, so that it cannot be put down to another"  # fmt: skip
    assert queue.take(["a", "b", "c"]) is None


def test_a_worker_that_cannot_start_fails_its_step_at_once() -> None:
    ended: list[Done] = []
    made = []

    def broken() -> None:
        made.append(1)
        raise ValueError("no weights")

    def fine() -> Worker:
        return lambda shard, number: ()

    LocalExecutor().run(
        {"a": Pool(broken), "b": Pool(fine), "c": Pool(fine)}, [*ITEMS, Item("c", 5, "missing")], ended.append
    )
    errors = {(e.step, e.shard): e.error for e in ended}
    assert made == [1], "not once a shard"
    assert errors["a", 0] == errors["a", 1] == "the worker cannot start: ValueError: no weights"
    assert errors["b", 0].startswith("not tried")
    assert errors["c", 5] == ""
    assert len(ended) == len(ITEMS) + 1
