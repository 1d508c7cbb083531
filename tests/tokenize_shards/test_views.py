"""The same view of everything about an image is pixel-aligned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenize_shards.views import (
    BLAZEPOSE_MIRROR,
    SCALE,
    View,
    cut_boxes,
    cut_edges,
    cut_image,
    cut_keypoints,
    cut_keypoints_3d,
    cut_map,
    cut_normals,
    cut_values,
    view_of,
)

ID = "0123456789abcdef0123456789abcdef"
PINNED = (View(106, 13, 543, 450, True), View(4, 86, 320, 402, False))


def coordinates(width: int, height: int) -> np.ndarray:
    """float32 (H, W, 2): the x, y of each pixel's centre."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x, y], axis=-1).astype(np.float32)


def test_view_is_the_same_on_every_machine() -> None:
    # Written down once: a change here shifts every token of every data set against its siblings.
    assert view_of(ID, 0, 0, 640, 480) == View(80, 0, 560, 480, False)
    assert view_of(ID, 0, 1, 640, 480) == PINNED[0]
    assert view_of(ID, 7, 3, 333, 500) == PINNED[1]


@settings(max_examples=200)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 50), st.integers(0, 9), st.text("0123456789abcdef"))
def test_every_view_is_a_square_inside_the_image(width: int, height: int, view: int, seed: int, id: str) -> None:
    v = view_of(id, seed, view, width, height)
    assert v.x1 - v.x0 == v.y1 - v.y0 >= 1
    assert 0 <= v.x0 < v.x1 <= width
    assert 0 <= v.y0 < v.y1 <= height
    assert v.side >= 0.99 * np.sqrt(SCALE[0]) * min(width, height) - 1
    assert v == view_of(id, seed, view, width, height)


def test_views_differ_and_cover() -> None:
    views = [view_of(ID, 0, n, 640, 480) for n in range(1, 400)]
    assert len(set(views)) > 390
    assert 150 < sum(v.flip for v in views) < 250
    assert min(v.x0 for v in views) < 10
    assert max(v.x1 for v in views) > 630
    shares = np.array([v.side**2 / 480**2 for v in views])
    assert abs(shares.mean() - np.mean(SCALE)) < 0.03


