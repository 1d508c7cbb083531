"""Scores on cases whose answer is known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from labelers.core.class_map import SEMSEG
from labelers.core.depth_map import DepthMap
from labelers.core.masks import instance
from labelers.core.modality import Null
from labelers.core.rle import encode_rle
from tokenize_shards.table import image_row
from trainer.evaluation.ensemble import ensembled
from trainer.evaluation.measures import DepthErrors, InstanceScores, MeanScores, PoseScores, VectorScores, procrustes


def square(x: int, y: int, side: int, score: float = 1.0) -> dict:
    mask = np.zeros((20, 20), bool)
    mask[y : y + side, x : x + side] = True
    return instance(encode_rle(mask), score)


def test_instances() -> None:
    scores = InstanceScores()
    scores.add([square(0, 0, 10, 0.9), square(15, 15, 2, 0.2)], [square(0, 0, 10)])
    assert scores.result()["ap"] == 1, "a wrong mask after all the right ones costs nothing"
    scores.add([], [square(2, 2, 5)])
    found = scores.result()
    assert found["ap"] == pytest.approx(51 / 101) and found["recall_50"] == 0.5, "half of the recalls are never reached"
    loose = InstanceScores()
    loose.add([square(0, 0, 10)], [square(0, 0, 9)])  # an IoU of 0.81
    assert loose.result()["ap50"] == 1 and loose.result()["ap"] == pytest.approx(0.7), (
        "hit at 0.50 to 0.80 of ten steps"
    )
    twice = InstanceScores()
    twice.add([square(0, 0, 10, 0.9), square(0, 0, 10, 0.8)], [square(0, 0, 10), square(12, 12, 6)])
    assert twice.result()["ap50"] == pytest.approx(51 / 101), "a second hit of one mask is none"
    assert InstanceScores().result() == {}


def person(points: np.ndarray, box: tuple[float, ...] = (0, 0, 10, 10)) -> dict:
    return {"box": np.array(box, np.float32), "keypoints_3d": points.astype(np.float32)}


def test_poses_with_and_without_alignment() -> None:
    body = np.random.default_rng(0).normal(size=(33, 3))
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    moved = 1.3 * body @ turn.T + [1, 2, 3]
    assert np.allclose(procrustes(moved, body), body, atol=1e-9)
    mirrored = body * [-1, 1, 1]
    assert np.abs(procrustes(mirrored, body) - body).max() > 0.1, "a mirror image is another body"
    scores = PoseScores()
    scores.add([person(moved)], [person(body), person(body, (50, 50, 60, 60))])
    found = scores.result()
    assert found["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-2) and found["mpjpe_mm"] > 300 and found["recall"] == 0.5
    shifted = PoseScores()
    shifted.add([person(body + 5)], [person(body)])
    assert shifted.result()["mpjpe_mm"] == pytest.approx(0, abs=1e-2), "where a body is does not count"
    nobody = PoseScores()
    nobody.add([], [person(body)])
    assert nobody.result() == {"recall": 0.0} and PoseScores().result() == {}


def test_depth_after_scale_and_shift() -> None:
    truth = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    same, upside = DepthErrors(), DepthErrors()
    same.add(DepthMap(3 * truth + 2, "relative"), DepthMap(truth, "relative"))
    upside.add(DepthMap(-truth, "relative"), DepthMap(truth, "relative"))
    assert same.result()["loss_l1"] == pytest.approx(0, abs=1e-6)
    mean = np.abs(truth - truth.mean()).mean() / truth.std()
    assert upside.result()["loss_l1"] == pytest.approx(mean, rel=1e-5), "a fit may flatten, never turn it over"


def test_vectors_retrieval_and_neighbours() -> None:
    truth = np.eye(4)
    scores = VectorScores(["a", "a", None, "b"])
    for i in (0, 1):
        scores.add(truth[i] * 5, truth[i])
    scores.skip()
    scores.add(truth[0] * 0.5 + truth[3] * 0.4, truth[3])
    found = scores.result()
    assert found["top1"] == pytest.approx(2 / 3) and found["top5"] == 1
    assert found["knn_top1"] == pytest.approx(2 / 3), "the b has only a's around it"
    assert "knn_top1" not in VectorScores().result()
    unnamed = VectorScores()
    unnamed.add(truth[0], truth[0])
    assert unnamed.result() == {"cosine": 1.0, "top1": 1.0, "top5": 1.0}


def test_means_are_over_the_samples_that_have_the_score() -> None:
    scores = MeanScores(lambda a, b: {"x": a} if b else {"x": a, "y": 1.0})
    scores.add(1.0, True)
    scores.add(3.0, False)
    assert scores.result() == {"x": 2.0, "y": 1.0} and MeanScores(lambda a, b: {}).result() == {}


def test_several_predictions_as_one() -> None:
    classes = image_row("semseg", 2, 1, 134, 8, "classes")
    maps = [np.array([[1, 2]], np.uint8), np.array([[1, 3]], np.uint8), np.array([[2, 3]], np.uint8)]
    assert ensembled(classes, SEMSEG, maps).tolist() == [[1, 3]]
    depth = image_row("depth", 2, 1, 1, 8, "depth")
    mean = ensembled(depth, None, [DepthMap(np.full((2, 2), v, np.float32), "relative") for v in (1.0, 3.0)])
    assert mean.values.tolist() == [[2, 2], [2, 2]] and mean.unit == "relative"
    normals = image_row("normal", 2, 1, 3, 8, "normals")
    turned = ensembled(normals, None, [np.array([[[1, 0, 0]]], np.float32), np.array([[[0, 1, 0]]], np.float32)])
    assert turned[0, 0].tolist() == pytest.approx([np.sqrt(0.5), np.sqrt(0.5), 0])
    pixels = image_row("rgb", 2, 1, 3, 8)
    assert ensembled(pixels, None, [np.full((1, 1, 3), v, np.uint8) for v in (10, 13)]).dtype == np.uint8
    assert ensembled(pixels, None, [Null("why"), None]) == Null("why")
    assert ensembled(pixels, None, [None, maps[0]]) is maps[0]
