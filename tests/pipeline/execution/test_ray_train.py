"""Training as a Ray Train job: two workers of this machine follow one process, publish one model, leave checkpoints to go
on from, and say what is wrong as one process would.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from tests.trainer.corpus import write_world
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.launch import silent, start
from trainer.train import TrainReport, model_folder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
STEPS, SIZES_OF = 8, (8, 8, 8)


def settings(**changed: Any) -> TrainConfig:
    given = {"steps": STEPS, "batch": 8, "n_in": 12, "n_out": 12, "block": 4, "save_every": 4, "holdout": 0.2}
    return TrainConfig(**{**given, "precision": "fp32", "tensorboard": False, "eval_samples": 8, **changed})


def by_ray(ds: Dataset, **changed: Any) -> TrainReport:
    return start(ds, settings(**{"launcher": "ray", "workers": 2, "gpus": False, **changed}), silent)


def assert_alike(found: TrainReport, alone: TrainReport) -> None:
    """To a ten-thousandth: the losses of all steps, and those of held-out photos."""
    assert [step for step, _ in found.curve] == list(range(1, STEPS + 1))
    assert max(abs(a - b) for (_, a), (_, b) in zip(found.curve, alone.curve, strict=True)) < 1e-4
    assert found.heldout.keys() == alone.heldout.keys() != set()
    for name, judged in found.heldout.items():
        assert judged["loss"] == pytest.approx(alone.heldout[name]["loss"], abs=1e-4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    return start(write_world(tmp_path_factory.mktemp("alone"), SIZES_OF), settings(), silent)


def test_two_workers_follow_one_process_which_goes_on_from_their_checkpoint(tmp_path: Path, alone: TrainReport) -> None:
    ds = write_world(tmp_path, SIZES_OF)
    assert_alike(by_ray(ds), alone)
    folder = model_folder(ds, "model")
    assert checkpoint.read_record(folder)["step"] == STEPS
    kept = checkpoint.steps(folder.with_name("model.run"))
    assert [path.name for path in kept] == [checkpoint.step_folder(Path(), step).name for step in (4, STEPS)]
    for later in (kept[-1], folder):  # as it is where the job is killed before the second
        shutil.rmtree(later)
    first = (kept[0] / checkpoint.RECORD).read_bytes()
    again = start(ds, settings(), silent)
    assert_alike(again, alone)
    assert not again.already and (kept[0] / checkpoint.RECORD).read_bytes() == first


def test_what_is_wrong_is_said_as_by_one_process(tmp_path: Path) -> None:
    ds = write_world(tmp_path, (8,))
    with pytest.raises(ConfigError, match=r"train\.modalities: 'tok_nothing' has no tokens"):
        by_ray(ds, modalities=["tok_nothing"], workers=1)
    path, _ = ds.open_shard("tok_rgb", ds.current("tok_rgb"), 0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(DamageError, match=r"tok_rgb"):
        by_ray(ds, workers=1)
