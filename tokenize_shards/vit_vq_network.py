"""The network of ViT-VQ: a ViT encoder and decoder around a codebook of unit vectors, and its start values.

Both ends are residual: the network adds to a linear path that starts as principal components of patches, and the
codebook starts as k-means, so an unfitted network already is a k-means codebook of patches and fitting only improves
it. The linear decoder sees a code and its eight neighbours, which smooths the seams between patches from the start. The
linear latent is (1, scores) on the plane at height HEIGHT; its direction is what the codebook compares, so that cosine
similarity ranks codes almost as Euclidean distance does and no brightness is lost to the normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_shards.codebook import FSQ_LEVELS, Codebook, Fsq
from tokenize_shards.patches import patchify, pca, start_at_zero, unpatchify

HEIGHT = 2.0  # of the plane of linear latents whose mean squared score is 1; higher is closer to Euclidean
_SOLVED_ROWS = 65536  # patches for the least squares of the linear decoder


@dataclass(frozen=True)
class Size:
    """Layers of the encoder and of the decoder each, width, attention heads. local: each block looks at a token's eight
    neighbours first; short fits learn much sooner what is near than attention alone would.
    """

    depth: int
    width: int
    heads: int
    local: bool = False


SIZES: dict[str, Size] = {
    "micro": Size(2, 128, 2, local=True),
    "tiny": Size(6, 384, 6),
    "S": Size(8, 512, 8),
    "B": Size(12, 768, 12),
    "L": Size(24, 1024, 16),
}


@dataclass(frozen=True)
class ViTVQConfig:
    """modality: its name, for messages. content: one of contents.CONTENTS. resolution: pixels (or feature cells) a side.
    channels: of features; 3 for pixels and normals, 1 for edges, depth and masks; for classes, how many there are.
    patch: side of a token. vocab: codes asked for. fsq rounds it to a grid, see FSQ_LEVELS. batch: views a step; lr:
    highest learning rate; ema: decay of the weights' moving average, 0 for none. resolutions: other sides that can be
    encoded with the same weights, fitted in a last stage. decoder: "diffusion" adds one (diffusion.py).
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
    ema: float = 0.999
    resolutions: Sequence[int] = ()
    decoder: Literal["plain", "diffusion"] = "plain"
    diffusion_width: int = 64
    diffusion_steps: int = 25

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolutions", tuple(self.resolutions))  # JSON and YAML have lists
        for side in (self.resolution, *self.resolutions):
            if side % self.patch or side < self.patch:
                raise ValueError(f"{self.modality}: resolution {side} is no multiple of patch {self.patch}")
        if self.size not in SIZES:
            raise ValueError(f"{self.modality}: unknown size {self.size!r}; known: {', '.join(SIZES)}")
        if self.codebook == "fsq" and self.vocab not in FSQ_LEVELS:
            raise ValueError(f"{self.modality}: fsq has grids for {sorted(FSQ_LEVELS)} codes, not {self.vocab}")
        if not 2 <= self.vocab <= 65536:
            raise ValueError(f"{self.modality}: vocab must be 2..65536 (tokens are uint16), got {self.vocab}")
        if self.decoder not in ("plain", "diffusion"):
            raise ValueError(f"{self.modality}: unknown decoder {self.decoder!r}; known: plain, diffusion")
        if self.decoder == "diffusion" and self.content not in ("pixels", "depth", "normals", "edges"):
            raise ValueError(f"{self.modality}: a diffusion decoder draws pictures, depth, normals or edges")
        if self.decoder == "diffusion" and any(side % 16 for side in (self.resolution, *self.resolutions)):
            raise ValueError(f"{self.modality}: a diffusion decoder needs resolutions that are multiples of 16")
        if not 1 <= self.diffusion_steps <= 25:
            raise ValueError(f"{self.modality}: diffusion_steps must be 1..25, got {self.diffusion_steps}")


