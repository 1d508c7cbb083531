"""The loop that fits a tokenizer: a budget in seconds or steps, AdamW, cosine learning rate, guards, and the report's
numbers.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tokenize_shards.tokenizer import FitError, Progress

_MAX_BAD_STEPS = 10  # non-finite steps in a row before giving up
_MAX_POINTS = 300  # points kept of a loss curve


class Budget:
    """How long a fit may take: seconds of wall clock counted from construction, or a number of steps."""

    def __init__(self, seconds: float | None, steps: int | None) -> None:
        if (seconds is None) == (steps is None):
            raise ValueError(f"give exactly one of seconds and steps, got seconds={seconds} steps={steps}")
        if (seconds if seconds is not None else steps) <= 0:  # type: ignore[operator]
            raise ValueError(f"a budget must be positive, got seconds={seconds} steps={steps}")
        self.seconds, self.steps, self.began = seconds, steps, time.perf_counter()
        self.loop_began = self.began

    def start_loop(self) -> None:
        """The start values are made; the learning rate schedule covers what is left."""
        self.loop_began = time.perf_counter()

    def spent(self) -> float:
        return time.perf_counter() - self.began

    def share(self, step: int) -> float:
        """How much of the loop is done before this step, 0..1; 1 or more means stop."""
        if self.steps is not None:
            return step / self.steps
        assert self.seconds is not None
        loop = self.seconds - (self.loop_began - self.began)
        return (time.perf_counter() - self.loop_began) / loop if loop > 0 else 1.0

    def left(self, step: int) -> float:
        """Seconds until the end, as far as known."""
        if self.seconds is not None:
            return max(0.0, self.seconds - self.spent())
        assert self.steps is not None
        return (time.perf_counter() - self.loop_began) / max(1, step) * (self.steps - step)


@dataclass(frozen=True)
class Schedule:
    """lr: the highest learning rate, reached after `warmup` of the budget, then a cosine down to 0."""

    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0

    def at(self, share: float) -> float:
        if share < self.warmup:
            return self.lr * max(share / self.warmup, 0.02)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - self.warmup) / (1 - self.warmup))))


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def batches(n: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless index batches of min(size, n): shuffled passes over 0..n-1, the same for the same seed."""
    rng = np.random.default_rng(seed)
    size = min(size, n)
    queue = np.zeros(0, np.int64)
    while True:
        while len(queue) < size:
            queue = np.concatenate([queue, rng.permutation(n)])
        yield queue[:size]
        queue = queue[size:]


class Best:
    """Keeps the weights with the lowest validation figure, start values included: few data must not make things worse."""

    def __init__(self, module: nn.Module, measure: Callable[[], float], every: int = 50) -> None:
        self.module, self.measure, self.every = module, measure, every
        self.figure = math.inf
        self.state: dict[str, Tensor] = {}

    def look(self) -> None:
        figure = self.measure()
        if figure < self.figure:
            self.figure, self.state = figure, copy.deepcopy(self.module.state_dict())

    def restore(self) -> None:
        self.look()
        self.module.load_state_dict(self.state)


def optimise(
    module: nn.Module,
    data: Iterator[Tensor],
    loss_of: Callable[[Tensor], Tensor],
    budget: Budget,
    *,
    schedule: Schedule,
    what: str,
    progress: Progress | None = None,
    best: Best | None = None,
) -> tuple[int, list[tuple[int, float]]]:
    """Minimise loss_of(batch) over the parameters of module until the budget ends: (steps done, loss curve).

    bf16 autocast on CUDA only. A step with a non-finite loss or gradient is left out; ten in a row raise FitError
    naming `what`. At least one step is done.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.lr, betas=(0.9, 0.95))
    cuda = parameters[0].is_cuda
    losses: list[float] = []
    bad = step = 0
    budget.start_loop()
    module.train()
    while step == 0 or (share := budget.share(step)) < 1:
        share = budget.share(step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.at(share)
        if best is not None and step % best.every == 0:
            best.look()
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            loss = loss_of(next(data))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, schedule.clip)
        value = float(loss.detach())
        if math.isfinite(value) and bool(torch.isfinite(norm)):
            optimizer.step()
            bad = 0
        else:
            bad += 1
            if bad >= _MAX_BAD_STEPS:
                raise FitError(
                    f"fitting {what}: the loss or its gradient was not finite in {bad} steps in a row (step {step}, "
                    f"loss {value}); check the training data for NaN, or lower the learning rate from {schedule.lr}"
                )
        losses.append(value)
        step += 1
        if progress is not None:
            progress(step, value, budget.left(step))
    if best is not None:
        best.restore()
    module.eval()
    return step, thin(losses)


def thin(losses: list[float], points: int = _MAX_POINTS) -> list[tuple[int, float]]:
    """A loss curve of at most `points` means over equal stretches: (last step of the stretch, mean loss)."""
    if not losses:
        return []
    parts = np.array_split(np.arange(len(losses)), min(points, len(losses)))
    return [(int(part[-1]) + 1, float(np.mean([losses[i] for i in part]))) for part in parts]


def usage(tokens: np.ndarray, vocab: int) -> tuple[float, float]:
    """(share of the vocabulary that occurs, perplexity of its use), each the mean over heads; tokens (n, heads)."""
    used, perplexity = [], []
    for column in tokens.T:
        share = np.bincount(column, minlength=vocab) / max(1, len(column))
        present = share[share > 0]
        used.append(len(present) / vocab)
        perplexity.append(float(np.exp(-(present * np.log(present)).sum())))
    return float(np.mean(used)), float(np.mean(perplexity))
