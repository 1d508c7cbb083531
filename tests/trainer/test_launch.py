"""Processes of one machine, started by the command itself or by torchrun, end well and train what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.corpus import write_world

STEPS = 6
SETTINGS = {"steps": STEPS, "batch": 8, "n_in": 12, "n_out": 12, "block": 4, "precision": "fp32", "tensorboard": False,
            "log_every": 1}  # fmt: skip
RUN = "from pipeline.cli.main import main\n\nif __name__ == '__main__':\n    main()\n"
TORCHRUN = ("torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2")


def train(folder: Path, *way: str, workers: int = 1) -> tuple[str, list[float]]:
    """What the command printed, and the loss of each step."""
    write_world(folder, (8, 8, 8))
    given = {**SETTINGS, "workers": workers}
    chosen = [word for name, value in given.items() for word in ("--set", f"train.{name}={json.dumps(value)}")]
    (folder / "run.py").write_text(RUN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, *way, str(folder / "run.py"), "train", str(folder), *chosen]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    log = (folder / "_models" / "model.run" / "log.jsonl").read_text()
    return done.stdout + done.stderr, [line["loss"] for line in map(json.loads, log.splitlines()) if "loss" in line]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return train(tmp_path_factory.mktemp("alone") / "ds")[1]


@pytest.mark.parametrize("way", [(), ("-m", *TORCHRUN)], ids=["itself", "torchrun"])
def test_two_processes_train_what_one_does_and_report_once(tmp_path: Path, alone: list[float], way: tuple[str]) -> None:
    said, found = train(tmp_path / "ds", *way, workers=2)
    assert len(found) == len(alone) == STEPS and found == pytest.approx(alone, abs=1e-4)
    assert said.count("Loss on what was not trained on") == 1 and said.count("_models/model;") == 1
    assert "Warning" not in said
