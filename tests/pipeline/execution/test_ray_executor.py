"""The Ray executor does what the local one does, survives killed actors, and gives up on an item that kills them all."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.config import Limits
from pipeline.errors import ConfigError, Incomplete, ManymodalError, StorageError
from pipeline.execution.ray_executor import RayExecutor
from pipeline.execution.work import MAX_ATTEMPTS, Crew, Done, Pool, Worker
from pipeline.plan import Item
from pipeline.records import Commit

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


class Notes:
    """Makes workers that write a line for each call and misbehave as told; pickles."""

    def __init__(self, folder: Path, deadly: int = -1, once: bool = False, by: int = signal.SIGKILL) -> None:
        self.folder, self.deadly, self.once, self.by = folder, deadly, once, by

    def __call__(self) -> Notes:
        return self

    def call(self, shard: int, number: int) -> tuple[Commit, ...]:
        (self.folder / f"{shard}-{number}-{os.getpid()}").touch()
        if shard == self.deadly and (number == 1 or not self.once):
            os.kill(os.getpid(), self.by)
        if shard == 7:
            raise ValueError("seven")
        return (Commit("m", "r", shard, "f", 0, 0, ""),)

    def make(self) -> object:
        return self.call


def run(tmp_path: Path, items: list[Item], **more: bool | int) -> list[Done]:
    ended: list[Done] = []
    notes = Notes(tmp_path, **more)  # type: ignore[arg-type]
    RayExecutor().run({i.step: Pool(notes.make, cpu=0.5) for i in items}, items, ended.append)  # type: ignore[arg-type]
    return ended


def test_all_items_once_in_order(tmp_path: Path) -> None:
    items = [Item("a", k, "missing") for k in range(8)] + [Item("b", k, "missing", (("a", k),)) for k in range(8)]
    ended = run(tmp_path, items)
    done = [(e.step, e.shard) for e in ended if not e.error]
    assert sorted(done) == [(s, k) for s in "ab" for k in range(7)]
    assert all(done.index(("a", k)) < done.index(("b", k)) for k in range(7))
    errors = {(e.step, e.shard): e.error for e in ended if e.error}
    assert errors["a", 7] == "ValueError: seven"
    assert errors["b", 7].startswith("not tried")


def test_a_killed_actor_is_replaced_and_its_item_tried_again(tmp_path: Path) -> None:
    ended = run(tmp_path, [Item("a", k, "missing") for k in range(4)], deadly=2, once=True)
    assert sorted((e.shard, e.error) for e in ended) == [(k, "") for k in range(4)]
    assert sorted(p.name.split("-")[1] for p in tmp_path.glob("2-*")) == ["1", "2"]


def test_a_worker_that_stands_still_is_replaced(tmp_path: Path) -> None:
    notes = Notes(tmp_path, deadly=1, once=True, by=signal.SIGSTOP)
    ended: list[Done] = []
    items = [Item("a", k, "missing") for k in range(3)]
    RayExecutor(Limits(silence_seconds=2)).run({"a": Pool(notes.make, cpu=0.5)}, items, ended.append)  # type: ignore[arg-type]
    assert sorted((e.shard, e.error) for e in ended) == [(k, "") for k in range(3)]
    first = next(p for p in tmp_path.glob("1-1-*"))
    with contextlib.suppress(ProcessLookupError):  # Ray ends it; a stopped process may take its time
        os.kill(int(first.name.split("-")[2]), signal.SIGKILL)


def test_workers_that_die_while_they_are_made_fail_their_step(tmp_path: Path) -> None:
    ended: list[Done] = []
    items = [Item(s, k, "missing") for s in "ab" for k in range(3)]
    pools = {"a": Pool(lambda: os._exit(3), cpu=0.5), "b": Pool(Notes(tmp_path).make, cpu=0.5)}
    RayExecutor().run(pools, items, ended.append)
    errors = {(e.step, e.shard): e.error for e in ended}
    assert all(errors["a", k].startswith("the worker cannot start") for k in range(3))
    assert [errors["b", k] for k in range(3)] == [""] * 3


def test_one_worker_that_cannot_be_made_fails_nothing(tmp_path: Path) -> None:
    """The first of its pool, as a worker or as a crew that cannot set up its step."""

    def first(name: str) -> bool:
        try:
            (tmp_path / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def worker() -> Worker:
        if first("a"):
            raise RuntimeError("this GPU is taken")
        return lambda shard, number: ()

    def crew() -> Crew:
        broken = first("b")
        return lambda steps, shard, number: [
            Done(s, shard, error="broken", hopeless=True) if broken else Done(s, shard) for s in steps
        ]

    ended: list[Done] = []
    items = [Item(s, k, "missing") for s in "ab" for k in range(4)]
    RayExecutor().run({"a": Pool(worker, cpu=0.5), "b": Pool(crew, cpu=0.5, steps=("b",))}, items, ended.append)
    assert sorted((e.step, e.shard, e.error) for e in ended) == [(s, k, "") for s in "ab" for k in range(4)]


def test_a_crew_that_can_never_set_up_a_step_fails_it_and_no_other() -> None:
    def crew() -> Crew:
        return lambda steps, shard, number: [
            Done(s, shard, error="broken" * (s == "a"), hopeless=s == "a") for s in steps
        ]

    pool, ended = Pool(crew, cpu=0.5, steps=("a", "b")), list[Done]()
    items = [Item(s, k, "missing") for s in "ab" for k in range(12)]
    RayExecutor().run({"a": pool, "b": pool}, items, ended.append)
    assert sorted((e.step, e.shard, e.error) for e in ended) == [
        (s, k, "broken" * (s == "a")) for s in "ab" for k in range(12)
    ]


@pytest.mark.parametrize(
    "error", [StorageError("No space is left in /cache."), ConfigError("AWS_PROFILE: is unknown.")]
)
def test_trouble_of_storage_or_configuration_ends_the_run_as_such(error: ManymodalError) -> None:
    def make() -> Worker:
        raise error

    with pytest.raises(type(error), match=str(error)):
        RayExecutor().run({"a": Pool(make, cpu=0.5)}, [Item("a", 0, "missing")], lambda _: None)


def test_an_autoscaler_is_asked_for_room_for_what_is_ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray.autoscaler.sdk

    asked: list[list[dict[str, float]]] = []
    monkeypatch.setattr(ray.autoscaler.sdk, "request_resources", lambda bundles: asked.append(bundles))
    cpu = ray.cluster_resources()["CPU"]
    pool = Pool(Notes(tmp_path).make, cpu=cpu)  # type: ignore[arg-type]
    RayExecutor(Limits(node_seconds=60)).run({"a": pool}, [Item("a", k, "missing") for k in range(5)], lambda _: None)
    assert asked[0] == [{"CPU": cpu}] * 5, "one of them has room"
    assert asked[-1] == [], "and nothing once the run is over"


def test_a_pool_of_several_steps_looks_at_a_shard_once(tmp_path: Path) -> None:
    def make() -> Crew:
        def crew(steps: Sequence[str], shard: int, number: int) -> list[Done]:
            (tmp_path / f"{shard}-{'+'.join(steps)}").touch()
            return [Done(step, shard) for step in steps]

        return crew

    pool, ended = Pool(make, cpu=0.5, steps=("a", "b")), list[Done]()
    items = [Item(s, k, "missing") for s in "ab" for k in range(30)]
    RayExecutor().run({"a": pool, "b": pool}, items, ended.append)
    assert sorted((e.step, e.shard) for e in ended) == [(s, k) for s in "ab" for k in range(30)]
    names = [p.name for p in tmp_path.iterdir()]
    together = [name for name in names if name.endswith("-a+b")]
    assert len(together) >= 20, "only the last few shards, fewer than there are workers, are shared out"
    assert len(names) == 60 - len(together)


def test_an_item_that_kills_every_worker_fails_after_bounded_attempts(tmp_path: Path) -> None:
    ended = run(tmp_path, [Item("a", k, "missing") for k in range(4)], deadly=1)
    errors = {e.shard: e.error for e in ended}
    assert "worker died" in errors[1]
    assert f"gave up after {MAX_ATTEMPTS} attempts" in errors[1]
    assert [errors[k] for k in (0, 2, 3)] == [""] * 3
    assert len(list(tmp_path.glob("1-*"))) == MAX_ATTEMPTS


def test_more_than_the_cluster_has_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match="10000 CPUs"):
        RayExecutor().run({"a": Pool(Notes(tmp_path).make, cpu=10000)}, [Item("a", 0, "missing")], lambda _: None)  # type: ignore[arg-type]


def test_gpu_shares_are_dropped_where_there_is_no_gpu(tmp_path: Path) -> None:
    import ray

    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    ended: list[Done] = []
    RayExecutor().run({"a": Pool(Notes(tmp_path).make, gpu=0.5)}, [Item("a", 0, "missing")], ended.append)  # type: ignore[arg-type]
    assert [e.error for e in ended] == [""]
