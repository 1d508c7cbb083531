"""Which weights a fit ends with: the running ones, their moving average, or the best seen on watched views."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tokenize_shards.world import mean_of


class Ema:
    """Moving average of a module's parameters. It follows fast at first, so that short fits have one as well."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.steps = module, decay, 0
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        weight = 1 - min(self.decay, self.steps / (10 + self.steps))
        parameters = dict(self.module.named_parameters())
        torch._foreach_lerp_(list(self.shadow.values()), [parameters[name].data for name in self.shadow], weight)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The module has the averaged parameters for as long as this lasts."""
        parameters = dict(self.module.named_parameters())
        before = {name: parameters[name].data for name in self.shadow}
        for name, value in self.shadow.items():
            parameters[name].data = value
        try:
            yield
        finally:
            for name, running in before.items():
                parameters[name].data = running


class Best:
    """Keeps the weights with the lowest validation figure, start values included: few data must not make things worse.

    measure: the figure of the module as it is, on this worker's views. every: steps between two looks. With an average,
    each look compares it too.
    """

    def __init__(self, module: nn.Module, measure: Callable[[], float], every: int = 50) -> None:
        self.module, self.measure, self.every = module, measure, every
        self.figure = math.inf
        self.state: dict[str, Tensor] = {}

    def look(self, ema: Ema | None = None) -> None:
        self._compare()
        if ema is not None and ema.steps:
            with ema.in_force():
                self._compare()

    def _compare(self) -> None:
        device = next(self.module.parameters()).device
        figure = mean_of(self.measure(), device)
        if figure < self.figure:
            self.figure, self.state = figure, copy.deepcopy(self.module.state_dict())

    def restore(self, ema: Ema | None = None) -> None:
        self.look(ema)
        self.module.load_state_dict(self.state)


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those included that `state_dict` leaves out."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@torch.no_grad()
def restore_tensors(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Fill parameters and buffers from tensors named prefix + name. KeyError where one is missing."""
    for name, value in all_tensors(module).items():
        value.copy_(tensors[prefix + name])
