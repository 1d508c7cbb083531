"""A diffusion decoder: from tokens to a sharp picture, where the plain decoder can only give the mean of all that fit.

A small U-Net on 4 x 4 patches denoises the picture, given the codes of its tokens and what the plain decoder makes of
them. It predicts x0 as the plain picture plus a correction that starts at zero, so it begins where the plain decoder
ends. 1,000 linear DDPM steps in training (Ho et al. 2020), DDIM without noise at most 25 (Song et al. 2021). The first
noise is drawn from a hash of the tokens: the same tokens always give the same picture.

Given up: 4M-21 trains the encoder through its diffusion decoder; here the tokens are finished before.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_shards.patches import patchify, start_at_zero, unpatchify

CELL = 4  # pixels a side of what the U-Net calls a pixel
STEPS = 1000
BETAS = (1e-4, 0.02)
_HALVINGS = 2
MULTIPLE = CELL << _HALVINGS  # sides must be multiples of it


def signal_shares() -> Tensor:
    """alpha-bar, (STEPS,): the share of the picture's variance left after each step of noising."""
    return torch.cumprod(1 - torch.linspace(*BETAS, STEPS, dtype=torch.float64), 0).float()


class _Res(nn.Module):
    """Two 3 x 3 convolutions around a shift and scale by the time, residual; the last starts at zero."""

    def __init__(self, inputs: int, width: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inputs), nn.GroupNorm(8, width)
        self.conv1, self.conv2 = nn.Conv2d(inputs, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(time, 2 * width)
        self.skip = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        start_at_zero(self.conv2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
        inner = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(inner) * (1 + scale) + shift))


class Diffusion(nn.Module):
    """channels: of the picture. latent: of a code. width: channels of the finest level, a multiple of 8. patch: pixels a
    side of a token.
    """

    shares: Tensor

    def __init__(self, channels: int, latent: int, width: int, patch: int) -> None:
        super().__init__()
        if width % 8:
            raise ValueError(f"diffusion_width must be a multiple of 8, got {width}")
        self.channels, self.latent, self.patch, cells = channels, latent, patch, channels * CELL**2
        self.register_buffer("shares", signal_shares(), persistent=False)
        time, wide = 4 * width, 2 * width
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.codes = nn.Conv2d(latent, width, 1)
        self.enter = nn.Conv2d(2 * cells + width, width, 3, padding=1)
        self.down = nn.ModuleList([_Res(width, width, time), _Res(width, wide, time)])
        self.middle = _Res(wide, wide, time)
        self.up = nn.ModuleList([_Res(2 * wide, wide, time), _Res(wide + width, width, time)])
        self.norm, self.leave = nn.GroupNorm(8, width), nn.Conv2d(width, cells, 3, padding=1)
        start_at_zero(self.leave)

    def forward(self, noisy: Tensor, step: Tensor, codes: Tensor, plain: Tensor) -> Tensor:
        """Pictures (n, channels, H, W) at steps (n,) of noising, codes (n * tokens, 1, latent) -> the clean pictures."""
        n, _, height, width = noisy.shape
        if height % MULTIPLE or width % MULTIPLE:
            raise ValueError(
                f"a diffusion decoder needs sides that are multiples of {MULTIPLE}, got {height} x {width}"
            )
        rows, columns, grid = height // CELL, width // CELL, height // self.patch
        known = self.codes(codes.reshape(n, grid, grid, self.latent).permute(0, 3, 1, 2))
        known = F.interpolate(known, (rows, columns), mode="nearest-exact")
        cells = [patchify(x, CELL).transpose(1, 2).reshape(n, -1, rows, columns) for x in (noisy, plain)]
        time = self.time(_sines(step, self.width))
        x = self.enter(torch.cat([*cells, known], 1))
        kept = []
        for block in self.down:
            x = block(x, time)
            kept.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.middle(x, time)
        for block in self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, kept.pop()], 1), time)
        change = self.leave(F.silu(self.norm(x))).flatten(2).transpose(1, 2)
        return plain + unpatchify(change.float(), CELL, self.channels, rows, columns)

    def loss(self, clean: Tensor, codes: Tensor, plain: Tensor, noise: torch.Generator) -> Tensor:
        """Squared error of the predicted clean picture at a random step of noising."""
        step = torch.randint(STEPS, (len(clean),), generator=noise, device=clean.device)
        drawn = torch.randn(clean.shape, generator=noise, device=clean.device)
        share = self.shares[step][:, None, None, None]
        noisy = share.sqrt() * clean + (1 - share).sqrt() * drawn
        return F.mse_loss(self(noisy, step, codes, plain), clean)

    @torch.no_grad()
    def sample(self, codes: Tensor, plain: Tensor, tokens: np.ndarray, steps: int) -> Tensor:
        """Pictures for tokens (n, tokens) in `steps` network calls, from noise that their hash decides."""
        x = torch.stack([_noise_of(row, plain.shape[1:]) for row in tokens]).to(plain)
        times = torch.linspace(STEPS - 1, 0, steps).round().long().tolist()
        for i, t in enumerate(times):
            clean = self(x, torch.full((len(x),), t, device=x.device), codes, plain)
            if i + 1 == len(times):
                return clean
            now, then = self.shares[t], self.shares[times[i + 1]]
            noise = (x - now.sqrt() * clean) / (1 - now).sqrt()
            x = then.sqrt() * clean + (1 - then).sqrt() * noise
        return plain


def _noise_of(row: np.ndarray, shape: torch.Size) -> Tensor:
    digest = hashlib.sha256(np.ascontiguousarray(row, np.int64).tobytes()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shape, generator=generator)


def _sines(step: Tensor, width: int) -> Tensor:
    omega = 1.0 / 10000 ** (torch.arange(width // 2, device=step.device) / (width // 2))
    angle = step[:, None].float() * omega
    return torch.cat([angle.sin(), angle.cos()], 1)
