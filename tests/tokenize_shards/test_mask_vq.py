"""The mask tokenizer: shapes come back with a high IoU from 16 codes, cropping and pasting agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenize_shards.mask_vq import MaskVQ, MaskVQConfig, crop_mask, paste_mask
from tokenize_shards.tokenizer import load_tokenizer


def shapes(n: int, seed: int = 0, side: int = 64) -> np.ndarray:
    """Ellipses, triangles and both together, cropped to their boxes; bool (n, side, side)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:128, :128] / 128
    found = []
    for i in range(n):
        cx, cy = rng.uniform(0.4, 0.6, 2)
        a, b, turn = rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.35), rng.uniform(0, np.pi)
        u, v = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn), (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        mask = (u / a) ** 2 + (v / b) ** 2 < 1
        if i % 3:
            slope = rng.uniform(0.3, 1.5)
            triangle = (np.abs(u) < slope * (v + b)) & (v < b) & (v > -b)
            mask = triangle if i % 3 == 1 else mask | triangle
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found.append(crop_mask(mask, np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]), side))
    return np.stack(found)


@pytest.fixture(scope="module")
def ready() -> MaskVQ:
    tokenizer = MaskVQ(MaskVQConfig(vocab=256, batch=32))
    report = tokenizer.fit(shapes(300), shapes(60, 1), steps=12)
    assert report.kind == "mask_vq" and report.metrics["mask_iou"] >= 0.85, report.metrics
    assert report.codebook_used > 0.3
    return tokenizer


def test_shapes_never_seen_come_back(ready: MaskVQ) -> None:
    masks = shapes(40, 2)
    tokens = ready.encode(masks)
    assert tokens.shape == (40, 16) and tokens.dtype == np.uint16 and int(tokens.max()) < 256
    back = ready.decode(tokens)
    assert back.dtype == np.bool_ and back.shape == masks.shape
    iou = (back & masks).sum((1, 2)) / (back | masks).sum((1, 2))
    assert iou.mean() >= 0.85
    assert np.array_equal(tokens, np.concatenate([ready.encode(one[None]) for one in masks])), "whatever the batch"
    assert ready.encode(masks[:0]).shape == (0, 16)


def test_a_file_gives_the_same_tokens(ready: MaskVQ, tmp_path: Path) -> None:
    ready.save(tmp_path / "a")
    again = load_tokenizer(tmp_path / "a")
    assert isinstance(again, MaskVQ)
    assert np.array_equal(again.encode(shapes(5)), ready.encode(shapes(5)))
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 40), st.integers(1, 40))
def test_cropping_and_pasting_a_box_that_is_full_gives_the_box(x0: int, y0: int, width: int, height: int) -> None:
    mask = np.zeros((50, 50), np.bool_)
    mask[y0 : y0 + height, x0 : x0 + width] = True
    box = np.array([x0, y0, x0 + width, y0 + height], np.float32)
    cropped = crop_mask(mask, box)
    assert cropped.shape == (64, 64) and cropped.all()
    assert np.array_equal(paste_mask(cropped, box, 50, 50), mask)


def test_shapes_survive_cropping_and_pasting() -> None:
    y, x = np.mgrid[:90, :120]
    for radius in (6, 20, 40):
        mask = np.hypot(x - 60, y - 45) < radius
        box = np.array([60 - radius, 45 - radius, 61 + radius, 46 + radius], np.float32)
        again = paste_mask(crop_mask(mask, box), box, 90, 120)
        assert (again & mask).sum() / (again | mask).sum() > 0.9


def test_thin_masks_do_not_vanish_and_empty_boxes_are_empty() -> None:
    mask = np.zeros((400, 400), np.bool_)
    mask[np.arange(400), np.arange(400)] = True
    assert crop_mask(mask, np.array([0, 0, 400, 400])).any()
    assert not crop_mask(mask, np.array([5, 5, 5, 9])).any()
    assert not paste_mask(np.ones((64, 64), np.bool_), np.array([3, 3, 3, 8]), 10, 10).any()


def test_a_grid_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match="15 tokens are no square grid"):
        MaskVQ(MaskVQConfig(tokens=15))
