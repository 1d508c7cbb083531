"""F4: nodes of a Ray cluster that are killed and that stand still, in the middle of a job."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pipeline.label
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.execution.ray_executor import RayExecutor, _Run
from pipeline.execution.work import Crew, Done, Pool, Worker
from pipeline.label import label
from pipeline.label_shard import MakeLabelCrew
from pipeline.plan import Item
from pipeline.recipes import Target
from pipeline.records import shard_name
from tests.faults.world import new_world
from tests.world import assert_world, fake_config, register_fakes

pytestmark = pytest.mark.ray

PATIENCE_S = 120.0  # a worker does not wait longer than this for the others


@dataclass(frozen=True)
class MakeFakeCrew:
    """A crew that knows the fake labelers and notes who did what; pickles. frozen: the node that is to stand still.

    What must be under way when a node falls does not depend on how fast the machine is: workers wait for each other.
    Nobody works before all three nodes have begun; and once the first has fallen, the second begins things and does not
    end them, so that it holds something when it falls; but not what the first left, which the test waits for.
    """

    inner: MakeLabelCrew
    folder: Path
    frozen: str

    def __call__(self) -> Crew:
        import ray

        register_fakes()
        crew, node = self.inner(), ray.get_runtime_context().get_node_id()

        def noted(steps: Sequence[str], shard: int, number: int) -> list[Done]:
            item = f"{'+'.join(steps)}-{shard}"
            again = any(self.folder.glob(f"*-{item}-*"))
            (self.folder / f"{node}-{item}-{time.time_ns()}").touch()
            wait_until(lambda: len(seen(self.folder)) == 3)
            if node == self.frozen and not again and (self.folder / KILLED).exists():
                wait_until(lambda: False)
            return crew(steps, shard, number)

        return noted


KILLED = "killed"


def seen(folder: Path) -> set[str]:
    """The nodes that have begun something: notes are called NODE-ITEM, other marks have no hyphen."""
    return {node for node, _, item in (path.name.partition("-") for path in folder.iterdir()) if item}


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Three raylets that declare a CPU and a GPU each; the first is also the driver's."""
    import ray
    from ray.cluster_utils import Cluster

    # Ray's own health checks are slow by default; the watchdog under test does not wait for them.
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False})
    nodes = [found.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]
    ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    for node in nodes:  # first, or what stands still would be waited for
        signal_all(node, signal.SIGKILL)
    ray.shutdown()
    found.shutdown()


def signal_all(node: Any, number: int) -> None:
    """A signal to a raylet, and then to all its workers: what a machine that is lost or paused does to them."""
    for info in node.all_processes["raylet"]:
        pids = [info.process.pid]
        for pid in pids:  # grows on the way
            with contextlib.suppress(FileNotFoundError):
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass
class Fate:
    """Kills one node and stops the other while they hold something, and times how long that takes to be committed."""

    root: Path
    nodes: list[Any]
    folder: Path
    done: int = 0

    def __post_init__(self) -> None:
        self.struck: dict[str, float] = {}
        self.held: dict[str, set[Path]] = {}
        self.recovered: dict[str, float] = {}

    def __call__(self, step: str, done: int, total: int, note: str) -> None:
        self.done += 1
        for name, before in self.struck.items():
            if name not in self.recovered and all(path.exists() for path in self.held[name]):
                self.recovered[name] = time.monotonic() - before
        if self.done >= 12 and KILLED not in self.struck:
            self.strike(KILLED, 0, signal.SIGKILL)
        elif KILLED in self.recovered and "frozen" not in self.struck:
            self.strike("frozen", 1, signal.SIGSTOP)

    def strike(self, name: str, which: int, number: int) -> None:
        """Only while the node has begun something that is not committed."""
        begun = [p.name.split("-")[1:3] for p in self.folder.glob(f"{self.nodes[which].node_id}-*")]
        first = {"fake_base": "fake_vector", "fake_sum": "fake_sum"}
        folders = {step: next(self.root.glob(f"{modality}@*"), None) for step, modality in first.items()}
        commits = {folders[step] / "_commits" / shard_name(int(k), "json") for step, k in begun if folders[step]}
        self.held[name] = {path for path in commits if not path.exists()}
        if self.held[name]:
            signal_all(self.nodes[which], number)
            self.struck[name] = time.monotonic()
            (self.folder / name).touch()


def test_f4_nodes_are_killed_and_stand_still(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, ids = new_world(tmp_path, 200)
    config = fake_config(root, executor="ray")
    config.limits.silence_seconds = 6
    folder = tmp_path / "notes"
    folder.mkdir()

    def pools(config: Config, targets: Sequence[Target]) -> Mapping[str, Pool]:
        crews = {t.labeler: MakeFakeCrew(MakeLabelCrew(str(root), (t,)), folder, cluster[1].node_id) for t in targets}
        return {name: Pool(crew, 0.5, 0.5, steps=(name,)) for name, crew in crews.items()}

    monkeypatch.setattr(pipeline.label, "pools_of", pools)
    fate = Fate(root, cluster, folder)
    start = time.monotonic()
    report = label(Dataset.open(str(root)), config, progress=fate)
    with capsys.disabled():
        took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in fate.recovered.items())
        sys.stdout.write(
            f"\nF4: {report.todo} items in {time.monotonic() - start:.1f} s; what nodes held was done: {took}\n"
        )
    assert report.failed == 0, report.errors
    assert set(fate.struck) == {"killed", "frozen"}, "the job was over before the nodes fell"
    assert set(fate.recovered) == {"killed", "frozen"}
    assert max(fate.recovered.values()) < 60
    stored = list(Dataset.open(str(root)).commits("fake_sum", config_recipe(root)).values())
    assert report.steps["fake_sum"]["samples"] == sum(c.count for c in stored) == len(ids)
    assert report.steps["fake_sum"]["nulls"] == sum(len(c.nulls) for c in stored)
    monkeypatch.undo()
    assert_world(root, ids, fake_config(root))


def config_recipe(root: Path) -> str:
    return Dataset.open(str(root)).current("fake_sum")


def test_a_node_where_no_worker_can_be_made_is_left_out(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers on the others are not there before the executor has seen that one end."""
    bad, ended, end = cluster[0].node_id, tmp_path / "ended", _Run._end
    monkeypatch.setattr(_Run, "_end", lambda run, member: (end(run, member), ended.touch()))

    def make() -> Worker:
        import ray

        node = ray.get_runtime_context().get_node_id()
        (tmp_path / f"{node}-{time.time_ns()}").touch()
        if node == bad:
            raise RuntimeError("the disk is full")
        wait_until(ended.exists)
        return lambda shard, number: ()

    done: list[Done] = []
    items = [Item("a", k, "missing") for k in range(6)]
    RayExecutor().run({"a": Pool(make, 1.0, 1.0)}, items, done.append)
    assert sorted((e.shard, e.error) for e in done) == [(k, "") for k in range(6)]
    assert len(list(tmp_path.glob(f"{bad}-*"))) == 1, "tried once"
