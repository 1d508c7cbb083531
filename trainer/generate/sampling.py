"""Drawing tokens from scores, with noise that belongs to a sample and a place, not to the batch it is decoded in."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConfigError
from trainer.model import Model
from trainer.streams import Stream


class Noise:
    """Uniform numbers that are a pure function of (seed, key of the sample, target, purpose, round, place)."""

    def __init__(self, seed: int, keys: Sequence[str], target: str) -> None:
        self.seed, self.keys, self.target = seed, list(keys), target

    def uniform(self, what: str, step: int, width: int, rows: Sequence[int] | None = None) -> npt.NDArray[np.float64]:
        """(rows, width) in [0, 1); rows: numbers of samples, all where None."""
        chosen = range(len(self.keys)) if rows is None else rows
        found = np.empty((len(chosen), width))
        for place, row in enumerate(chosen):
            digest = hashlib.sha256(f"{self.seed}:{self.keys[row]}:{self.target}:{what}:{step}".encode()).digest()
            found[place] = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(
                width
            )
        return found


class Head:
    """The scores of the ids that may be written, and of no others: a palette needs 264 rows of a text head of 30,000.

    allowed: ids, all where None.
    """

    def __init__(self, model: Model, stream: Stream, allowed: npt.NDArray[np.integer] | None) -> None:
        self.weight, self.own = model.head_weights()[stream.table], None
        if allowed is not None and len(allowed) < stream.vocab:
            self.own = torch.from_numpy(np.unique(allowed.astype(np.int64))).to(self.weight.device)
            self.weight = self.weight[self.own]

    def scores(self, hidden: Tensor) -> Tensor:
        """(..., d) -> (..., ids that may be written)."""
        return F.linear(hidden, self.weight)

    def ids(self, places: Tensor) -> Tensor:
        """From columns of the scores to token ids."""
        return places if self.own is None else self.own[places]


@dataclass(frozen=True)
class Picker:
    """Chooses tokens from scores. top_k: the likeliest k only, 0 for all. top_p: the fewest that hold this share of the
    probability.
    """

    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(f"top_k {self.top_k} must be at least 0, and top_p {self.top_p} in (0, 1]")

    def __call__(self, scores: Tensor, temperature: float, uniform: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """scores: (N, n); uniform: (N,), one number a token is enough (the inverse of the distribution function).
        Returns columns (N,) and the log-probability of each without temperature and cuts, by which rounds choose what
        to keep. Temperature 0 takes the likeliest.
        """
        scores = scores.float()
        top, best = scores.max(-1)
        weight = (scores - top[:, None]).exp_()
        total = weight.sum(-1).log()
        if temperature == 0:
            return best, -total
        if temperature != 1:
            weight = ((scores - top[:, None]) / temperature).exp_()
        chosen = self._draw(weight, torch.from_numpy(uniform).to(scores.device))
        return chosen, scores.gather(-1, chosen[:, None])[:, 0] - top - total

    def _draw(self, weight: Tensor, uniform: Tensor) -> Tensor:
        """Columns drawn in proportion to weights (N, n), with the cuts applied."""
        order: Tensor | None = None
        if 0 < self.top_k < weight.shape[-1]:
            weight, order = weight.topk(self.top_k, dim=-1)
        elif self.top_p < 1:
            weight, order = weight.sort(dim=-1, descending=True)
        if self.top_p < 1:
            share = weight / weight.sum(-1, keepdim=True)
            weight = weight.masked_fill(share.cumsum(-1) - share > self.top_p, 0.0)
        place = inverse(weight, uniform)
        return place if order is None else order.gather(-1, place[:, None])[:, 0]


def inverse(weight: Tensor, uniform: Tensor) -> Tensor:
    """Columns where the running sum of weights (N, n) passes a share `uniform` (N,) of the whole; never one of weight 0.

    In two steps, over sums of blocks and inside one block, which spares most of a running sum over the vocabulary.
    """
    size = max(1, math.isqrt(weight.shape[-1]))
    blocks = F.pad(weight, (0, -weight.shape[-1] % size)).unflatten(-1, (-1, size))
    ends = blocks.sum(-1).double().cumsum(-1)
    wanted = uniform[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, wanted, right=True).clamp(max=ends.shape[-1] - 1)
    before = torch.where(block > 0, ends.gather(-1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block[:, :, None].expand(-1, 1, size))[:, 0].double()
    # Rounding may point past the last token of the block that has any weight: that one is meant then.
    last = size - 1 - (inside > 0).int().flip(-1).argmax(-1, keepdim=True)
    place = torch.searchsorted(inside.cumsum(-1), wanted - before, right=True).minimum(last)
    return (block * size + place)[:, 0]
