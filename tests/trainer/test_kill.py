"""A training process that is killed at any moment, and started again by the same command, ends with the same model."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.corpus import TINY, write_world
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.model import SIZES
from trainer.train import model_folder, train

STEPS = 30
CHILD = """
import sys, torch
torch.set_num_threads(1)
from pipeline.dataset import Dataset
from tests.trainer.corpus import TINY
from tests.trainer.test_kill import settings
from trainer.model import SIZES
from trainer.train import train
SIZES["micro"] = TINY
train(Dataset.open(sys.argv[1]), settings(), lambda name, done, total, text: print(name, done, flush=True))
"""


def settings() -> TrainConfig:
    return TrainConfig(
        steps=STEPS, batch=4, n_in=12, n_out=12, save_every=1, keep=2, ema=0.99, tensorboard=False, log_every=3
    )


def test_killed_at_a_random_step_and_resumed_it_has_the_same_losses_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "micro", TINY)
    whole, broken = (write_world(tmp_path / name, (8, 8, 8)) for name in ("whole", "broken"))
    wanted = train(whole, settings())
    at = random.randint(2, STEPS - 2)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "CUDA_VISIBLE_DEVICES": "",
    }
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "broken")], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.split() == ["train", str(at)]:
            child.send_signal(signal.SIGKILL)  # while it writes a checkpoint, or is already at the next step
            break
    assert child.wait() == -signal.SIGKILL, f"step {at}"
    kept = checkpoint.steps(model_folder(broken, "model.run"))
    assert kept and int(kept[-1].name[5:]) >= at - 1 and not model_folder(broken, "model").exists()
    got = train(broken, settings())
    assert got.curve == wanted.curve, f"killed at step {at}"
    assert got.heldout == wanted.heldout
    for name in (checkpoint.MODEL, checkpoint.RECORD):
        one, two = (model_folder(ds, "model") / name for ds in (whole, broken))
        assert one.read_bytes() == two.read_bytes(), name
