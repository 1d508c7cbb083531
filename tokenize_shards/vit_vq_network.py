"""The network of ViT-VQ: a ViT encoder and decoder around a codebook of unit vectors, and its start values.

Both ends are residual: the network adds to a linear path that starts as principal components of patches, and the
codebook starts as k-means, so an unfitted network already is a k-means codebook of patches and fitting only improves
it. The linear latent is (1, scores) on the plane at height HEIGHT; its direction is what the codebook compares, so that
cosine similarity ranks codes almost as Euclidean distance does and no brightness is lost to the normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_shards.codebook import FSQ_LEVELS, Codebook, Fsq
from tokenize_shards.patches import patchify, pca, unpatchify

HEIGHT = 2.0  # of the plane of linear latents whose mean squared score is 1; higher is closer to Euclidean


@dataclass(frozen=True)
class Size:
    """Layers of the encoder and of the decoder each, width, attention heads."""

    depth: int
    width: int
    heads: int


SIZES: dict[str, Size] = {
    "micro": Size(2, 128, 2),
    "tiny": Size(6, 384, 6),
    "S": Size(8, 512, 8),
    "B": Size(12, 768, 12),
    "L": Size(24, 1024, 16),
}


@dataclass(frozen=True)
class ViTVQConfig:
    """modality: its name, for messages. content: one of content.CONTENTS. resolution: pixels (or feature cells) a side.
    channels: of features; 3 for pixels and normals, 1 for edges, depth and masks; for classes, how many there are.
    patch: side of a token. vocab: codes asked for. fsq rounds it to a grid, see FSQ_LEVELS. batch: views a step; lr:
    highest learning rate.
    """

    modality: str = "rgb"
    content: Literal["pixels", "edges", "features", "classes", "depth", "normals", "masks"] = "pixels"
    resolution: int = 112
    channels: int = 3
    patch: int = 8
    vocab: int = 4096
    size: str = "micro"
    latent: int = 32
    codebook: Literal["cosine", "fsq"] = "cosine"
    batch: int = 8
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if self.resolution % self.patch:
            raise ValueError(f"{self.modality}: resolution {self.resolution} is no multiple of patch {self.patch}")
        if self.size not in SIZES:
            raise ValueError(f"{self.modality}: unknown size {self.size!r}; known: {', '.join(SIZES)}")
        if self.codebook == "fsq" and self.vocab not in FSQ_LEVELS:
            raise ValueError(f"{self.modality}: fsq has grids for {sorted(FSQ_LEVELS)} codes, not {self.vocab}")
        if not 2 <= self.vocab <= 65536:
            raise ValueError(f"{self.modality}: vocab must be 2..65536 (tokens are uint16), got {self.vocab}")


def sincos_positions(side: int, width: int) -> Tensor:
    """Fixed 2-D positions of a side x side grid, (side * side, width): a quarter each of sin x, cos x, sin y, cos y."""
    omega = 1.0 / 10000 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * omega
    along = torch.cat([angle.sin(), angle.cos()], 1)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cat([along[x.flatten()], along[y.flatten()]], 1)


class Block(nn.Module):
    """Pre-norm self-attention and MLP over (n, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.out(mixed)
        return x + self.mlp(self.norm2(x))


class Tower(nn.Module):
    """(n, tokens, inputs) -> (n, tokens, outputs): embedding + positions, blocks, a head that starts at zero."""

    positions: Tensor

    def __init__(self, inputs: int, outputs: int, side: int, size: Size) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, size.width)
        self.register_buffer("positions", sincos_positions(side, size.width), persistent=False)
        self.blocks = nn.Sequential(*(Block(size.width, size.heads) for _ in range(size.depth)))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.positions)))


class Network(nn.Module):
    """Encoder, codebook and decoder of a config. Images are (n, channels, H, W), with the channels of the content."""

    def __init__(self, config: ViTVQConfig, channels: int) -> None:
        super().__init__()
        self.patch, self.channels = config.patch, channels
        self.side = config.resolution // config.patch
        cells = channels * config.patch**2
        self.cosine = config.codebook == "cosine"
        self.codebook: Codebook | Fsq
        if self.cosine:
            self.latent = config.latent
            self.codebook = Codebook(1, config.vocab, self.latent, cosine=True)
        else:
            self.latent = len(FSQ_LEVELS[config.vocab])
            self.codebook = Fsq(FSQ_LEVELS[config.vocab])
        size = SIZES[config.size]
        self.encoder = Tower(cells, self.latent, self.side, size)
        self.encoder_line = nn.Linear(cells, self.latent)
        self.decoder = Tower(self.latent, cells, self.side, size)
        self.decoder_line = nn.Linear(self.latent - 1 if self.cosine else self.latent, cells)

    def latents(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n * tokens, 1, latent)."""
        x = patchify(images, self.patch)
        return (self.encoder_line(x) + self.encoder(x)).reshape(-1, 1, self.latent)

    def flat(self, codes: Tensor) -> Tensor:
        """What the linear decoder sees of codes (..., latent): their point on the plane at height 1, if directions."""
        return codes[..., 1:] / codes[..., :1].clamp(min=0.1) if self.cosine else codes

    def draw(self, codes: Tensor) -> Tensor:
        """Codes (n * tokens, 1, latent) -> (n, channels, H, W)."""
        codes = codes.reshape(-1, self.side**2, self.latent)
        patches = self.decoder_line(self.flat(codes)) + self.decoder(codes)
        return unpatchify(patches.float(), self.patch, self.channels, self.side, self.side)

    @torch.no_grad()
    def start(self, rows: Tensor, batch: int, seed: int) -> None:
        """Linear paths and codebook from patches (n, cells): principal components, k-means, least squares."""
        k = min(self.latent - 1 if self.cosine else self.latent, rows.shape[1])
        parts = pca(rows, k)
        first = 1 if self.cosine else 0
        # One scale for all scores keeps distances; a grid wants every score to fill its own range.
        scale = parts.variance.sum().sqrt().expand(k) if self.cosine else parts.variance.sqrt()
        basis = parts.basis / scale.clamp(min=1e-6)[:, None]
        nn.init.zeros_(self.encoder_line.weight)
        nn.init.zeros_(self.encoder_line.bias)
        self.encoder_line.weight[first : first + k] = basis
        self.encoder_line.bias[first : first + k] = -basis @ parts.mean
        if self.cosine:
            self.encoder_line.bias[0] = HEIGHT
        z = self.encoder_line(rows)[:, None]
        self.codebook.start(z, batch, seed)
        codes = self.flat(self.codebook.lookup(self.codebook.index(z))[:, 0])
        design = torch.cat([codes, torch.ones_like(codes[:, :1])], 1).double()
        ridge = 1e-4 * len(design) * torch.eye(design.shape[1], dtype=torch.float64, device=rows.device) * design.var()
        fit = torch.linalg.solve(design.T @ design + ridge, design.T @ rows.double()).float()
        self.decoder_line.weight.copy_(fit[:-1].T)
        self.decoder_line.bias.copy_(fit[-1])
