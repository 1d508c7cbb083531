"""Instance masks: the label's checks, its order, pictures and edges."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from labelers.core.masks import (
    ARROW,
    edges_modality,
    edges_of,
    instance,
    instance_map,
    largest_first,
    masks_modality,
    paint,
)
from labelers.core.modality import LabelError
from labelers.core.rle import decode_rle, encode_rle

MASKS = masks_modality("some_masks", "masks of a test")
EDGES = edges_modality("some_edges", "edges of a test")


def blob(seed: int, height: int = 12, width: int = 17) -> NDArray[np.bool_]:
    """A mask with holes and islands that is never empty."""
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((-(-height // 3), -(-width // 3))) < 0.4, np.ones((3, 3), bool))[:height, :width]
    mask[rng.integers(height), rng.integers(width)] = True
    return mask


def label_of(seeds: list[int]) -> list[Any]:
    points = [np.array([s % 17, 3.5], np.float32) if s % 2 else None for s in seeds]
    found = [instance(encode_rle(blob(s)), (s % 11) / 10, p) for s, p in zip(seeds, points, strict=True)]
    return largest_first(found)


# Labels ---------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20))
def test_area_and_box_are_those_of_the_mask(seed: int, height: int, width: int) -> None:
    mask = blob(seed, height, width)
    one = instance(encode_rle(mask), 0.5)
    y, x = np.nonzero(mask)
    assert one["area"] == mask.sum()
    assert one["box"].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


@settings(max_examples=80)
@given(st.lists(st.integers(0, 1000), max_size=6), st.integers(1, 30), st.integers(1, 30))
def test_the_map_is_painted_mask_after_mask(seeds: list[int], height: int, width: int) -> None:
    label = largest_first([instance(encode_rle(blob(seed, height, width)), 0.5) for seed in seeds])
    expected = np.zeros((height, width), np.int32)
    for number, one in enumerate(label, 1):
        expected[decode_rle(one["mask"])] = number
    assert np.array_equal(instance_map(label, (height, width)), expected)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 1000), max_size=5))
def test_round_trip_through_parquet(seeds: list[int]) -> None:
    label = label_of(seeds)
    MASKS.check(label)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"value": pa.array([MASKS.encode(label), None], ARROW)}), buffer)
    column = pq.read_table(buffer).column("value")
    back = MASKS.decode(column[0].as_py())
    MASKS.check(back)
    assert column[1].as_py() is None
    assert [(b["mask"], b["score"], b["area"]) for b in back] == [(b["mask"], b["score"], b["area"]) for b in label]
    for one, other in zip(label, back, strict=True):
        assert one["box"].tobytes() == other["box"].tobytes()
        assert (one["point"] is None) == (other["point"] is None)
        assert one["point"] is None or one["point"].tobytes() == other["point"].tobytes()


def test_an_empty_mask_is_no_instance() -> None:
    with pytest.raises(LabelError, match="empty"):
        instance(encode_rle(np.zeros((4, 4), bool)), 1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mask", np.ones((12, 17), bool)),
        ("mask", {"size": (12, 17), "counts": "0"}),
        ("mask", {"size": [12, -17], "counts": "0"}),
        ("mask", {"size": [12, 17], "counts": b"0"}),
        ("mask", {"size": [12, 17], "counts": "T"}),
        ("mask", encode_rle(np.zeros((12, 17), bool))),
        ("box", [0, 0, 12, 17]),
        ("box", np.array([0, 0, 1, 1], np.float32)),
        ("box", np.full(4, np.nan, np.float32)),
        ("box", np.zeros((2, 2), np.float32)),
        ("score", 1.5),
        ("score", float("nan")),
        ("score", np.float32(0.5)),
        ("area", 3),
        ("point", np.array([3, 3])),
        ("point", np.array([3, np.nan], np.float32)),
        ("point", np.array([3, 13], np.float32)),
        ("point", np.zeros(3, np.float32)),
        ("extra", 1),
    ],
)
def test_wrong_masks_are_refused(field: str, value: object) -> None:
    with pytest.raises(LabelError, match="mask"):
        MASKS.check([{**label_of([1])[0], field: value}])


def test_wrong_sets_are_refused() -> None:
    label = label_of([1, 2, 3, 4])
    with pytest.raises(LabelError, match="some_masks: expected a list"):
        MASKS.check({})
    with pytest.raises(LabelError, match="some_masks: masks are not in order"):
        MASKS.check(label[::-1])
    with pytest.raises(LabelError, match="some_masks: masks of several sizes"):
        MASKS.check(largest_first([*label, instance(encode_rle(blob(9, 5, 5)), 0.5)]))
    missing = dict(label[0])
    del missing["point"]
    with pytest.raises(LabelError, match="some_masks: mask 0 has wrong fields"):
        MASKS.check([missing])


def test_order_does_not_depend_on_who_came_first() -> None:
    label = label_of([5, 6, 7, 8, 9])
    assert [one["mask"] for one in largest_first(label[::-1])] == [one["mask"] for one in label]


# Pictures -------------------------------------------------------------------------------------------------------------


def square(height: int, width: int, box: tuple[int, int, int, int]) -> Any:
    mask = np.zeros((height, width), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return instance(encode_rle(mask), 0.9)


def test_edges_lie_on_the_rim_of_what_is_in_front() -> None:
    masks = [square(20, 20, (0, 4, 16, 20)), square(20, 20, (8, 8, 12, 12))]
    front = instance_map(masks, (20, 20))
    assert sorted(np.unique(front)) == [0, 1, 2]
    edges = edges_of(masks, (20, 20))
    expected = np.zeros((20, 20), np.uint8)
    expected[4, :16] = expected[4:, 15] = 255  # the frame of the image at the left and below is no edge
    expected[8:12, 8:12] = 255
    expected[9:11, 9:11] = 0
    assert np.array_equal(edges, expected)
    EDGES.check(edges)
    assert np.array_equal(EDGES.decode(EDGES.encode(edges)), edges)
    assert not edges_of([], (3, 5)).any()
    assert not edges_of([square(6, 6, (0, 0, 6, 6))], (6, 6)).any()


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=4))
def test_edges_against_a_plain_loop(seeds: list[int]) -> None:
    label = label_of(seeds)
    front = np.zeros((12, 17), int)
    for number, one in enumerate(label, 1):
        front[decode_rle(one["mask"])] = number
    padded = np.pad(front, 1, mode="edge")
    behind = np.min([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], axis=0)
    assert np.array_equal(edges_of(label, (12, 17)) == 255, behind < front)


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), bool), np.zeros((4, 4, 1), np.uint8), np.full((4, 4), 7, np.uint8), np.zeros((0, 3), np.uint8)]
)  # fmt: skip
def test_wrong_edges_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(LabelError, match="some_edges"):
        EDGES.check(wrong)


def test_show() -> None:
    image = np.full((12, 17, 3), 90, np.uint8)
    before = image.copy()
    label = label_of([1, 2])
    cell = MASKS.show(label, image)
    assert cell.caption == "2 masks"
    assert cell.pixels.dtype == np.uint8
    assert cell.pixels.shape == image.shape
    assert np.array_equal(cell.pixels, MASKS.show(label, image).pixels)
    assert np.array_equal(image, before)
    covered = instance_map(label, (12, 17)) > 0
    assert (cell.pixels != image).any(axis=-1)[covered].all()
    assert np.array_equal(cell.pixels[~covered], image[~covered])
    assert MASKS.show([], image).caption == "no mask"
    assert np.array_equal(MASKS.show([], image).pixels, image)
    assert MASKS.show(label[:1], None).caption == "1 mask"
    assert MASKS.show([], None).pixels.shape == (64, 64, 3)
    large = [square(3000, 1000, (0, 0, 500, 3000))]
    assert paint(large, np.zeros((3000, 1000, 3), np.uint8)).shape == (640, 213, 3)
