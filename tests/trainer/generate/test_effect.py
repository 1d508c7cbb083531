"""Numbers of how far a generation follows are what they say on pictures that are known."""

from __future__ import annotations

import numpy as np
import pytest

from labelers.core.registry import all_modalities
from trainer.generate.effect import agreement, off, palette_distance, seam


def test_the_palette_of_a_picture_and_one_that_is_asked_for() -> None:
    grey = np.zeros((16, 16, 3), np.uint8)
    grey[:4], grey[4:] = 50, 200
    same = np.array([[200] * 3, [50] * 3], np.uint8)
    assert palette_distance(grey, same) == palette_distance(grey, same[::-1]) < 0.01, "in any order"
    white = np.full((16, 16, 3), 255, np.uint8)
    assert palette_distance(white, np.zeros((3, 3), np.uint8)) == pytest.approx(100)
    assert 20 < palette_distance(grey, np.array([[200] * 3, [200] * 3], np.uint8)) < 40, "one to one, not the nearest"


def test_the_first_metric_is_what_labels_agree_by() -> None:
    line, other = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    line[2], other[6] = 255, 255
    canny = all_modalities()["canny_edge"]
    assert agreement(canny, line, line)["correlation"] == pytest.approx(1)
    assert agreement(canny, line, other)["correlation"] < 0
    assert agreement(canny, line, np.full((8, 8), 255, np.uint8)) == {"correlation": 0.0}, "all edges say nothing"
    features = all_modalities()["dinov2_global"]
    assert agreement(features, np.ones(4, np.float16), np.ones(4, np.float16)) == {"cosine": 1.0}


def test_a_seam_is_a_step_where_given_and_made_meet() -> None:
    rng = np.random.default_rng(0)
    known = np.zeros((4, 4), bool)
    known[:, :2] = True
    even = np.repeat(rng.integers(90, 110, (32, 32, 1)), 3, axis=2).astype(np.uint8)
    step = even.copy()
    step[:, :16] += 100
    assert seam(even, known) == pytest.approx(1, abs=0.2) and seam(step, known) > 8
    assert off(even, step, known) == 100 and off(even, step, ~known) == 0
