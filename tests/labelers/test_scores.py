"""Scores pooled over images, each against a case worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.core.compare import match_boxes
from labelers.core.depth_map import DepthMap
from labelers.core.masks import instance, mask_overlap
from labelers.core.rle import encode_rle
from labelers.core.scores import (
    BoxScores,
    ClassScores,
    DepthScores,
    JointScores,
    NormalScores,
    OverlapScores,
    ScoresByClass,
    average_precision,
)

Box = dict[str, Any]


def box(x: float, label: str = "cat", score: float = 1.0, size: float = 10) -> Box:
    return {"box": np.array([x, 0, x + size, size], np.float32), "label": label, "score": score}


def test_each_true_box_is_hit_once_and_by_its_class_alone() -> None:
    truth = [box(0), box(100), box(200, "dog")]
    found = [box(1, score=0.6), box(0, score=0.9), box(200, "cat", 0.8), box(102, score=0.5), box(300, score=0.4)]
    # The surest takes the true box; the second on the same one, the wrong class and the one far away hit nothing.
    assert match_boxes(found, truth, 0.5).tolist() == [-1, 0, -1, 1, -1]
    assert match_boxes(found, truth, 0.9).tolist() == [-1, 0, -1, -1, -1]
    assert match_boxes([], truth, 0.5).tolist() == [] and match_boxes(found, [], 0.5).tolist() == [-1] * 5


def test_precision_and_recall_pool_all_boxes_of_all_images() -> None:
    scores = BoxScores()
    scores.add([box(0, score=0.9), box(50, score=0.2)], [box(0), box(100), box(150)])
    scores.add([box(0, "dog", 0.7)], [box(0, "dog")])
    scores.add([], [])
    result = scores.result()
    assert (result["precision"], result["recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 4))
    assert scores.at(0.5) == (1.0, 0.5)
    # Cat: recall 1/3 at precision 1, so 34 of the 101 points; dog: all of them.
    assert result["ap50"] == pytest.approx((34 / 101 + 1) / 2)
    nothing = BoxScores()
    nothing.add([], [box(0)])
    assert nothing.result() == {"recall": 0.0, "ap50": 0.0, "ap": 0.0}
    assert BoxScores().result() == {}


def test_coco_ap_takes_ten_overlaps() -> None:
    scores = BoxScores()
    scores.add([box(2.0)], [box(0)])  # IoU 80 / 120 = 0.667: a hit at 0.50, 0.55, 0.60 and 0.65
    assert scores.result()["ap"] == pytest.approx(0.4)


@given(st.lists(st.tuples(st.floats(0.001, 1), st.booleans()), min_size=1, max_size=30), st.integers(0, 5))
def test_average_precision_lies_between_none_and_all(found: list[tuple[float, bool]], missed: int) -> None:
    sure, hit = np.array([f[0] for f in found]), np.array([f[1] for f in found])
    truths = int(hit.sum()) + missed
    value = average_precision(sure, hit, truths)
    assert np.isnan(value) if truths == 0 else 0 <= value <= hit.sum() / truths + 0.02
    if truths and hit.all() and not missed:
        assert value == 1.0


def test_precision_that_comes_back_later_counts() -> None:
    hit = np.array([True, False, True])
    # Precision 1 up to recall 1/2, then 2/3 up to 1.
    assert average_precision(np.array([0.9, 0.8, 0.7]), hit, 2) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_classes_without_a_true_class_are_not_judged() -> None:
    scores = ClassScores(("a", "b"))
    scores.add(np.array([[1, 1, 2, 0]], np.uint8), np.array([[1, 2, 2, 0]], np.uint8))
    scores.add(np.array([[2, 0]], np.uint8), np.array([[0, 2]], np.uint8))
    assert scores.by_class() == {"a": 1 / 2, "b": 1 / 3}
    assert scores.result() == {"miou": pytest.approx(5 / 12), "pixel_accuracy": 0.5}
    assert ClassScores().result() == {}
    with pytest.raises(ValueError, match="shapes"):
        scores.add(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))


def test_every_true_mask_takes_its_best() -> None:
    def mask(left: int, right: int) -> Any:
        pixels = np.zeros((4, 20), bool)
        pixels[:, left:right] = True
        return instance(encode_rle(pixels), 1.0)

    scores = OverlapScores(mask_overlap)
    scores.add([mask(0, 10), mask(0, 5)], [mask(0, 5), mask(5, 10)])
    scores.add([], [mask(0, 9)])
    scores.add([mask(0, 3)], [])
    assert scores.result() == {"mean_best_iou": pytest.approx((1 + 0.5 + 0) / 3), "recall_50": pytest.approx(2 / 3)}
    assert OverlapScores(mask_overlap).result() == {}


def test_depth_is_fitted_only_where_its_scale_is_unknown() -> None:
    truth = DepthMap(np.array([[1, 2, 4, 8]], np.float32), "metre")
    double = DepthMap(truth.values * 2, "metre")
    scores = DepthScores()
    scores.add(double, truth)
    assert scores.result() == {"abs_rel": 1.0, "d1": 0.0, "depth_order": 1.0}
    fitted = DepthScores()
    fitted.add(DepthMap(truth.values * 2 + 5, "relative"), truth)
    fitted.add(DepthMap(-3 / truth.values, "inverse"), truth)
    assert fitted.result() == {"abs_rel": pytest.approx(0, abs=1e-6), "d1": 1.0, "depth_order": 1.0}


def test_angles_of_normals_are_pooled_over_pixels() -> None:
    truth = np.zeros((1, 4, 3), np.float32)
    truth[..., 2] = 1
    found = truth.copy()
    found[0, 0], found[0, 1] = (1, 0, 0), 0  # one at 90 degrees, one unknown
    scores = NormalScores()
    scores.add(found, truth)
    result = scores.result()
    assert result["mean_angle"] == pytest.approx(30, abs=0.1)
    assert result["median_angle"] == pytest.approx(0, abs=0.1) and result["within_11_25"] == pytest.approx(2 / 3)


def test_a_person_nobody_found_counts_as_zero() -> None:
    person = {
        "box": np.array([0, 0, 50, 100], np.float32), "score": 1.0,
        "keypoints": np.full((17, 3), 1, np.float32) * [20, 50, 1],
    }  # fmt: skip
    unknown = {**person, "keypoints": np.zeros((17, 3), np.float32)}
    scores = JointScores()
    scores.add([person], [person])
    scores.add([], [person])
    scores.add([person], [unknown])
    assert scores.result() == {"oks": 0.5}
    far = JointScores()
    far.add([{**person, "keypoints": person["keypoints"] + [500, 0, 0]}], [person])
    assert far.result()["oks"] < 0.01


def test_scores_by_class_are_what_the_mean_is_made_of() -> None:
    boxes = BoxScores()
    boxes.add([box(0), box(50, "dog")], [box(0), box(100, "dog")])
    assert boxes.by_class() == {"cat": 1.0, "dog": 0.0} and boxes.result()["ap"] == 0.5
    classes = ClassScores(("a", "b", "c"))
    classes.add(np.array([[1, 1, 2, 0]]), np.array([[1, 2, 2, 0]]))
    assert classes.by_class() == {"a": 0.5, "b": 0.5}, "no c in the reference"
    assert isinstance(boxes, ScoresByClass) and isinstance(classes, ScoresByClass)
    assert not isinstance(OverlapScores(mask_overlap), ScoresByClass)
