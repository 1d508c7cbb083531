"""F1, F2, F3, F16, F25: processes that die at random moments and at each step of the protocol."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pipeline.shard_task
from pipeline.commits import commit_shard
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from pipeline.suspects import DEADLY
from tests.faults.world import DIED, all_ids, duration, forked, killed_runs, label_all, new_world
from tests.world import FakeBase, assert_world, fake_config, fake_photos

STEPS = ("written", "verified", "published", "committed")


def test_f1_killed_at_random_times(tmp_path: Path) -> None:
    root, ids = new_world(tmp_path, 15)
    seed = int(os.environ.get("MANYMODAL_SEED", "1"))
    died = killed_runs(root, 200, duration(tmp_path, 15), random.Random(seed))
    label_all(root)
    assert died >= 200, f"seed {seed}"
    assert_world(root, ids, fake_config(root))


def test_f1_a_kill_costs_at_most_the_shard_in_hand(tmp_path: Path) -> None:
    root, _ = new_world(tmp_path)
    chance, whole = random.Random(2), duration(tmp_path)
    for _ in range(10):
        forked(lambda: label_all(root), chance.uniform(0.2 * whole, whole))
        ds = Dataset.open(str(root))
        before = {p: p.stat().st_mtime_ns for p in root.glob("*@*/_commits/*.json")}
        label(ds, fake_config(root))
        after = {p: p.stat().st_mtime_ns for p in before}
        assert after == before, "what was committed before the kill is not done again"


def die_at(name: str, count: int) -> Callable[[str], None]:
    """A protocol step hook that ends the process at the `count`-th time of the step."""
    left = [count]

    def step(now: str) -> None:
        left[0] -= now == name
        if now == name and left[0] == 0:
            os._exit(DIED)

    return step


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("what", ["label", "ingest"])
def test_f2_exit_at_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, count: int, what: str
) -> None:
    root, ids = new_world(tmp_path)
    if what == "ingest":
        count = min(count, 5)
        more = fake_photos(tmp_path / "more", 65)  # forty of them are known, five shards are new

        def work() -> object:
            return ingest(Dataset.open(str(root)), [str(more)])
    else:

        def work() -> object:
            return label_all(root)

    def dying() -> None:
        pipeline.shard_task.commit_shard = partial(commit_shard, step=die_at(step, count))  # type: ignore[assignment]
        work()

    assert forked(dying) == DIED
    work()
    if what == "ingest":
        ids = all_ids(root)
        assert len(ids) == 65
    label_all(root)
    assert_world(root, ids, fake_config(root))


def test_f16_a_sample_that_kills_workers_is_found_and_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ids = new_world(tmp_path, 10)
    victim = next(i for i in ids if int(i[:4], 16) % 7)
    original = FakeBase.label

    def deadly(self: FakeBase, samples: Any) -> Any:
        if any(s.id == victim for s in samples):
            os._exit(DIED)
        return original(self, samples)

    monkeypatch.setattr(FakeBase, "label", deadly)
    deaths = 0
    while forked(lambda: label_all(root)) == DIED:
        deaths += 1
        assert deaths <= 2 + DEADLY, "bounded attempts"
        mark_first_death(root, victim)
    ds = Dataset.open(str(root))
    nulls = {i: r for c in ds.commits("fake_vector", ds.current("fake_vector")).values() for i, r in c.nulls.items()}
    assert "killed the worker" in nulls.pop(victim)
    assert set(nulls) == {i for i in ids if int(i[:4], 16) % 7 == 0}, "nobody else lost anything"


def mark_first_death(root: Path, victim: str) -> None:
    """What the Ray executor does by counting attempts: after a death, the shard is done sample by sample."""
    ds = Dataset.open(str(root))
    k = next(k for k in ds.shards() if victim in ds.ids(k))
    folder = f"_suspects/fake_base@{ds.manifest().modalities['fake_vector']}/{k:06d}"
    if not ds.storage.list(folder):
        other = next(i for i in ds.ids(k) if i != victim)
        ds.storage.put_if_absent(f"{folder}/{other}-00000000", b"")


SLOW = ("dinov2", "human_poses", "minilm_caption", "maskcut")
LABEL = [
    sys.executable, "-m", "pipeline.cli.main", "label", "{root}", *(f"--set=labelers.{n}.enabled=false" for n in SLOW)
]  # fmt: skip


def start(root: Path, *more: str) -> subprocess.Popen[str]:
    words = [word.format(root=root) for word in LABEL]
    return subprocess.Popen([*words, *more], stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(root: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until so many shards are committed, or the process ended."""
    for _ in range(6000):
        if len(list(root.glob("*@*/_commits/*.json"))) >= count or process.poll() is not None:
            return
        time.sleep(0.005)  # bounded; the moment to strike is when something is committed


@pytest.mark.ray
def test_f3_driver_killed_and_ray_started_again(tmp_path: Path) -> None:
    root, _ = new_world(tmp_path)
    process = start(root, "--executor", "ray")
    wait_for(root, 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {p: p.read_bytes() for p in root.glob("*@*/_commits/*.json")}
    done = start(root, "--executor", "ray")
    _, said = done.communicate(timeout=120)
    assert done.returncode == 0, said
    assert {p: p.read_bytes() for p in before} == before, "no shard is committed twice"
    again = start(root, "--executor", "local")
    _, said = again.communicate(timeout=120)
    assert "0 shards to do" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_f25_interrupted_in_order_and_resumable(tmp_path: Path, number: int, code: int) -> None:
    root, _ = new_world(tmp_path, 150)
    process = start(root, "--executor", "local")
    wait_for(root, 3, process)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "interrupted" in said
    assert "Traceback" not in said
    done = start(root, "--executor", "local")
    _, said = done.communicate(timeout=120)
    assert done.returncode == 0, said


@pytest.mark.fuzz
def test_f1_two_thousand_kills(tmp_path: Path) -> None:
    root, ids = new_world(tmp_path, 15)
    seed = int(os.environ.get("MANYMODAL_SEED", str(int(time.time()))))
    assert killed_runs(root, 2000, duration(tmp_path, 15), random.Random(seed)) >= 2000, f"seed {seed}"
    label_all(root)
    assert_world(root, ids, fake_config(root))
