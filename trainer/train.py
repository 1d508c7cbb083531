"""The training loop: one process, AdamW, warm-up and cosine, and an honest look at held-out photos at the end.

Masks of step n come from the seed and n alone, and the loader's state is one integer, so a run that was stopped goes on
exactly as if it had not been. Given up for now: several processes (DDP, FSDP2), EMA, gradient accumulation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, Incomplete
from trainer import checkpoint
from trainer.card import CARD, model_card
from trainer.evaluate import Heldout, heldout_losses
from trainer.loader import Corpus, Loader
from trainer.loss import forward_loss
from trainer.masking import Masked, Masker
from trainer.mixture import Component, all2all, demo, published
from trainer.model import SIZES, Model
from trainer.open_corpus import open_corpus

Progress = Callable[[str, int, int, str], None]
MAX_BAD_STEPS = 20
CURVE_POINTS = 400


class TrainConfig(BaseModel):
    """Settings of a training run. n_in, n_out: tokens a sample shows and is asked for. holdout: share of photos left
    out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("model", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    size: Literal["micro", "tiny", "S", "B", "L", "XL"] = "micro"
    steps: int = Field(300, ge=1)
    batch: int = Field(8, ge=1)
    lr: float = Field(1e-3, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.05, ge=0)
    clip: float = Field(1.0, gt=0)
    n_in: int = Field(128, ge=1)
    n_out: int = Field(96, ge=1)
    mixture: Literal["demo", "published"] = "demo"
    tied: bool = False
    modalities: list[str] | None = None
    holdout: float = Field(0.15, ge=0, lt=1)
    seed: int = Field(0, ge=0)
    save_every: int = Field(200, ge=1)


@dataclass
class TrainReport:
    """What a run did. curve: (step, loss) where the loss is finite. heldout: stream -> loss, uniform, unigram in nats a
    token. skipped: non-finite steps.
    """

    path: str
    steps: int
    seconds: float
    tokens_per_second: float
    parameters: int
    manifest: int
    curve: list[tuple[int, float]] = field(default_factory=list)
    heldout: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: int = 0
    loader_wait: float = 0.0
    already: bool = False


def components(config: TrainConfig, names: list[str]) -> tuple[Component, ...]:
    """The mixture of a run; without RGB tokens, any streams to any streams."""
    if "tok_rgb" not in names or len(names) < 2:
        return (all2all(0.1), all2all(1.0))
    return demo() if config.mixture == "demo" else published()


def model_folder(ds: Dataset, name: str) -> Path:
    """The local folder of a model's newest checkpoint; it may not exist yet. After saving there: `keep_model`."""
    return ds.storage.fetch_folder(f"_models/{name}")


def keep_model(ds: Dataset, name: str, folder: Path) -> None:
    """Give a saved checkpoint its card, and make it the one that every reader of the data set finds."""
    (folder / CARD).write_text(model_card(ds, checkpoint.read_record(folder)), encoding="utf-8")
    ds.storage.put_folder(f"_models/{name}", folder)


def tensors(masked: Masked, device: torch.device) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in masked.arrays().items()}


