"""Processes that share a run follow one process that does it alone: DDP, FSDP2, accumulated parts, checkpoints of each
read by the other. Tiny random networks, two gloo processes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.leave import leave
from tests.trainer.corpus import TINY, write_world
from trainer import checkpoint, sharded
from trainer.config import TrainConfig
from trainer.model import SIZES
from trainer.open_corpus import open_corpus
from trainer.parallel import Group, joined, whole
from trainer.run import Run
from trainer.train import Training

STEPS, WORLD = 50, 2


def config(**changed: Any) -> TrainConfig:
    given = {"steps": STEPS, "batch": 8, "n_in": 12, "n_out": 12, "block": 4, "ema": 0.9, "lr": 2e-3}
    return TrainConfig(**{**given, "precision": "fp32", **changed})  # in which sums taken in another order are alike


def run_of(root: str, group: Group | None = None, **changed: Any) -> Run:
    return Run(open_corpus(Dataset.open(root), 0.0), config(**changed), group)


def losses(run: Run, steps: int) -> list[float]:
    found = [run.one_step() for _ in range(steps)]
    run.feed.close()
    return found


def process(rank: int, root: str, out: str) -> None:
    """One of the two: all of a run with DDP, then with FSDP2; the second kept half-way."""
    torch.set_num_threads(1)
    SIZES["micro"] = TINY
    with joined(rank, WORLD, f"file://{out}/meet") as group:
        found: dict[str, Any] = {"alike": [group.alike(7), group.alike(rank)]}
        for strategy in ("ddp", "fsdp"):
            run = run_of(root, group, workers=WORLD, strategy=strategy)
            found[strategy] = losses(run, STEPS // 2)
            run.save(checkpoint.step_folder(Path(out) / strategy, run.step))
            run = run_of(root, group, workers=WORLD, strategy=strategy)
            run.restore(checkpoint.step_folder(Path(out) / strategy, STEPS // 2))
            found[strategy] += losses(run, STEPS - STEPS // 2)
            run.publish({}, Path(out) / f"model-{strategy}")
            with run.averaged():
                found[f"{strategy}-sum"] = float(sum(whole(p).double().sum() for p in run.model.parameters()))
        if group.first:
            (Path(out) / "found.json").write_text(json.dumps(found))
    leave()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    write_world(folder / "data", (8, 8, 8))
    (folder / "out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])))
        given = (str(folder / "data"), str(folder / "out"))
        mp.start_processes(process, given, nprocs=WORLD, start_method="spawn")
    return folder


def test_parts_that_are_on_other_machines_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a folder of its own, and the first finds one part of two."""
    monkeypatch.setattr(Group, "wait", lambda group: None)
    divided = SimpleNamespace(group=Group(0, 2), model=nn.Linear(2, 2))
    optimizer = torch.optim.AdamW(divided.model.parameters())
    with pytest.raises(ConfigError, match="holds the parts of 1 of 2 processes"):
        sharded.save(tmp_path / "step-1", divided, optimizer, {}, {})  # type: ignore[arg-type]
    assert not (tmp_path / "step-1").exists()


@pytest.fixture
def tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "micro", TINY)


@pytest.fixture(scope="module")
def alone(world: Path) -> list[float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "micro", TINY)
        return losses(run_of(str(world / "data")), STEPS)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_follow_one(world: Path, alone: list[float], strategy: str) -> None:
    """Also across a checkpoint that each wrote its part of, and both read back."""
    found = json.loads((world / "out" / "found.json").read_bytes())[strategy]
    assert len(found) == len(alone) == STEPS and found[-1] < 0.8 * found[0]
    assert max(abs(a - b) for a, b in zip(found, alone, strict=True)) < 1e-4


def test_processes_know_whether_they_are_alike(world: Path) -> None:
    """And say so before a step is made: two machines may have kept other checkpoints."""
    assert json.loads((world / "out" / "found.json").read_bytes())["alike"] == [True, False]


def test_accumulated_parts_are_one_batch(world: Path, alone: list[float], tiny_size: None) -> None:
    found = losses(run_of(str(world / "data"), accumulate=4), 10)
    assert found == pytest.approx(alone[:10], abs=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_goes_on_from_what_two_left(
    world: Path, alone: list[float], strategy: str, tiny_size: None
) -> None:
    run = run_of(str(world / "data"))
    folder = checkpoint.step_folder(world / "out" / strategy, STEPS // 2)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    parts = [f"shard-{rank:04d}-of-{WORLD:04d}.safetensors" for rank in range(WORLD)]
    assert files == (
        parts if strategy == "fsdp" else sorted([checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.AVERAGE])
    )
    run.restore(folder)
    assert run.step == STEPS // 2
    assert losses(run, 10) == pytest.approx(alone[STEPS // 2 : STEPS // 2 + 10], abs=1e-4)


def test_what_is_published_is_the_whole_averaged_model(world: Path, tiny_size: None) -> None:
    found = json.loads((world / "out" / "found.json").read_bytes())
    sums = []
    for strategy in ("ddp", "fsdp"):
        model, record = checkpoint.load_model(world / "out" / f"model-{strategy}")
        sums.append(float(sum(p.detach().double().sum() for p in model.parameters())))
        assert record["averaged"] and sums[-1] == pytest.approx(found[f"{strategy}-sum"], rel=1e-6)
    assert sums[0] == pytest.approx(sums[1], rel=1e-3)


def test_a_damaged_part_is_named(world: Path, tmp_path: Path, tiny_size: None) -> None:
    import shutil

    from pipeline.errors import DamageError

    shutil.copytree(world / "out" / "fsdp", tmp_path / "fsdp")
    folder = checkpoint.step_folder(tmp_path / "fsdp", STEPS // 2)
    part = folder / f"shard-0001-of-{WORLD:04d}.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DamageError, match=r"shard-0001-of-0002\.safetensors: is missing or is not the file"):
        run_of(str(world / "data")).restore(folder)


def test_a_process_that_comes_late_to_a_checkpoint_meets_the_others(tmp_path: Path) -> None:
    """The first process has written it when the second gets there: both must call `save`, which waits for all."""
    saved: list[Path] = []
    run = SimpleNamespace(group=Group(rank=1), step=0, waited=0.0, flops=0.0, config=config(), save=saved.append,
                          estimate=SimpleNamespace(words=str))  # fmt: skip
    training = Training(run, SimpleNamespace(path=tmp_path), lambda *_: None)  # type: ignore[arg-type]
    run.step = 3
    late = checkpoint.step_folder(tmp_path, run.step)
    late.mkdir()
    (late / checkpoint.RECORD).write_text("{}")
    training.save()
    training.save()  # the same step: there is nothing new to keep
    assert saved == [late]


def test_processes_that_found_other_checkpoints_do_not_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "alike", lambda group, step: False)
    run = SimpleNamespace(group=Group(), step=4, config=config())
    with pytest.raises(ConfigError, match="found different checkpoints, this one of step 4"):
        Training(run, SimpleNamespace(path=tmp_path), lambda *_: None)  # type: ignore[arg-type]
