"""A codebook learned by moving averages, for image patches (cosine, one head) and vectors (Euclidean, one head a
token).

vector_quantize_pytorch.VectorQuantize has the same mathematics, but builds one-hot matrices of latents x codes several
times a step: 0.063 s against 0.018 s for 1,568 latents and 4,096 codes on two cores, and gigabytes at 16,384 codes. Its
FSQ is used as it is (see vit_vq).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_shards.patches import kmeans, nearest
from tokenize_shards.world import add_up, take_from_first


class Codebook(nn.Module):
    """heads x codes vectors of `dim`. cosine: latents and codes are unit vectors. Only `embed` is saved.

    Codes that get less than `dead` of an equal share of the latents restart at random latents of the batch.
    """

    embed: Tensor
    size: Tensor
    total: Tensor
    chance: Tensor

    def __init__(self, heads: int, codes: int, dim: int, cosine: bool, decay: float = 0.99, dead: float = 0.05) -> None:
        super().__init__()
        self.heads, self.codes, self.cosine, self.decay, self.dead = heads, codes, cosine, decay, dead
        self.register_buffer("embed", torch.zeros(heads, codes, dim))
        self.register_buffer("size", torch.zeros(heads, codes), persistent=False)
        self.register_buffer("total", torch.zeros(heads, codes, dim), persistent=False)
        self.register_buffer("chance", torch.zeros(2, dtype=torch.long), persistent=False)  # seed, steps followed

    def prepare(self, z: Tensor) -> Tensor:
        """Latents as they are compared: float32, of unit length where the codebook is cosine."""
        return F.normalize(z.float(), dim=-1) if self.cosine else z.float()

    @torch.no_grad()
    def start(self, z: Tensor, batch: int, seed: int) -> None:
        """k-means of latents z (n, heads, dim). batch: latents a head in one training step, for the moving averages."""
        self.chance[0] = seed
        generator = torch.Generator().manual_seed(seed)
        z = self.prepare(z)
        for head in range(self.heads):
            centres, counts = kmeans(z[:, head], self.codes, generator)
            self.embed[head] = F.normalize(centres, dim=-1) if self.cosine else centres
            share = counts / counts.sum()
            # A code that few rows made is no dead code: keep every one alive for the first moving-average window.
            self.size[head] = (share * batch).clamp(min=4 * self.dead * batch / self.codes)
        self.total.copy_(self.embed * self.size[..., None])

    @torch.no_grad()
    def index(self, z: Tensor) -> Tensor:
        """Latents (n, heads, dim) -> ids (n, heads) of the nearest codes."""
        z = self.prepare(z)
        return torch.stack([nearest(z[:, head], self.embed[head]) for head in range(self.heads)], 1)

    def lookup(self, ids: Tensor) -> Tensor:
        """Ids (n, heads) -> codes (n, heads, dim)."""
        return self.embed[torch.arange(self.heads, device=ids.device), ids]

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (n, heads, dim) -> codes, with the gradient passed straight through, and the commitment loss."""
        z = self.prepare(z)
        ids = self.index(z)
        codes = self.lookup(ids)
        commitment = (z - codes).square().sum(-1).mean()
        if self.training:
            self._follow(z.detach(), ids)
        return z + (codes - z).detach(), commitment

    @torch.no_grad()
    def _follow(self, z: Tensor, ids: Tensor) -> None:
        dim = z.shape[-1]
        flat = (ids + torch.arange(self.heads, device=ids.device) * self.codes).reshape(-1)
        counts = torch.bincount(flat, minlength=self.heads * self.codes).to(z.dtype).view_as(self.size)
        sums = z.new_zeros(self.heads * self.codes, dim).index_add_(0, flat, z.reshape(-1, dim)).view_as(self.total)
        add_up(counts, sums)
        # All that is decided here comes from sums over the workers: whose batch differs in size, or is not finite, must
        # exchange neither more nor less than the others.
        if not bool(torch.isfinite(sums).all()):
            return
        self.size.lerp_(counts, 1 - self.decay)
        self.total.lerp_(sums, 1 - self.decay)
        moved = self.total / self.size.clamp(min=1e-8)[..., None]
        self.embed.copy_(F.normalize(moved, dim=-1) if self.cosine else moved)
        self.chance[1] += 1
        floor = self.dead * float(counts[0].sum()) / self.codes
        head, code = (self.size < floor).nonzero().unbind(1)
        if len(head):
            generator = torch.Generator().manual_seed(int(self.chance[0]) * 1_000_003 + int(self.chance[1]))
            rows = torch.randint(len(z), (len(head),), generator=generator).to(z.device)
            self.embed[head, code] = z[rows, head]
            self.size[head, code] = 4 * floor
            self.total[head, code] = 4 * floor * z[rows, head]
            take_from_first(self.embed, self.total)


# Level counts whose product is near the vocabulary asked for (Mentzer et al. 2023, "Finite Scalar Quantization", table
# 1).
FSQ_LEVELS: dict[int, tuple[int, ...]] = {
    256: (8, 6, 5),
    512: (8, 8, 8),
    1024: (8, 5, 5, 5),
    4096: (7, 5, 5, 5, 5),
    8192: (8, 8, 8, 4, 4),
    16384: (8, 8, 8, 6, 5),
}


class Fsq(nn.Module):
    """Finite scalar quantisation with the interface of `Codebook`: a fixed grid, nothing to learn, one head."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        from vector_quantize_pytorch import FSQ

        super().__init__()
        self.grid = FSQ(levels=list(levels))
        self.codes = self.grid.codebook_size

    def start(self, z: Tensor, batch: int, seed: int) -> None:
        """Nothing: the grid is fixed."""

    @torch.no_grad()
    def index(self, z: Tensor) -> Tensor:
        return self.grid(z.float())[1].long()

    def lookup(self, ids: Tensor) -> Tensor:
        return self.grid.indices_to_codes(ids[:, 0])[:, None]

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.grid(z.float())[0], z.new_zeros(())