class Run:
    """The state of one training run."""

    def __init__(self, corpus: Corpus, config: TrainConfig) -> None:
        self.corpus, self.config = corpus, config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = Model(corpus.streams, SIZES[config.size], config.tied).to(self.device)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95))
        self.loader = Loader(corpus, config.batch, config.seed)
        self.masker = Masker(
            corpus.streams, components(config, [s.name for s in corpus.streams]), config.n_in, config.n_out
        )
        self.step, self.skipped, self.bad = 0, 0, 0
        self.curve: list[tuple[int, float]] = []
        self.waited = 0.0

    def rate(self) -> float:
        """Learning rate of the current step: linear warm-up, then a cosine down to a twentieth."""
        share, warm = self.step / self.config.steps, self.config.warmup
        if share < warm:
            return self.config.lr * (self.step + 1) / max(1.0, warm * self.config.steps)
        return self.config.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (share - warm) / (1 - warm))))

    def one_step(self) -> float:
        """One optimizer step; its loss. Incomplete after many non-finite steps in a row."""
        began = time.perf_counter()
        masked = self.masker(self.loader.next(), np.random.default_rng([self.config.seed, self.step]))
        batch = tensors(masked, self.device)
        self.waited += time.perf_counter() - began
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.model.train()
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = forward_loss(self.model, batch).mean
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        value = float(loss.detach())
        if math.isfinite(value) and bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.bad = 0
        else:
            self.skipped, self.bad = self.skipped + 1, self.bad + 1
            if self.bad >= MAX_BAD_STEPS:
                raise Incomplete(
                    f"train: {self.bad} steps in a row were not finite (step {self.step}); lower train.lr from {self.config.lr}"
                )
        self.step += 1
        if math.isfinite(value):
            self.curve.append((self.step, value))
        return value

    def record(self, heldout: dict[str, Heldout]) -> dict[str, Any]:
        return {
            "step": self.step, "config": self.config.model_dump(mode="json"),
            "streams": [s.to_json() for s in self.corpus.streams],
            "recipes": self.corpus.recipes, "manifest": self.corpus.manifest, "loader": self.loader.state(),
            "curve": self.curve, "skipped": self.skipped, "heldout": {name: asdict(h) for name, h in heldout.items()},
        }  # fmt: skip

    def save(self, heldout: dict[str, Heldout], folder: Path) -> None:
        checkpoint.save(folder, self.model, self.optimizer, self.record(heldout))

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint. ConfigError where it was made with other settings or other tokens."""
        record = checkpoint.read_record(folder)
        mine = self.record({})
        for key in ("streams", "recipes"):
            if record[key] != mine[key]:
                raise ConfigError(
                    f"{folder}: was trained on other {key}; train from the start, or restore that manifest"
                )
        other = [k for k, v in record["config"].items() if k not in ("save_every",) and v != mine["config"][k]]
        if other:
            raise ConfigError(
                f"{folder}: was trained with another train.{other[0]}; resume with the same, or give train.name"
            )
        model, _ = checkpoint.load_model(folder)
        self.model.load_state_dict(model.state_dict())
        checkpoint.load_optimizer(folder, self.model, self.optimizer)
        self.loader.restore(record["loader"])
        self.step, self.skipped, self.curve = (
            record["step"],
            record["skipped"],
            [(int(s), float(v)) for s, v in record["curve"]],
        )


def train(ds: Dataset, config: TrainConfig, progress: Progress = lambda *_: None, resume: bool = False) -> TrainReport:
    """Train on the current manifest's tokens; the checkpoint is root/_models/<name>. A finished run of the same
    settings and tokens is not repeated. ConfigError, before the first step, for anything that cannot be trained on.
    """
    corpus = open_corpus(ds, config.holdout, config.modalities)
    run, folder = Run(corpus, config), model_folder(ds, config.name)
    finished = (folder / checkpoint.RECORD).is_file() and _same(checkpoint.read_record(folder), run)
    if finished or (resume and folder.exists()):
        run.restore(folder)
    first, start = run.step, time.perf_counter()
    while run.step < config.steps:
        loss = run.one_step()
        progress("train", run.step, config.steps, f"loss {loss:.3f}" if run.step % 50 == 0 else "")
        if run.step % config.save_every == 0 and run.step < config.steps:
            run.save({}, folder)
            keep_model(ds, config.name, folder)
    seconds = time.perf_counter() - start
    heldout = heldout_losses(run.model, corpus, config.n_in, config.n_out, config.seed)
    if not finished:
        run.save(heldout, folder)
        checkpoint.load_model(folder)  # read back, digests checked: a checkpoint that cannot be loaded is found out now
        keep_model(ds, config.name, folder)
    done = run.step - first
    return TrainReport(
        str(folder), run.step, round(seconds, 2), done * config.batch * (config.n_in + config.n_out) / max(seconds, 1e-9),
        sum(p.numel() for p in run.model.parameters()), corpus.manifest, thin(run.curve),
        {name: asdict(h) for name, h in heldout.items()}, run.skipped, run.waited / max(seconds, 1e-9), finished,
    )  # fmt: skip


def _same(record: dict[str, Any], run: Run) -> bool:
    """Whether a checkpoint is the end of this very run."""
    mine = run.record({})
    return record["step"] == run.config.steps and all(
        record[key] == mine[key] for key in ("config", "streams", "recipes")
    )


def thin(curve: list[tuple[int, float]], points: int = CURVE_POINTS) -> list[tuple[int, float]]:
    """At most `points` means over equal stretches: (last step of the stretch, mean loss)."""
    parts = np.array_split(np.arange(len(curve)), min(points, len(curve))) if curve else []
    return [(curve[int(part[-1])][0], float(np.mean([curve[i][1] for i in part]))) for part in parts]
