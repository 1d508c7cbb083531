"""Patches of images, and the start values of tokenizers: principal components and k-means.

On a budget of a minute, start values matter more than the size of the network: started at random, a tokenizer of 256
tokens gives a blurred mosaic; started here, it begins at a k-means codebook of patches and only gets better.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_WIDE = 1024  # numbers a patch above which principal components are found by iteration, not all at once
_CELLS = 1 << 25  # distances held at once by `nearest`: 128 MiB of float32


def patchify(images: Tensor, patch: int) -> Tensor:
    """(n, c, H, W) -> (n, H/patch * W/patch, c * patch * patch), rows first."""
    n, c, height, width = images.shape
    rows, cols = height // patch, width // patch
    cells = images.reshape(n, c, rows, patch, cols, patch).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(n, rows * cols, c * patch * patch)


def unpatchify(patches: Tensor, patch: int, channels: int, rows: int, cols: int) -> Tensor:
    """The inverse of `patchify`: (n, rows * cols, channels * patch * patch) -> (n, channels, H, W)."""
    cells = patches.reshape(-1, rows, cols, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(-1, channels, rows * patch, cols * patch)


def start_at_zero(layer: nn.Module) -> None:
    """Weights and biases 0: what the layer adds begins as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


@dataclass(frozen=True)
class Pca:
    """mean (d,), basis (k, d) with orthonormal rows, largest variance first, variance (k,)."""

    mean: Tensor
    basis: Tensor
    variance: Tensor


def pca(x: Tensor, k: int) -> Pca:
    """Principal components of the rows of x (n, d), k <= d; directions that x does not span have variance 0."""
    mean = x.mean(0)
    centred = x - mean
    if x.shape[1] > _WIDE and k < x.shape[1] // 4:
        basis, variance = _leading(centred, k)
    else:
        wide = centred.double()
        values, vectors = torch.linalg.eigh(wide.T @ wide / max(1, len(x) - 1))
        order = torch.arange(len(values) - 1, len(values) - 1 - k, -1)
        basis, variance = vectors[:, order].T, values[order]
    basis = basis * torch.where(basis.sum(1, keepdim=True) < 0, -1.0, 1.0)  # a fixed sign, for reproducible weights
    return Pca(mean, basis.to(x.dtype).contiguous(), variance.clamp(min=0).to(x.dtype))


def _leading(centred: Tensor, k: int, rounds: int = 4) -> tuple[Tensor, Tensor]:
    """The first k principal directions (k, d) and their variances, by subspace iteration from a fixed random start."""
    guess = torch.randn(centred.shape[1], k + 8, generator=torch.Generator().manual_seed(0)).to(centred)
    for _ in range(rounds):
        guess = torch.linalg.qr(centred.T @ (centred @ guess)).Q
    _, spread, turn = torch.linalg.svd(centred @ guess, full_matrices=False)
    return (guess @ turn.T).T[:k], spread[:k].square() / max(1, len(centred) - 1)


def nearest(x: Tensor, codes: Tensor) -> Tensor:
    """Index (n,) of the code (k, d) nearest to each row of x (n, d) in Euclidean distance; ties go to the lowest index.

    On unit vectors this is the largest cosine.
    """
    half = codes.square().sum(1) / 2
    step = max(1, _CELLS // len(codes))
    parts = [torch.addmm(half, x[i : i + step], codes.T, beta=-1).argmax(1) for i in range(0, len(x), step)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long, device=x.device)


def kmeans(x: Tensor, k: int, generator: torch.Generator, iterations: int = 8) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means of the rows of x (n, d): centres (k, d) and how many rows each has (k,).

    Empty clusters restart at random rows. With n <= k rows, the rows themselves are the first n centres and the others
    are drawn from a normal distribution of the rows' mean and spread (count 0), so that unseen data finds codes that
    differ. generator: on the CPU.
    """
    n = len(x)
    order = torch.randperm(n, generator=generator).to(x.device)
    if n <= k:
        spread = x.std(0, unbiased=False) if n > 1 else x[0].abs() * 0.1
        extra = torch.randn(k - n, x.shape[1], generator=generator).to(x) * spread + x.mean(0)
        counts = torch.zeros(k, device=x.device)
        counts[:n] = 1
        return torch.cat([x[order], extra]), counts
    centres = x[order[:k]].clone()
    counts = torch.ones(k, device=x.device)
    for _ in range(iterations):
        index = nearest(x, centres)
        counts = torch.bincount(index, minlength=k).to(x.dtype)
        sums = torch.zeros_like(centres).index_add_(0, index, x)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            centres[empty] = x[torch.randint(n, (len(empty),), generator=generator).to(x.device)]
    return centres, counts
