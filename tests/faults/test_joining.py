"""F4, the other way: nodes that join a Ray cluster in the middle of a job, one that is used and one that lacks the program.

Nothing depends on how fast the machine is: once the second node is there, workers on the first one wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pipeline.label
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.execution.work import Crew, Done, Pool
from pipeline.label import label
from pipeline.label_shard import MakeLabelCrew
from pipeline.recipes import Target
from tests.faults.test_nodes import seen, wait_until
from tests.faults.world import new_world
from tests.world import assert_world, fake_config, register_fakes

pytestmark = [pytest.mark.ray, pytest.mark.fuzz]

REPO = Path(__file__).resolve().parents[2]
JOINED = "joined"


@dataclass(frozen=True)
class MakeWaitingCrew:
    """A crew of fakes that notes who began what, and from the moment a node has joined waits until both have; pickles."""

    inner: MakeLabelCrew
    folder: Path

    def __call__(self) -> Crew:
        import ray

        register_fakes()
        crew, node = self.inner(), ray.get_runtime_context().get_node_id()

        def noted(steps: Sequence[str], shard: int, number: int) -> list[Done]:
            (self.folder / f"{node}-{'+'.join(steps)}-{shard}").touch()
            if (self.folder / JOINED).exists():
                wait_until(lambda: len(seen(self.folder)) == 2)
            return crew(steps, shard, number)

        return noted


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """One raylet with one CPU, which is also the driver's. The program is found by PYTHONPATH alone."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.chdir(tmp_path)  # Ray brings the driver's working directory along
    monkeypatch.setattr("sys.argv", [str(tmp_path / "driver.py")])
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
    yield found
    ray.shutdown()
    found.shutdown()


def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str], Config, Path]:
    """Root, ids and configuration of a data set to label with waiting crews, and where they leave their notes."""
    root, ids = new_world(tmp_path, 100)
    folder = tmp_path / "notes"
    folder.mkdir()

    def pools(config: Config, targets: Sequence[Target]) -> Mapping[str, Pool]:
        names = tuple(t.labeler for t in targets)
        pool = Pool(MakeWaitingCrew(MakeLabelCrew(str(root), tuple(targets)), folder), 1.0, steps=names)
        return dict.fromkeys(names, pool)

    monkeypatch.setattr(pipeline.label, "pools_of", pools)
    return root, ids, fake_config(root, executor="ray"), folder


def joins(cluster: Any, folder: Path, **node: Any) -> Callable[..., None]:
    """Called after each item: adds a node once four are done."""
    done: list[str] = []

    def progress(step: str, *_: object) -> None:
        done.append(step)
        if len(done) == 4:
            (folder / JOINED).touch()
            cluster.add_node(num_cpus=1, **node)

    return progress


def test_a_node_that_joins_is_used(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, ids, config, folder = job(tmp_path, monkeypatch)
    report = label(Dataset.open(str(root)), config, progress=joins(cluster, folder))
    assert report.failed == 0, report.errors
    assert len(seen(folder)) == 2, "only one node did anything"
    monkeypatch.undo()
    assert_world(root, ids, fake_config(root))


def test_a_node_without_the_program_is_named_at_once(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers that are left wait for the new node, so the job cannot end before it is noticed."""
    root, ids, config, folder = job(tmp_path, monkeypatch)
    hollow = tmp_path / "hollow"
    (hollow / "pipeline").mkdir(parents=True)
    # Found first; an installed program must not be found behind it.
    (hollow / "pipeline" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'pipeline'\")")
    progress = joins(cluster, folder, env_vars={"PYTHONPATH": os.fspath(hollow)})
    with pytest.raises(ConfigError, match=r"node [\d.]+ cannot run this program \(No module named 'pipeline'"):
        label(Dataset.open(str(root)), config, progress=progress)
    assert len(seen(folder)) == 1
    monkeypatch.undo()
    done = label(Dataset.open(str(root)), fake_config(root))
    assert 0 < done.done < 40 and not done.failed, "what was done before stays, and the same command resumes"
    assert_world(root, ids, fake_config(root))