def sincos_positions(side: int, width: int, base: int = 0) -> Tensor:
    """Fixed 2-D positions of a side x side grid, (side * side, width): a quarter each of sin x, cos x, sin y, cos y.

    base: the side the weights know; cells of a finer grid lie between its cells, at the same place of the picture.
    """
    omega = 1.0 / 10000 ** (torch.arange(width // 4) / (width // 4))
    place = (torch.arange(side) + 0.5) * ((base or side) / side) - 0.5
    angle = place[:, None] * omega
    along = torch.cat([angle.sin(), angle.cos()], 1)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cat([along[x.flatten()], along[y.flatten()]], 1)


class Block(nn.Module):
    """Pre-norm self-attention and MLP over a square grid of tokens (n, side * side, width)."""

    def __init__(self, width: int, heads: int, local: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm0 = nn.LayerNorm(width) if local else None
        self.near = nn.Conv2d(width, width, 3, padding=1, groups=width) if local else None
        if self.near is not None:
            start_at_zero(self.near)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        if self.near is not None and self.norm0 is not None:
            side = math.isqrt(tokens)
            grid = self.norm0(x).transpose(1, 2).reshape(n, width, side, side)
            x = x + self.near(grid).flatten(2).transpose(1, 2)
        qkv = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.out(mixed)
        return x + self.mlp(self.norm2(x))


class Tower(nn.Module):
    """(n, tokens, inputs) -> (n, tokens, outputs): embedding + positions, blocks, a head that starts at zero."""

    positions: Tensor

    def __init__(self, inputs: int, outputs: int, side: int, size: Size) -> None:
        super().__init__()
        self.embed, self.side = nn.Linear(inputs, size.width), side
        self.register_buffer("positions", sincos_positions(side, size.width), persistent=False)
        self.blocks = nn.Sequential(*(Block(size.width, size.heads, size.local) for _ in range(size.depth)))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, outputs)
        start_at_zero(self.head)

    def forward(self, x: Tensor) -> Tensor:
        side = math.isqrt(x.shape[1])
        positions = self.positions
        if side != self.side:
            positions = sincos_positions(side, positions.shape[1], self.side).to(positions)
        return self.head(self.norm(self.blocks(self.embed(x) + positions)))


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
        # Adam moves a weight by the learning rate whatever its size. The linear paths are small and already right, and a
        # head whose weights all move at once throws the picture, or the latents, further than a short fit brings them
        # back. Latents that move leave their codes behind, so where fits are short the encoder hardly moves at all.
        slow = 0.0005 if size.local else 0.01
        self.gentle = {
            "encoder_line": slow, "encoder.head": 6 * slow, "decoder_line": 0.02, "decoder.head": 0.3 if size.local else 0.1
        }  # fmt: skip
        self.encoder = Tower(cells, self.latent, self.side, size)
        self.encoder_line = nn.Linear(cells, self.latent)
        self.scores = self.latent - 1 if self.cosine else self.latent
        # Scores are about 1 / HEIGHT all together; a network that has to tell them apart wants about 1 each.
        self.spread = HEIGHT * self.scores**0.5 if self.cosine else 1.0
        self.decoder = Tower(self.scores, cells, self.side, size)
        self.decoder_line = nn.Conv2d(self.scores, cells, 3, padding=1)

    def latents(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n * tokens, 1, latent)."""
        x = patchify(images, self.patch)
        return (self.encoder_line(x) + self.encoder(x)).reshape(-1, 1, self.latent)

    def flat(self, codes: Tensor) -> Tensor:
        """What the linear decoder sees of codes (..., latent): their point on the plane at height 1, if directions."""
        return codes[..., 1:] / codes[..., :1].clamp(min=0.1) if self.cosine else codes

    def grid(self, codes: Tensor, side: int) -> Tensor:
        """What the linear decoder sees of codes (n * side * side, 1, latent): (n, scores, side, side)."""
        return self.flat(codes).reshape(-1, side, side, self.scores).permute(0, 3, 1, 2)

    def draw(self, codes: Tensor, side: int = 0) -> Tensor:
        """Codes (n * side * side, 1, latent) -> (n, channels, H, W); side: of the grid, that of the config where 0."""
        side = side or self.side
        codes = codes.reshape(-1, side**2, self.latent)
        line = self.decoder_line(self.grid(codes, side)).flatten(2).transpose(1, 2)
        return unpatchify(
            (line + self.decoder(self.spread * self.flat(codes))).float(), self.patch, self.channels, side, side
        )

    @torch.no_grad()
    def start(self, views: Sequence[Tensor], rows: int, batch: int, seed: int) -> None:
        """Linear encoder and codebook from batches of views (n, channels, H, W): principal components, k-means of `rows`
        patches. `solve` makes the decoder.
        """
        every = torch.cat([patchify(x, self.patch).flatten(0, 1) for x in views])
        pick = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:rows]
        chosen = every[pick.to(every.device)]
        del every
        k = min(self.scores, chosen.shape[1])
        parts = pca(chosen, k)
        first = 1 if self.cosine else 0
        # One scale for all scores keeps distances; a grid wants every score to fill its own range.
        scale = parts.variance.sum().sqrt().expand(k) if self.cosine else parts.variance.sqrt()
        basis = parts.basis / scale.clamp(min=1e-6)[:, None]
        start_at_zero(self.encoder_line)
        self.encoder_line.weight[first : first + k] = basis
        self.encoder_line.bias[first : first + k] = -basis @ parts.mean
        if self.cosine:
            self.encoder_line.bias[0] = HEIGHT
        self.codebook.start(self.encoder_line(chosen)[:, None], batch, seed)

    @torch.no_grad()
    def settle(self, x: Tensor) -> None:
        """Let the codebook follow views by its moving averages alone: k-means that goes on, on other crops."""
        self.codebook(self.encoder_line(patchify(x, self.patch)).reshape(-1, 1, self.latent))

    @torch.no_grad()
    def solve(self, views: Sequence[Tensor]) -> None:
        """The linear decoder by least squares, from the codes of views (n, channels, H, W) in their places."""
        cut = [patchify(x, self.patch) for x in views]
        wide = 9 * self.scores + 1
        left, right = (
            torch.zeros(wide, wide, dtype=torch.float64),
            torch.zeros(wide, cut[0].shape[2], dtype=torch.float64),
        )
        left, right, seen = left.to(cut[0].device), right.to(cut[0].device), 0
        for x in cut:
            codes = self.codebook.lookup(self.codebook.index(self.encoder_line(x).reshape(-1, 1, self.latent)))
            around = F.unfold(self.grid(codes, math.isqrt(x.shape[1])), 3, padding=1).transpose(1, 2).flatten(0, 1)
            design = torch.cat([around, torch.ones_like(around[:, :1])], 1)
            left += (design.T @ design).double()
            right += (design.T @ x.flatten(0, 1)).double()
            seen += len(design)
            if seen >= _SOLVED_ROWS:
                break
        # Views that are all alike leave nothing to solve but the mean.
        ridge = (
            1e-3
            * left.diagonal()[:-1].mean().clamp(min=1e-9 * seen)
            * torch.eye(wide, dtype=left.dtype, device=left.device)
        )
        ridge[-1, -1] = 1e-9 * seen  # the mean costs nothing
        found = torch.linalg.solve(left + ridge, right).float()
        self.decoder_line.weight.copy_(found[:-1].T.reshape(self.decoder_line.weight.shape))
        assert self.decoder_line.bias is not None
        self.decoder_line.bias.copy_(found[-1])
