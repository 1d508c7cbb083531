"""The loop that fits a tokenizer: a budget in seconds or steps, AdamW, cosine learning rate, guards, and the report's
numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenize_shards.averages import Best, Ema, all_tensors, restore_tensors
from tokenize_shards.fit_state import FitState, Snapshot
from tokenize_shards.tokenizer import FitError, Progress
from tokenize_shards.world import first_of, mean_of, this_worker

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
        self.loop_began = self.here = self.began
        self.first = 0  # the step this process begins at

    def part(self, share: float) -> Budget:
        """A budget of its own for one stage, from now on: a share of the whole."""
        if self.steps is not None:
            return Budget(None, max(1, round(self.steps * share)))
        assert self.seconds is not None
        return Budget(self.seconds * share, None)

    def already(self, seconds: float, step: int) -> None:
        """So long was spent, and so many steps done, before this process took the fit over."""
        self.began -= seconds
        self.first = step

    def start_loop(self) -> None:
        """The start values are made; the learning rate schedule covers what is left (all of it where it is resumed)."""
        self.here = time.perf_counter()
        self.loop_began = self.began if self.first else self.here

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
        return (time.perf_counter() - self.here) / max(1, step - self.first) * (self.steps - step)


@dataclass(frozen=True)
class Schedule:
    """lr: the highest learning rate, reached after `warmup` of the budget, then a cosine down to 0. ema: decay of the
    moving average of the weights, 0 for none.
    """

    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0

    def at(self, share: float) -> float:
        if share < self.warmup:
            return self.lr * max(share / self.warmup, 0.02)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - self.warmup) / (1 - self.warmup))))


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class _Objective(nn.Module):
    """A loss as a module, which is what DistributedDataParallel can wrap."""

    def __init__(self, module: nn.Module, loss_of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.loss_of = module, loss_of

    def forward(self, x: Tensor) -> Tensor:
        return self.loss_of(x)


def _groups(module: nn.Module, schedule: Schedule) -> list[dict[str, Any]]:
    """Parameters by weight decay (matrices alone have it) and by share of the learning rate, which a module may lower for
    layers whose names begin with a key of its `gentle`.
    """
    gentle: dict[str, float] = getattr(module, "gentle", {})
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            share = next((value for start, value in gentle.items() if name.startswith(start)), 1.0)
            decay = schedule.weight_decay if parameter.ndim > 1 and share == 1 else 0.0
            groups.setdefault((share, decay), []).append(parameter)
    return [{"params": p, "weight_decay": decay, "share": share} for (share, decay), p in groups.items()]


class Loop:
    """Minimises loss_of(batch) over the parameters of module until the budget ends.

    bf16 autocast on CUDA only. A step with a non-finite loss or gradient is left out; ten in a row raise FitError naming
    `what`. At least one step is done. Several workers (world.py) average their gradients, and worker 0 keeps the time.
    data: batches, with a `position` if the loop is to be resumed. state: where snapshots go, under `stage`;
    keep_end: the last of them where the loop ends, for another stage builds on it.
    """

    def __init__(
        self, module: nn.Module, data: Iterator[Tensor], loss_of: Callable[[Tensor], Tensor], budget: Budget, *,
        schedule: Schedule, what: str, progress: Progress | None = None, best: Best | None = None,
        state: FitState | None = None, stage: str = "fit", keep_end: bool = False,
    ) -> None:  # fmt: skip
        self.module, self.data, self.budget, self.schedule, self.what = module, data, budget, schedule, what
        self.progress, self.best, self.state, self.stage = progress, best, state, stage
        self.keep_end = keep_end
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(_groups(module, schedule), lr=schedule.lr, betas=(0.9, 0.95))
        self.ema = Ema(module, schedule.ema) if schedule.ema else None
        self.device = self.parameters[0].device
        self.losses: list[float] = []
        self.step = self.bad = 0
        self.objective: nn.Module = _Objective(module, loss_of)
        if this_worker().size > 1:
            self.objective = nn.parallel.DistributedDataParallel(self.objective, forward_sync_buffers=False)

    def run(self) -> tuple[int, list[tuple[int, float]]]:
        """(steps done, loss curve); the module has its best weights and is in evaluation mode."""
        self.budget.start_loop()
        self.module.train()
        while (share := first_of(self.budget.share(self.step), self.device)) < 1 or self.step == 0:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.at(share) * group["share"]
            if self.best is not None and self.step % self.best.every == 0:
                self.best.look(self.ema)
            self._one_step()
            if self.progress is not None:
                self.progress(self.step, self.losses[-1], self.budget.left(self.step))
            if self.state is not None and first_of(float(self.state.due()), self.device):
                self._save()
        if self.state is not None and self.keep_end:
            self._save()
        if self.best is not None:
            self.best.restore(self.ema)
        self.module.eval()
        return self.step, thin(self.losses)

    def _one_step(self) -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.objective(next(self.data))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip)
        value = mean_of(float(loss.detach()), self.device)
        if math.isfinite(value) and bool(torch.isfinite(norm)):
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update()
            self.bad = 0
        else:
            self.bad += 1
            if self.bad >= _MAX_BAD_STEPS:
                raise FitError(
                    f"fitting {self.what}: the loss or its gradient was not finite in {self.bad} steps in a row (step "
                    f"{self.step}, loss {value}); check the training data for NaN, or lower the learning rate from "
                    f"{self.schedule.lr}"
                )
        self.losses.append(value)
        self.step += 1

    # -- going on after a kill

    def _save(self) -> None:
        """Everything the next step depends on, from worker 0; its position counts in batches, which all workers share."""
        assert self.state is not None
        if this_worker().rank:
            return
        tensors = {f"module.{name}": value for name, value in all_tensors(self.module).items()}
        for i, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in slots.items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": value for name, value in self.ema.shadow.items()}
        if self.best is not None and self.best.state:
            tensors |= {f"best.{name}": value for name, value in self.best.state.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        meta = {
            "step": self.step, "seconds": self.budget.spent(), "position": list(getattr(self.data, "position", (0, 0))),
            "ema_steps": self.ema.steps if self.ema else 0,
            "figure": self.best.figure if self.best and self.best.state else None,
        }  # fmt: skip
        # A copy of each: one storage shared by two names is refused by the file format.
        self.state.save(self.stage, Snapshot({k: v.detach().cpu().clone() for k, v in tensors.items()}, meta))

    def resume(self, snapshot: Snapshot) -> None:
        """Stand where the snapshot was taken. The data must have been made to start at its position."""
        tensors, meta = snapshot.tensors, snapshot.meta
        restore_tensors(self.module, tensors, "module.")
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, i, slot = name.split(".", 2)
                slots.setdefault(int(i), {})[slot] = value
        known = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": slots, "param_groups": known["param_groups"]})
        if self.ema is not None:
            self.ema.steps = int(meta["ema_steps"])
            self.ema.shadow = {name: tensors[f"ema.{name}"].to(value) for name, value in self.ema.shadow.items()}
        if self.best is not None and meta["figure"] is not None:
            self.best.figure = float(meta["figure"])
            state = self.module.state_dict()
            self.best.state = {name: tensors[f"best.{name}"].to(value) for name, value in state.items()}
        self.losses, self.step = tensors["losses"].tolist(), int(meta["step"])
        self.budget.already(float(meta["seconds"]), self.step)


def optimise(
    module: nn.Module, data: Iterator[Tensor], loss_of: Callable[[Tensor], Tensor], budget: Budget, **settings: Any
) -> tuple[int, list[tuple[int, float]]]:
    """Run a `Loop` from the start: (steps done, loss curve)."""
    return Loop(module, data, loss_of, budget, **settings).run()


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
