"""Each metric: its value for equal labels, a case worked out by hand, and the direction it points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from labelers.core import compare
from labelers.core.compare import METRICS

RNG = np.random.default_rng(0)
EDGES = np.where(RNG.random((9, 9)) < 0.2, 255, 0).astype(np.uint8)
UNIT = np.stack([np.zeros((4, 4)), np.zeros((4, 4)), np.ones((4, 4))], -1).astype(np.float32)
PERSON = {
    "box": np.array([0, 0, 10, 20], np.float32),
    "keypoints": RNG.random((33, 3)),
    "keypoints_3d": RNG.random((33, 3)),
}


@pytest.mark.parametrize(
    ("function", "label"),
    [
        (compare.cosine, RNG.random(8)),
        (compare.cosine, np.zeros(8)),
        (compare.cosine, RNG.random((3, 3, 8)).astype(np.float16)),
        (compare.edges, EDGES),
        (compare.edges, np.zeros((5, 5), np.uint8)),
        (compare.depths, RNG.random((4, 4)) + 0.1),
        (compare.normals, UNIT),
        (compare.classes, RNG.integers(0, 9, (4, 4))),
        (compare.texts, "A dog, a cat"),
        (compare.fields, {"a": 1.0, "b": None}),
        (compare.palettes, [np.array([[1, 2, 3]], np.uint8)]),
        (compare.people, [PERSON]),
        (compare.people, []),
        (compare.tokens, np.arange(9)),
    ],
)
def test_equal_labels_have_the_equal_value(function: compare.Compare, label: Any) -> None:
    metrics = function(label, label)
    assert metrics
    for name, value in metrics.items():
        assert value == pytest.approx(METRICS[name].equal, abs=1e-9)
    assert compare.same(metrics)


def test_worked_out_by_hand() -> None:
    assert compare.cosine(np.array([1.0, 0]), np.array([0.0, 1]))["cosine"] == 0
    assert compare.depths(np.array([[2.0, 3.0, 0.0]]), np.array([[1.0, 3.0, 5.0]]))["abs_rel"] == pytest.approx(0.5)
    sideways = np.roll(UNIT, 1, axis=-1)
    assert compare.normals(UNIT, sideways)["angle_deg"] == pytest.approx(90)
    assert compare.classes(np.array([[1, 2]]), np.array([[1, 3]]))["class_agreement"] == 0.5
    assert compare.texts("a b c", "a b d e")["word_f1"] == pytest.approx(4 / 7)
    assert compare.fields({"a": 1, "b": 2}, {"a": 1, "c": 2})["field_agreement"] == pytest.approx(1 / 3)
    assert compare.tokens(np.array([1, 2, 3]), np.array([1, 9]))["token_agreement"] == pytest.approx(1 / 3)
    assert compare.box_iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2]]))[0, 0] == pytest.approx(1 / 3)
    far = {**PERSON, "keypoints": PERSON["keypoints"] + [3, 4, 0]}
    assert compare.people([PERSON], [far])["keypoint_px"] == pytest.approx(5)
    assert compare.people([PERSON], [])["count_difference"] == 1


def test_an_edge_one_pixel_off_is_forgiven_two_are_not() -> None:
    line = np.zeros((9, 9), np.uint8)
    line[:, 3] = 255
    assert compare.edges(line, np.roll(line, 1, 1))["edge_f1"] == 1
    assert compare.edges(line, np.roll(line, 2, 1))["edge_f1"] == 0
    assert not compare.same({"edge_f1": 0.5})


def test_what_cannot_be_compared_is_left_out_or_as_bad_as_can_be() -> None:
    assert compare.depths(np.zeros((2, 2)), np.ones((2, 2))) == {}
    assert compare.edges(np.zeros((2, 2), np.uint8), np.zeros((3, 3), np.uint8)) == {"edge_f1": 0.0}
    assert compare.cosine(np.ones(3), np.ones(4)) == {"cosine": -1.0}


def test_each_box_is_matched_once_best_first() -> None:
    overlap = np.array([[0.9, 0.8], [0.85, 0.1]])
    assert compare.pairs(overlap) == [(0, 0)]
    assert compare.pairs(np.array([[0.9, 0.8], [0.1, 0.5]])) == [(0, 0), (1, 1)]
