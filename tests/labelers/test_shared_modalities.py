"""The modalities that several backends make: each comes back from storage as it went, and refuses what it must refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labelers.core import coco
from labelers.core.boxes import DET, detection, sorted_boxes
from labelers.core.class_map import MISSING, NAMES, SEMSEG, from_category_ids
from labelers.core.depth_map import DEPTH, DepthMap, stretched
from labelers.core.keypoints import KEYPOINTS
from labelers.core.masks import SAM_INSTANCE, instance, largest_first, mask_overlap
from labelers.core.modality import LabelError, Modality
from labelers.core.normal_map import NORMAL, flipped, from_rgb, rgb_of, unit_vectors
from labelers.core.rle import encode_rle
from labelers.core.show import Picture

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)
PHOTO = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)


def stored(modality: Modality, label: Any) -> Any:
    """The label after a trip through what lies in a shard."""
    modality.check(label)
    raw = modality.encode(label)
    if modality.arrow is not None:
        raw = pa.array([raw], modality.arrow).to_pylist()[0]
    back = modality.decode(raw)
    modality.check(back)
    return back


coordinate = st.floats(0, 600, width=32)
boxes = st.lists(
    st.tuples(coordinate, coordinate, coordinate, coordinate, st.sampled_from(coco.CLASSES), st.floats(0, 1, width=32)),
    max_size=6,
)


def det_label(found: list[Any]) -> list[Any]:
    made = [detection(np.array(b[:4]), b[4], b[5], (480, 640)) for b in found]
    return sorted_boxes([one for one in made if one is not None])


@given(boxes)
@settings(max_examples=60)
def test_boxes_come_back_exactly(found: list[Any]) -> None:
    label = det_label(found)
    back = stored(DET, label)
    assert [(one["box"].tolist(), one["label"], one["score"]) for one in back] == [
        (one["box"].tolist(), one["label"], one["score"]) for one in label
    ]
    metrics = DET.compare(label, back)
    assert metrics["f1"] == 1.0 or any(np.prod(one["box"][2:] - one["box"][:2]) < 1e-9 for one in label)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "unicorn"}, "COCO's 80"),
        ({"score": 1.5}, "score"),
        ({"box": np.array([5, 5, 1, 9], np.float32)}, "x0, y0, x1, y1"),
        ({"box": np.array([0, 0, np.nan, 9], np.float32)}, "finite"),
        ({"box": np.array([0, 0, 9, 9])}, "float32"),
    ],
)
def test_boxes_that_are_none_are_refused(change: dict[str, Any], words: str) -> None:
    good = {"box": np.array([0, 0, 9, 9], np.float32), "label": "cat", "score": 0.5}
    DET.check([good])
    with pytest.raises(LabelError, match=words):
        DET.check([{**good, **change}])
    with pytest.raises(LabelError, match="order"):
        DET.check([good, {**good, "score": 0.9}])


@given(hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 133)))
@settings(max_examples=40)
def test_class_maps_come_back_exactly(label: Any) -> None:
    assert np.array_equal(stored(SEMSEG, label), label)


def test_class_numbers_are_the_published_ones() -> None:
    assert (len(coco.CLASSES), len(coco.STUFF), len(NAMES), NAMES[0], NAMES[1]) == (80, 53, 134, "void", "person")
    table = from_category_ids()
    assert (table[0], table[1], table[90], table[92], table[200], table[12]) == (0, 1, 80, 81, 133, MISSING)
    with pytest.raises(LabelError, match="134 is no class"):
        SEMSEG.check(np.full((2, 2), 134, np.uint8))


@given(
    hnp.arrays(np.float32, SHAPES, elements=st.floats(0, 2**16, width=32)),
    st.sampled_from(["metre", "relative", "inverse"]),
    st.floats(0, 1),
)
@settings(max_examples=60)
def test_depth_comes_back_within_half_a_step(values: Any, unit: Any, share: float) -> None:
    missing = np.random.default_rng(0).random(values.shape) < share
    missing.flat[0] = False
    label = DepthMap(np.where(missing, np.float32(np.nan), values), unit)
    back = stored(DEPTH, label)
    assert back.unit == unit
    assert np.array_equal(np.isnan(back.values), missing)
    span = float(np.nanmax(label.values) - np.nanmin(label.values))
    apart = np.nanmax(np.abs(back.values.astype(np.float64) - label.values))
    assert apart <= span / 131_068 + 1e-6 * float(np.nanmax(label.values))


def test_depth_refuses_what_is_no_distance() -> None:
    for values, unit, words in (
        ([[-1.0]], "metre", "below 0"), ([[np.nan]], "metre", "Null"), ([[np.inf]], "relative", "NaN"),
        ([[1.0]], "feet", "feet"),
    ):  # fmt: skip
        with pytest.raises(LabelError, match=words):
            DEPTH.check(DepthMap(np.array(values, np.float32), unit))  # type: ignore[arg-type]


def test_depth_of_unknown_scale_is_compared_after_a_fit() -> None:
    metres = np.random.default_rng(0).uniform(1, 20, (12, 12)).astype(np.float32)
    truth = DepthMap(metres, "metre")
    inverse = stretched(-3 / metres + 7, "inverse")
    assert DEPTH.compare(inverse, truth)["abs_rel"] < 1e-3
    assert DEPTH.compare(stretched(metres * 5 + 1, "relative"), truth)["abs_rel"] < 1e-3
    upside_down = DEPTH.compare(stretched(-metres, "relative"), truth)
    assert upside_down["depth_order"] == 0.0


@given(hnp.arrays(np.float32, (5, 6, 3), elements=st.floats(-1, 1, width=32)))
@settings(max_examples=40)
def test_normals_come_back_within_half_a_degree(vectors: Any) -> None:
    label = unit_vectors(vectors + np.array([0, 0, 2**-8], np.float32))
    if not label.any():
        return
    back = stored(NORMAL, label)
    assert np.array_equal((label == 0).all(-1), (back == 0).all(-1))
    assert NORMAL.compare(back, label)["angle_deg"] < 0.5
    assert np.array_equal(rgb_of(back), rgb_of(label))


def test_the_frame_of_normals_is_the_published_one() -> None:
    label = np.array([[[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]]], np.float32)
    assert rgb_of(label)[0].tolist() == [[128, 128, 255], [255, 128, 128], [128, 255, 128], [0, 0, 0]]
    assert flipped(label)[0, 2].tolist() == [-1, 0, 0]
    assert from_rgb(np.array([[[0, 0, 0]]], np.uint8)).tolist() == [[[0, 0, 0]]]
    with pytest.raises(LabelError, match="length"):
        NORMAL.check(np.full((2, 2, 3), 0.9, np.float32))


def test_keypoints_come_back_exactly() -> None:
    person = {
        "box": np.array([1, 2, 30, 40], np.float32),
        "score": 0.5,
        "keypoints": np.random.default_rng(0).random((17, 3)).astype(np.float32),
    }
    back = stored(KEYPOINTS, [person, person])
    assert all(np.array_equal(back[1][k], person[k]) for k in person)
    assert KEYPOINTS.compare(back, [person, person])["oks"] == 1.0
    assert stored(KEYPOINTS, []) == []
    with pytest.raises(LabelError, match="confidence"):
        KEYPOINTS.check([{**person, "keypoints": person["keypoints"] + 1}])


@given(st.lists(hnp.arrays(np.bool_, (7, 9)).filter(np.any), max_size=5))
@settings(max_examples=60)
def test_the_overlap_of_masks_is_that_of_their_pixels(pixels: list[Any]) -> None:
    masks = largest_first([instance(encode_rle(one), 1.0) for one in pixels])
    stored(SAM_INSTANCE, masks)
    half = len(pixels) // 2
    wanted = [[(a & b).sum() / (a | b).sum() for b in pixels[half:]] for a in pixels[:half]]
    made = [instance(encode_rle(one), 1.0) for one in pixels]
    assert np.allclose(mask_overlap(made[:half], made[half:]), np.array(wanted).reshape(half, len(pixels) - half))


@pytest.mark.parametrize("image", [PHOTO, None], ids=["photo", "no photo"])
def test_every_modality_shows_a_picture(image: Any) -> None:
    rng = np.random.default_rng(0)
    labels: list[tuple[Modality, Any]] = [
        (DET, det_label([(1, 2, 20, 25, "cat", 0.5), (30, 0, 40, 9, "dog", 1.0)])), (DET, []),
        (SEMSEG, rng.integers(0, 134, (30, 40)).astype(np.uint8)), (SEMSEG, np.zeros((1, 1), np.uint8)),
        (DEPTH, DepthMap(rng.random((30, 40), np.float32) + 1, "metre")),
        (DEPTH, DepthMap(np.array([[np.nan, 0]], np.float32), "inverse")),
        (NORMAL, unit_vectors(rng.normal(size=(30, 40, 3)))), (KEYPOINTS, []),
        (KEYPOINTS, [{"box": np.array([1, 2, 30, 28], np.float32), "score": 1.0,
                      "keypoints": (rng.random((17, 3)) * [40, 30, 1]).astype(np.float32)}]),
    ]  # fmt: skip
    for modality, label in labels:
        cell = modality.show(label, image)
        assert isinstance(cell, Picture)
        assert cell.pixels.dtype == np.uint8 and cell.pixels.ndim == 3 and cell.pixels.shape[2] == 3
