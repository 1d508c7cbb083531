"""Patches and the start values made of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenize_shards import patches
from tokenize_shards.patches import kmeans, nearest, patchify, pca, unpatchify

SMALL = st.integers(1, 4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(SMALL, SMALL, SMALL, SMALL, SMALL)
def test_patches_come_back(n: int, channels: int, rows: int, cols: int, patch: int) -> None:
    images = torch.arange(n * channels * rows * cols * patch**2).float().view(n, channels, rows * patch, cols * patch)
    cells = patchify(images, patch)
    assert cells.shape == (n, rows * cols, channels * patch**2)
    assert torch.equal(unpatchify(cells, patch, channels, rows, cols), images)
    r, c = rows - 1, cols // 2
    block = images[-1, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
    assert torch.equal(cells[-1, r * cols + c], block.flatten()), "patches go row by row, each channels first"


def test_components_are_orthonormal_and_rebuild_a_plane() -> None:
    plane = torch.randn(200, 3, generator=seeded()) * torch.tensor([5.0, 2.0, 0.5])
    x = plane @ torch.linalg.qr(torch.randn(10, 3, generator=seeded(1)))[0].T + 7
    parts = pca(x, 5)
    assert torch.allclose(parts.basis @ parts.basis.T, torch.eye(5), atol=1e-5)
    assert torch.allclose(parts.mean, x.mean(0))
    assert (parts.variance.diff() <= 1e-6).all()
    assert parts.variance[3:].max() < 1e-6 < parts.variance[2]
    scores = (x - parts.mean) @ parts.basis[:3].T
    assert torch.allclose(scores @ parts.basis[:3] + parts.mean, x, atol=1e-4)
    assert torch.allclose(scores.var(0), parts.variance[:3], rtol=1e-4)
    assert (parts.basis.sum(1) >= 0).all(), "a fixed sign"


def test_components_of_one_row_have_no_variance() -> None:
    parts = pca(torch.ones(1, 4), 4)
    assert torch.isfinite(parts.basis).all() and parts.variance.tolist() == [0, 0, 0, 0]


def test_nearest_is_the_least_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    x, codes = torch.randn(50, 4, generator=seeded()), torch.randn(9, 4, generator=seeded(1))
    wanted = torch.cdist(x, codes).argmin(1)
    assert torch.equal(nearest(x, codes), wanted)
    monkeypatch.setattr(patches, "_CELLS", 20)  # pieces of two rows
    assert torch.equal(nearest(x, codes), wanted)
    assert nearest(x[:0], codes).tolist() == []
    assert nearest(torch.zeros(1, 4), torch.zeros(3, 4)).tolist() == [0], "ties go to the lowest index"


def test_kmeans_finds_blobs() -> None:
    middles = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    x = middles.repeat(25, 1) + 0.1 * torch.randn(100, 2, generator=seeded())
    best = min(
        (kmeans(x, 4, seeded(s), iterations=20) for s in range(5)),
        key=lambda found: torch.cdist(x, found[0]).min(1).values.sum(),
    )
    assert torch.cdist(middles, best[0]).min(1).values.max() < 0.2
    assert best[1].tolist() == [25, 25, 25, 25]


def test_kmeans_lowers_the_error_and_repeats() -> None:
    x = torch.randn(400, 3, generator=seeded())
    first, last = (kmeans(x, 16, seeded(), iterations=n)[0] for n in (1, 12))
    error = [torch.cdist(x, centres).min(1).values.square().mean() for centres in (first, last)]
    assert error[1] < error[0]
    assert torch.equal(last, kmeans(x, 16, seeded(), iterations=12)[0])
    assert not torch.equal(last, kmeans(x, 16, seeded(1), iterations=12)[0])


@pytest.mark.parametrize("n", [1, 2, 8])
def test_few_rows_are_centres_themselves(n: int) -> None:
    x = torch.randn(n, 3, generator=seeded())
    centres, counts = kmeans(x, 8, seeded())
    assert centres.shape == (8, 3) and torch.isfinite(centres).all()
    assert counts.tolist() == [1] * n + [0] * (8 - n)
    assert sorted(map(tuple, centres[:n].tolist())) == sorted(map(tuple, x.tolist()))
    assert len(torch.unique(centres, dim=0)) == 8, "every code differs"


def test_equal_rows_do_no_harm() -> None:
    centres, counts = kmeans(torch.ones(50, 3), 4, seeded())
    assert torch.equal(centres, torch.ones(4, 3)) and counts.sum() == 50