@pytest.mark.parametrize("size", [64, 112, 300])
@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 6])
def test_image_map_boxes_and_keypoints_line_up(size: int, number: int) -> None:
    width, height = 250, 190
    view = view_of(ID, 0, number, width, height)
    grid = coordinates(width, height)
    image = np.concatenate([grid, np.zeros((height, width, 1))], axis=-1).round().astype(np.uint8)
    unit = (coordinates(size, size)) / size
    expected = view.to_pixels(unit)  # where each output pixel's centre lies in the image

    picture = cut_image(image, view, size)[..., :2].astype(np.float32)
    labels = cut_map(grid, view, size)
    inner = slice(3, -3)  # bicubic enlarging overshoots at the border, where the image repeats
    assert np.abs(picture[inner, inner] - expected[inner, inner]).max() <= 1.5
    assert np.abs(labels - expected).max() <= 0.5 + 1e-3

    spots = np.array([[3, 4], [size // 2, size // 3], [size - 5, size - 2]])
    points = np.zeros((33, 3), np.float32)
    points[:3, :2] = expected[spots[:, 1], spots[:, 0]]
    points[:, 2] = 0.9
    cut = cut_keypoints(points, view)
    order = BLAZEPOSE_MIRROR if view.flip else np.arange(33)
    back = np.empty_like(cut)
    back[order] = cut
    assert np.allclose(back[:3, :2], unit[spots[:, 1], spots[:, 0]], atol=1e-4)

    low, high = expected[4, 4], expected[size - 6, size - 8]
    box = np.array([[*np.minimum(low, high), *np.maximum(low, high)]])
    boxes, kept = cut_boxes(box, view)
    assert kept.tolist() == [0]
    assert np.allclose(boxes[0], [4.5 / size, 4.5 / size, (size - 7.5) / size, (size - 5.5) / size], atol=1e-4)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("scale", [1.0, 0.4, 0.77, 1.9])
def test_a_map_of_another_resolution_lines_up_with_the_image(scale: float, number: int) -> None:
    """Every content of a coordinate image: what an output pixel says is where it lies in the image."""
    width, height, size = 250, 190, 48
    view = view_of(ID, 0, number, width, height)
    mw, mh = round(width * scale), round(height * scale)
    grid = coordinates(mw, mh) * np.array([width / mw, height / mh], np.float32)  # in pixels of the image
    expected = view.to_pixels(coordinates(size, size) / size)
    pixel = max(width / mw, height / mh)

    assert np.abs(cut_map(grid, view, size) - expected).max() <= pixel / 2 + 1e-3
    smooth = cut_values(grid, view, size)
    inner = slice(2, -2)  # at the image's own border there is nothing to average beyond it
    assert np.abs(smooth - expected)[inner, inner].max() <= 0.12 * pixel
    depth = cut_values(grid[..., 0], view, size)
    assert np.array_equal(depth, smooth[..., 0])

    known = grid[..., 1] > height / 3
    holes = cut_values(np.where(known, grid[..., 0], np.nan).astype(np.float32), view, size)
    shown = expected[..., 1] > height / 3
    sure = np.abs(expected[..., 1] - height / 3) > 2 * max(pixel, view.side / size)
    assert np.array_equal(np.isfinite(holes)[sure], shown[sure])
    good = np.isfinite(holes)[inner, inner]
    assert np.abs(holes - expected[..., 0])[inner, inner][good].max(initial=0) <= 0.1 * pixel + 1e-2


@pytest.mark.parametrize("flip", [False, True])
def test_normals_stay_unit_vectors_and_the_flip_negates_x(flip: bool) -> None:
    rng = np.random.default_rng(0)
    slow = np.kron(rng.normal(size=(5, 5, 3)), np.ones((20, 20, 1)))
    normals = (slow / np.linalg.norm(slow, axis=-1, keepdims=True)).astype(np.float32)
    normals[:30, :30] = 0  # unknown
    cut = cut_normals(normals, View(0, 0, 100, 100, flip), 50)
    length = np.linalg.norm(cut, axis=-1)
    assert np.all((np.abs(length - 1) < 1e-5) | (length == 0))
    plain = cut[:, ::-1] * np.array([-1, 1, 1], np.float32) if flip else cut
    assert (plain[:14, :14] == 0).all() and (np.linalg.norm(plain, axis=-1)[17:, 17:] > 0).all()
    assert np.allclose(plain[25, 45], normals[50, 91], atol=1e-5), "the middle of a cell is that cell's normal"


def test_edges_of_a_smaller_map_stay_connected() -> None:
    edges = np.zeros((300, 450), np.uint8)
    edges[150], edges[:, 200] = 255, 255
    for flip in (False, True):
        view = View(101, 7, 601, 507, flip, (900, 600))  # the map has half the resolution of the image
        cut = cut_edges(edges, view, 112)
        column = round((400 - 101) / 500 * 112)
        assert (cut.max(axis=0) == 255).all() and (cut.max(axis=1) == 255).all()
        assert (cut[:, 111 - column if flip else column - 1 : None][:, :3].max(axis=1) == 255).all()
        assert (cut == 255).sum() <= 3 * 112


def test_flip_of_a_map_is_the_mirrored_map() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 255, (97, 97), dtype=np.uint8)
    for size in (10, 50, 97, 194, 200):
        plain, flipped = (cut_map(labels, View(0, 0, 97, 97, flip), size) for flip in (False, True))
        assert np.array_equal(flipped, plain[:, ::-1])
    image = rng.integers(0, 255, (97, 97, 3), dtype=np.uint8)
    flipped = cut_image(image, View(0, 0, 97, 97, True), 48)
    assert np.array_equal(flipped, cut_image(image[:, ::-1], View(0, 0, 97, 97), 48))


def test_small_images_are_enlarged() -> None:
    for shape in ((1, 1, 3), (2, 5, 3), (30, 17, 3)):
        image = np.full(shape, 77, np.uint8)
        cut = cut_image(image, view_of(ID, 0, 2, shape[1], shape[0]), 112)
        assert cut.shape == (112, 112, 3)
        assert (cut == 77).all()


def test_edges_stay_connected() -> None:
    edges = np.zeros((600, 600), np.uint8)
    edges[300] = 255
    edges[:, 123] = 255
    cut = cut_edges(edges, View(0, 0, 600, 600), 112)
    assert set(np.unique(cut)) == {0, 255}
    assert (cut.max(axis=0) == 255).all()
    assert (cut.max(axis=1) == 255).all()
    assert (cut == 255).sum() <= 2 * 112 + 112  # thin: one line may fall on two rows
    small = cut_edges(edges[:50, :50], View(0, 0, 50, 50), 112)
    assert small.shape == (112, 112)


@pytest.mark.parametrize(("side", "column"), [(113, 56), (127, 63), (260, 162), (281, 140)])
def test_a_line_between_two_pixels_is_kept(side: int, column: int) -> None:
    edges = np.zeros((side, side), np.uint8)
    edges[:, column] = 255
    for flip in (False, True):
        assert (cut_edges(edges, View(0, 0, side, side, flip), 112).max(axis=1) == 255).all()


def test_boxes_are_clipped_and_slivers_dropped() -> None:
    view = View(100, 100, 200, 200)
    boxes = np.array([
        [90, 90, 150, 150], [0, 0, 50, 50], [100, 100, 101, 101], [0, 0, 102, 300], [100, 100, 200, 200],
        [150, 150, 150, 180],
    ], np.float32)  # fmt: skip
    cut, kept = cut_boxes(boxes, view)
    assert kept.tolist() == [0, 4]
    assert np.allclose(cut, [[0, 0, 0.5, 0.5], [0, 0, 1, 1]])
    empty, kept = cut_boxes(np.zeros((0, 4), np.float32), view)
    assert (empty.shape, kept.shape) == ((0, 4), (0,))


def test_keypoints_outside_become_invisible() -> None:
    points = np.zeros((2, 33, 3), np.float32)
    points[..., 2] = 0.7
    points[0, :, :2] = 150
    points[1, :, :2] = 250
    cut = cut_keypoints(points, View(100, 100, 200, 200))
    assert np.allclose(cut[0], [0.5, 0.5, 0.7])
    assert np.allclose(cut[1], [1.5, 1.5, 0])


def test_flip_in_three_dimensions() -> None:
    points = np.random.default_rng(1).normal(size=(33, 3)).astype(np.float32)
    flipped = cut_keypoints_3d(points, View(0, 0, 1, 1, True))
    assert np.allclose(flipped[12], points[11] * (-1, 1, 1))  # the left shoulder is the right one now
    assert np.allclose(flipped[0], points[0] * (-1, 1, 1))
    assert np.allclose(cut_keypoints_3d(flipped, View(0, 0, 1, 1, True)), points)
    assert np.array_equal(cut_keypoints_3d(points, View(0, 0, 1, 1)), points)
    assert sorted(BLAZEPOSE_MIRROR.tolist()) == list(range(33))


def test_a_view_of_another_image_is_refused() -> None:
    with pytest.raises(ValueError, match="another"):
        cut_image(np.zeros((10, 10, 3), np.uint8), View(0, 0, 11, 11), 5)
    with pytest.raises(ValueError, match="another"):
        cut_map(np.zeros((10, 10)), View(0, 0, 11, 11), 5)
    with pytest.raises(ValueError, match="no view"):
        view_of(ID, 0, 0, 0, 5)
