"""Canny edges: on the contour and nowhere else, the same drawing at any size, bytes that come back and never change."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from labelers.canny_edge import CANNY_EDGE, CannyEdge, canny
from labelers.core.images import decode
from labelers.core.labeler import Sample
from labelers.core.modality import LabelError
from labelers.core.show import Picture
from tests.labelers.corpus import corpus


def edges(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The label of one image with the default parameters."""
    return np.asarray(CannyEdge().label([Sample("0" * 32, image)])[0]["canny_edge"])


def disc(size: int) -> NDArray[np.uint8]:
    """A bright disc on a dark ground, softened; (size, size, 3)."""
    image = np.full((size * 4, size * 4, 3), 40, np.uint8)
    cv2.circle(image, (size * 2, size * 2), size, (210, 200, 190), -1)
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.mark.parametrize("size", [64, 480, 1440])
def test_the_contour_and_nothing_else(size: int) -> None:
    y, x = np.nonzero(edges(disc(size)))
    radius = np.hypot(y + 0.5 - size / 2, x + 0.5 - size / 2)
    assert np.abs(radius - size / 4).max() <= 1.5 * max(1, size / 480)
    angles = np.histogram(np.arctan2(y - size / 2, x - size / 2), bins=24)[0]
    assert (angles > 0).all()


@pytest.mark.parametrize("name", [n for n, (_, want) in corpus().items() if not want.reason], ids=ascii)
def test_every_survivor_of_the_corpus(name: str) -> None:
    image = decode(corpus()[name][0]).image
    label = edges(image)
    CANNY_EDGE.check(label)
    assert label.shape == image.shape[:2]
    assert (CANNY_EDGE.decode(CANNY_EDGE.encode(label)) == label).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_plain_images_have_no_edges(level: int) -> None:
    assert not edges(np.full((33, 47, 3), level, np.uint8)).any()


@settings(max_examples=50)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_round_trip_and_same_bytes(width: int, height: int, seed: int) -> None:
    label = np.random.default_rng(seed).integers(0, 2, (height, width)).astype(np.uint8) * 255
    stored = CANNY_EDGE.encode(label)
    back = CANNY_EDGE.decode(stored)
    assert back.dtype == np.uint8
    assert (back == label).all()
    assert CANNY_EDGE.encode(back) == stored


def test_other_readers_see_0_and_255() -> None:
    label = edges(disc(64))
    stored = CANNY_EDGE.encode(label)
    assert (cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_GRAYSCALE) == label).all()
    assert (np.asarray(Image.open(io.BytesIO(stored)).convert("L")) == label).all()
    grey = wds.autodecode.ImageHandler("l8")("png", stored)
    assert (np.squeeze(grey) == label).all()


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 1), np.uint8), np.full((4, 4), 7, np.uint8), np.zeros((0, 3), np.uint8)],
)  # fmt: skip
def test_wrong_labels_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(LabelError, match="canny_edge"):
        CANNY_EDGE.check(wrong)


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="swap them"):
        CannyEdge.Params(low=200, high=100)


def test_shown_as_a_picture() -> None:
    cell = CANNY_EDGE.show(edges(disc(64)), None)
    assert isinstance(cell, Picture)
    assert cell.pixels.shape == (64, 64, 3)


def test_an_enlarged_photo_gives_the_same_drawing(assets: Path) -> None:
    photo = decode((assets / "images" / "coco_000000000110.jpg").read_bytes()).image
    large = np.asarray(cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.uint8)
    near = np.ones((5, 5), np.uint8)

    def agreement(again: NDArray[np.uint8]) -> float:
        """Share of the edges of the photo that lie within two pixels of an edge of the enlarged one, at its size."""
        height, width = photo.shape[:2]
        pooled = again.reshape(height, 2, width, 2).max(axis=(1, 3))
        return float((cv2.dilate(pooled, near)[edges(photo) > 0] > 0).mean())

    assert agreement(edges(large)) > 0.9
    assert 0.02 < (edges(photo) > 0).mean() < 0.15
    unscaled = canny(large, 50, 100, 1.0, reference_side=10_000)
    assert agreement(edges(large)) > agreement(unscaled)
