"""Trains a head, and the encoder under it unless that is frozen, on some samples; scores it on others.

A frozen encoder is run once over everything, and only the head learns. Training goes over all views of a sample; a
sample is judged by the mean over its views, a map by view 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pipeline.errors import ConfigError
from trainer.estimate import precision
from trainer.generate.job import Spot
from trainer.loader import Corpus
from trainer.streams import Stream, Tokens
from trainer.transfer.encoder import Encoder
from trainer.transfer.tasks import Head, Task, Truth

Progress = Callable[[str, int, int, str], None]
Place = tuple[int, int, int]  # (shard, row, view)
FORWARD = 32  # samples at a time where nothing is learned


class TransferConfig(BaseModel):
    """frozen: only the head learns. scratch: the encoder starts from nothing. encoder_lr: times lr, of the encoder's last
    block; layer_decay: times that, of each block before it; both for an encoder that has learned something, one from
    nothing takes lr throughout. shown: tokens a sample shows while it is learned from, drawn anew each time, as in the
    training of the model; null: all, as when it is judged, and for maps always. test: share of every shard that is judged
    and never learned from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    frozen: bool = False
    scratch: bool = False
    steps: int = Field(200, ge=1)
    batch: int = Field(16, ge=1)
    lr: float = Field(3e-3, gt=0)
    encoder_lr: float = Field(0.1, ge=0)
    layer_decay: float = Field(0.75, gt=0, le=1)
    shown: int | None = Field(64, ge=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    weight_decay: float = Field(0.05, ge=0)
    test: float = Field(0.3, gt=0, lt=1)
    seed: int = Field(0, ge=0)


@dataclass
class Transferred:
    """What came of it. scores: of the test samples. curve: loss of each step."""

    encoder: Encoder
    head: Head
    scores: dict[str, float]
    train: int
    test: int
    curve: list[float] = field(default_factory=list)


class Inputs:
    """Tokens of samples as the encoder takes them."""

    def __init__(self, corpus: Corpus, streams: Sequence[Stream], device: torch.device) -> None:
        self.corpus, self.streams, self.device = corpus, tuple(streams), device

    def __call__(self, places: Sequence[Place]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(inputs, real) for Encoder.forward."""
        shard, row, view = (np.array(part, np.int64) for part in zip(*places, strict=True))
        batch = self.corpus.gather(shard, row, view)
        inputs, real = {}, {}
        for s in self.streams:
            tokens: Tokens = batch[s.name]
            ids = tokens.ids.astype(np.int64)
            given = ids if tokens.values is None else tokens.values.astype(np.float32)
            inputs[s.name] = torch.from_numpy(given).to(self.device)
            real[s.name] = torch.from_numpy(np.arange(ids.shape[1]) < tokens.length[:, None]).to(self.device)
        return inputs, real


def fit(
    encoder: Encoder, task: Task, corpus: Corpus, truth: Truth, train: Sequence[Spot], test: Sequence[Spot],
    config: TransferConfig, progress: Progress = lambda *_: None,
) -> Transferred:  # fmt: skip
    """ConfigError where there is nothing to learn from or nothing to judge by."""
    mine, theirs = set(train), set(test)
    learned = [place for place in truth if place[:2] in mine]
    if not learned or not any(place[:2] in theirs for place in truth):
        raise ConfigError(
            f"{task.name}: {len(train)} samples to learn from and {len(test)} to judge by have labels; label more"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.scratch:
            encoder = Encoder(encoder.streams, encoder.size)
        grid = _grid(task, encoder.streams)
        head = Head(task, encoder.size.dim, grid)
    encoder, head = encoder.to(device), head.to(device)
    inputs = Inputs(corpus, encoder.streams, device)
    rng = np.random.default_rng(config.seed)
    order = np.concatenate(
        [rng.permutation(len(learned)) for _ in range(1 + config.steps * config.batch // len(learned))]
    )
    groups: list[dict[str, Any]] = [{"params": list(head.parameters()), "scale": 1.0}, *_layers(encoder, config)]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(config.seed)
    dtype = precision(config, device)
    cast = torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
    with cast:
        kept = _features(encoder, inputs, learned) if config.frozen else None
    curve = []
    encoder.train(not config.frozen)
    for step in range(config.steps):
        chosen = order[step * config.batch : (step + 1) * config.batch]
        for group in optimizer.param_groups:
            group["lr"] = config.lr * group["scale"] * _rate(step, config.steps)
        with cast:
            if kept is None:
                tokens, there = inputs([learned[i] for i in chosen])
                seen = None if task.dense else _drawn(there, encoder.streams, config.shown, generator)
                features, real = encoder(tokens, there, seen)
            else:
                features, real = (part[chosen].to(device) for part in kept)
            out = head(features, real).float()
        wanted = torch.from_numpy(np.stack([truth[learned[i]] for i in chosen])).to(device)
        loss = task.loss(out, wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        curve.append(float(loss.detach()))
        progress("transfer", step + 1, config.steps, f"loss {curve[-1]:.3f}" if (step + 1) % 50 == 0 else "")
    with cast:
        scores = judge(encoder, head, task, inputs, truth, test)
    return Transferred(
        encoder.eval(), head.eval(), scores, len({p[:2] for p in learned}), len(_judged(truth, test)), curve
    )


def _layers(encoder: Encoder, config: TransferConfig) -> list[dict[str, Any]]:
    """Parameters with their share of the rate: of a learned encoder, the deeper they lie the less they are changed."""
    if config.frozen:
        return []
    if config.scratch:
        return [{"params": list(encoder.parameters()), "scale": 1.0}]
    depth = len(encoder.blocks)
    found: list[dict[str, Any]] = [
        {"params": [], "scale": config.encoder_lr * config.layer_decay ** (depth - at)} for at in range(depth + 1)
    ]
    for name, value in encoder.named_parameters():
        part, number, *_ = [*name.split("."), ""]
        found[int(number) + 1 if part == "blocks" else depth if part == "norm" else 0]["params"].append(value)
    return found


def _drawn(
    real: Mapping[str, Tensor], streams: Sequence[Stream], count: int | None, generator: torch.Generator
) -> Tensor | None:
    """Numbers (B, count) of tokens to look at, drawn among the real ones of each sample; None for all."""
    there = torch.cat([real[s.name] for s in streams], dim=1)
    if count is None or count >= there.shape[1]:
        return None
    turn = torch.rand(there.shape, generator=generator).to(there.device)
    return torch.where(there, turn, -1.0).topk(count, dim=1).indices


def _rate(step: int, steps: int) -> float:
    """Warm-up over a tenth, then a cosine down to nothing."""
    share = step / steps
    return (step + 1) / max(1.0, 0.1 * steps) if share < 0.1 else 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))


def _grid(task: Task, streams: Sequence[Stream]) -> tuple[int, int] | None:
    """The grid a dense head reads: of the first stream, which must have one."""
    if not task.dense:
        return None
    if streams[0].grid is None:
        raise ConfigError(
            f"{task.name}: a map is predicted from a picture; name one first, e.g. --from rgb,{streams[0].name}"
        )
    return streams[0].grid


@torch.inference_mode()
def _features(encoder: Encoder, inputs: Inputs, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
    """What a frozen encoder makes of everything: (N, n, d) and (N, n)."""
    encoder.eval()
    parts = [encoder(*inputs(places[at : at + FORWARD])) for at in range(0, len(places), FORWARD)]
    width = max(features.shape[1] for features, _ in parts)
    rows = [nn.functional.pad(features, (0, 0, 0, width - features.shape[1])).cpu() for features, _ in parts]
    real = [nn.functional.pad(mask, (0, width - mask.shape[1])).cpu() for _, mask in parts]
    return torch.cat(rows).clone(), torch.cat(real).clone()


def _judged(truth: Truth, test: Sequence[Spot]) -> list[Spot]:
    return [spot for spot in test if (*spot, 0) in truth]


@torch.inference_mode()
def judge(
    encoder: Encoder, head: Head, task: Task, inputs: Inputs, truth: Truth, test: Sequence[Spot]
) -> dict[str, float]:  # fmt: skip
    """Scores over the test samples that have a label."""
    encoder.eval()
    spots = _judged(truth, test)
    views = 1 if task.dense else 1 + max(view for _, _, view in truth)
    total: npt.NDArray[np.float32] | None = None
    for view in range(views):
        places = [(*spot, view) for spot in spots]
        parts = [head(*encoder(*inputs(places[at : at + FORWARD]))) for at in range(0, len(places), FORWARD)]
        out = torch.cat(parts).float().cpu().numpy()
        total = out if total is None else np.asarray(total + out, np.float32)
    assert total is not None
    return task.scores(np.asarray(total / views, np.float32), np.stack([truth[(*spot, 0)] for spot in spots]))
