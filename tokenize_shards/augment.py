"""Training batches of an image-like tokenizer: views as tensors, mirrored, shifted, resized, all by a fixed chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenize_shards.content import Content
from tokenize_shards.source import Batches, Position


class Augmented:
    """Endless batches of tensors; mirrored and shifted by less than a patch where the content allows it.

    What happens to a batch depends on (seed, its number, rank) alone, so that a resumed fit goes on as it would have.
    first: number of the first batch. sides: resolutions, one of which is drawn for each batch.
    """

    def __init__(
        self, batches: Batches, content: Content, patch: int, sides: Sequence[int], device: torch.device,
        seed: int = 0, rank: int = 0, first: int = 0,
    ) -> None:  # fmt: skip
        self.batches, self.content, self.patch, self.sides, self.device = batches, content, patch, tuple(sides), device
        self.seed, self.rank, self.number = seed, rank, first

    @property
    def position(self) -> Position:
        return self.batches.position

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        rng = np.random.default_rng([self.seed, self.number, self.rank])
        self.number += 1
        x = self.content.to_tensor(next(self.batches), self.device)
        if self.content.flips:
            flip = torch.from_numpy(rng.random(len(x)) < 0.5).to(self.device)
            x = torch.where(flip[:, None, None, None], self.content.mirror(x), x)
            dy, dx = (int(v) for v in rng.integers(0, self.patch, 2))
            x = F.pad(x, (0, dx, 0, dy), mode="reflect")[..., dy:, dx:]
        side = int(self.sides[rng.integers(len(self.sides))])
        return x if x.shape[-1] == side else self.content.resize(x, side)

    def close(self) -> None:
        self.batches.close()
