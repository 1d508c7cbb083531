"""What a run says while it goes: JSON lines always, TensorBoard and Weights & Biases where asked for and installed."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import ConfigError
from trainer.config import TrainConfig

LINES = "log.jsonl"


class Log(Protocol):
    """Takes the figures of a step."""

    def write(self, step: int, figures: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Lines:
    """One JSON object a line, appended; a run that is resumed goes on in the same file, from the step it resumes at."""

    def __init__(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_lines(path) if line.get("step", 0) <= step] if step else []
        path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in kept), encoding="utf-8")
        self.file = path.open("a", encoding="utf-8")

    def write(self, step: int, figures: dict[str, Any]) -> None:
        self.file.write(json.dumps({"step": step, "time": round(time.time(), 3), **figures}, sort_keys=True) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class TensorBoard:
    """Scalars for TensorBoard, in run/tensorboard."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, step: int, figures: dict[str, Any]) -> None:
        for name, value in numbers(figures):
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """Figures for Weights & Biases. The key is taken from where wandb itself looks for it, and is never kept here."""

    def __init__(self, project: str, name: str, config: dict[str, Any]) -> None:
        import wandb

        self.run = wandb.init(project=project, name=name, config=config, resume="allow")

    def write(self, step: int, figures: dict[str, Any]) -> None:
        self.run.log(dict(numbers(figures)), step=step)

    def close(self) -> None:
        self.run.finish()


def numbers(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """(name, number) of nested figures: {"heldout": {"tok_rgb": 3.1}} is heldout/tok_rgb."""
    found: list[tuple[str, float]] = []
    for key, value in figures.items():
        if isinstance(value, dict):
            found += numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}{key}", float(value)))
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that was cut short is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def check_logs(config: TrainConfig) -> None:
    """ConfigError where a log was asked for that cannot be written. TensorBoard's is left out where it is not there."""
    if config.wandb is not None and not installed("wandb"):
        raise ConfigError(
            "train.wandb: the package wandb is not installed; pip install wandb, or set train.wandb: null"
        )


def open_logs(folder: Path, config: TrainConfig, step: int) -> list[Log]:
    """The logs of a run, from a step on."""
    logs: list[Log] = [Lines(folder / LINES, step)]
    if config.tensorboard and installed("tensorboard"):
        logs.append(TensorBoard(folder / "tensorboard", step))
    if config.wandb is not None:
        logs.append(WandB(config.wandb, config.name, config.model_dump(mode="json")))
    return logs
