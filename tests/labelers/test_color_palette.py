"""Palettes: known colours are found and ordered by share, sizes are exact, bytes come back, nothing depends on chance."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from labelers.color_palette import COLOR_PALETTE, SIZES, ColorPalette, palettes, shrink
from labelers.core.images import decode
from labelers.core.labeler import Sample
from labelers.core.modality import LabelError
from labelers.core.show import Swatches
from tests.labelers.corpus import corpus, scene


def stored(label: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """A label after a way through Arrow."""
    column = pa.array([COLOR_PALETTE.encode(label)], COLOR_PALETTE.arrow)
    return list(COLOR_PALETTE.decode(column.to_pylist()[0]))


def same(a: list[NDArray[np.uint8]], b: list[NDArray[np.uint8]]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def stripes(*parts: tuple[int, tuple[int, int, int]]) -> NDArray[np.uint8]:
    """Rows of plain colour: (how many rows, colour) each; (rows, 30, 3)."""
    return np.concatenate([np.full((rows, 30, 3), colour, np.uint8) for rows, colour in parts])


def test_plain_stripes_are_found_exactly_and_ordered_by_share() -> None:
    red, green, blue = (200, 10, 20), (10, 180, 30), (20, 30, 220)
    found = palettes(stripes((10, green), (30, red), (5, blue)))
    assert found[2].tolist() == [list(red), list(green), list(blue)]
    assert found[6].tolist() == [list(red), list(green)] + [list(blue)] * 5  # the last one repeats


def test_equal_shares_are_ordered_by_colour_not_by_chance() -> None:
    one, two = (9, 200, 9), (200, 9, 9)
    assert palettes(stripes((8, two), (8, one)))[1].tolist() == palettes(stripes((8, one), (8, two)))[1].tolist()


def test_a_small_vivid_part_gets_a_colour() -> None:
    image = np.random.default_rng(0).integers(110, 150, (60, 60, 1)).repeat(3, 2).astype(np.uint8)
    image[5:15, 5:15] = (230, 20, 20)
    reds = [colour for colour in palettes(image)[2] if colour[0] > 200 and colour[1] < 60]
    assert len(reds) == 1


@pytest.mark.parametrize("name", [n for n, (_, want) in corpus().items() if not want.reason], ids=ascii)
def test_every_survivor_of_the_corpus(name: str) -> None:
    image = decode(corpus()[name][0]).image
    label = ColorPalette().label([Sample("0" * 32, image)])[0]["color_palette"]
    COLOR_PALETTE.check(label)
    assert same(stored(label), label)


@pytest.mark.parametrize("level", [0, 255])
def test_one_colour_repeats(level: int) -> None:
    for size, palette in zip(SIZES, palettes(np.full((1, 1, 3), level, np.uint8)), strict=True):
        assert palette.tolist() == [[level] * 3] * size


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 256), st.integers(0, 2**32 - 1))
def test_any_image_has_seven_palettes_that_come_back(width: int, height: int, levels: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, levels, (height, width, 3), np.uint8, endpoint=False)
    label = palettes(image)
    COLOR_PALETTE.check(label)
    assert same(stored(label), label)
    for palette in label:  # a colour is a mean of pixels, give or take the rounding of Lab
        assert (palette >= image.min(axis=(0, 1)).min() - 2.0).all()


def test_nothing_depends_on_chance_threads_or_neighbours() -> None:
    image = scene(90, 70)
    first = palettes(image)
    cv2.setRNGSeed(12345)
    np.random.default_rng().random()
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        again = palettes(image)
    finally:
        cv2.setNumThreads(threads)
    assert same(first, again)
    batch = ColorPalette().label([Sample("a", scene(50, 50, 3)), Sample("b", image)])
    assert same(batch[1]["color_palette"], first)  # type: ignore[arg-type]


def test_shrink_keeps_small_images_and_never_loses_a_side() -> None:
    assert shrink(scene(64, 10), 64).shape == (10, 64, 3)
    assert shrink(scene(4000, 1), 64).shape == (1, 64, 3)
    assert shrink(scene(200, 100), 64).shape == (32, 64, 3)


def test_more_colours_describe_a_photo_better(assets: Path) -> None:
    photo = decode((assets / "images" / "coco_000000000009.jpg").read_bytes()).image
    pixels = shrink(photo, 64).reshape(-1, 1, 3).astype(float)
    errors = [float(np.square(pixels - palette).sum(-1).min(axis=1).mean()) for palette in palettes(photo)]
    assert errors[6] < errors[3] < errors[1] < errors[0]
    assert errors[6] < 0.3 * errors[0]


def test_wrong_labels_are_refused_and_right_ones_shown() -> None:
    label = palettes(scene())
    with pytest.raises(LabelError, match="1 to 7"):
        COLOR_PALETTE.check([])
    with pytest.raises(LabelError, match="6 colours after a palette of 7"):
        COLOR_PALETTE.check(label[::-1])
    with pytest.raises(LabelError, match="shape"):
        COLOR_PALETTE.check([np.zeros((1, 4), np.uint8)])
    COLOR_PALETTE.check(label[3:4])  # what one view's tokens decode to
    with pytest.raises(LabelError, match="uint8"):
        COLOR_PALETTE.check([p.astype(int) for p in label])
    cell = COLOR_PALETTE.show(label, None)
    assert isinstance(cell, Swatches)
    assert [len(row) for row in cell.rows] == list(SIZES)
