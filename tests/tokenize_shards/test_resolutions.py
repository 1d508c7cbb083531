"""One set of weights at several resolutions: more tokens of the same codes, and the picture they make is larger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tokenize_shards.test_vit_vq import CLASSES, RGB, SIDE, data
from tokenize_shards.tokenizer import load_tokenizer
from tokenize_shards.vit_vq import ViTVQ
from tokenize_shards.vit_vq_network import sincos_positions


def large(views: np.ndarray) -> np.ndarray:
    return views.repeat(2, axis=1).repeat(2, axis=2)


def test_positions_of_a_finer_grid_lie_between_those_of_the_known_one() -> None:
    base, fine = sincos_positions(4, 16), sincos_positions(8, 16, 4)
    assert torch.equal(base, sincos_positions(4, 16, 4)) and fine.shape == (64, 16)
    middle = sincos_positions(12, 16, 4).view(12, 12, 16)[1::3, 1::3].reshape(16, 16)
    assert torch.allclose(middle, base, atol=1e-6), "every third cell of three times as many is where the old ones are"


@pytest.mark.parametrize("config", [RGB, CLASSES])
def test_views_twice_as_large_have_four_times_the_tokens(tmp_path: Path, config: object) -> None:
    assert config in (RGB, CLASSES)
    spec = replace(RGB if config == RGB else CLASSES, resolutions=(2 * SIDE,))
    tokenizer, heldout = ViTVQ(spec), data(spec, 8, 1)
    report = tokenizer.fit(large(data(spec, 48)), heldout, steps=10)
    assert report.steps == 10 and tokenizer.tokens == 16
    small, fine = tokenizer.encode(heldout), tokenizer.encode(large(heldout))
    assert small.shape == (8, 16) and fine.shape == (8, 64)
    back = tokenizer.decode(fine)
    assert back.shape == large(heldout).shape and tokenizer.decode(small).shape == heldout.shape
    coarse, better = (
        next(iter(tokenizer.content.measure(large(heldout), found).values()))
        for found in (large(tokenizer.decode(small)), back)
    )
    assert better > coarse, "more tokens say more of the same view"
    tokenizer.save(tmp_path / "a")
    again = load_tokenizer(tmp_path / "a")
    assert isinstance(again, ViTVQ) and again.spec == spec and np.array_equal(again.encode(large(heldout)), fine)


def test_other_sizes_are_refused() -> None:
    tokenizer = ViTVQ(replace(RGB, resolutions=(32,)))
    tokenizer.fit(data(RGB, 8), data(RGB, 0), steps=2)
    with pytest.raises(ValueError, match="expected views of 16 x 16 or 32 x 32, got 24 x 24"):
        tokenizer.encode(np.zeros((1, 24, 24, 3), np.uint8))
    with pytest.raises(ValueError, match=r"expected tokens \(n, 16 or 64\)"):
        tokenizer.decode(np.zeros((1, 36), np.uint16))
    with pytest.raises(ValueError, match="resolution 30 is no multiple of patch 4"):
        replace(RGB, resolutions=(30,))
