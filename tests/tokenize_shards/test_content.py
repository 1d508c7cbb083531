"""What ViT-VQ tokenizers look at: encodings come back, figures mean what they say, wrong arrays are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tokenize_shards.content import Content, Edges, Features, Pixels, edge_f1
from tokenize_shards.contents import make_content


@given(arrays(np.uint8, (2, 3, 5, 3)))
def test_pixels_come_back(batch: np.ndarray) -> None:
    tensor = Pixels().to_tensor(batch)
    assert tensor.shape == (2, 3, 3, 5) and tensor.abs().max() <= 1
    assert np.array_equal(Pixels().from_tensor(tensor), batch)


def test_pixels_out_of_range_are_clipped() -> None:
    found = Pixels().from_tensor(torch.tensor([-3.0, 3.0, 0.0]).view(1, 3, 1, 1))
    assert found.tolist() == [[[[0, 255, 128]]]]


@given(arrays(np.bool_, (2, 4, 3)))
def test_edges_come_back(lines: np.ndarray) -> None:
    batch = lines.astype(np.uint8) * 255
    tensor = Edges().to_tensor(batch)
    assert tensor.shape == (2, 1, 4, 3)
    assert np.array_equal(Edges().from_tensor(tensor), batch)


def test_features_come_back_at_half_precision() -> None:
    batch = (100 * np.random.default_rng(0).normal(size=(3, 4, 4, 6))).astype(np.float16)
    content = Features(6)
    content.learn(batch)
    tensor = content.to_tensor(batch)
    assert tensor.shape == (3, 6, 4, 4) and abs(float(tensor.std()) - 1) < 0.01
    back = content.from_tensor(tensor)
    assert back.dtype == np.float16 and np.allclose(back, batch, rtol=1e-3)
    content.learn(np.zeros((1, 4, 4, 6), np.float16))
    assert content.settings["scale"] == 1, "nothing to scale by"


@given(st.integers(1, 100))
def test_psnr_of_a_known_error(error: int) -> None:
    truth = np.full((2, 4, 4, 3), 120, np.uint8)
    found = Pixels().measure(truth, truth + np.uint8(error))["psnr_db"]
    assert math.isclose(found, 20 * math.log10(255 / error), rel_tol=1e-5)
    assert Pixels().measure(truth, truth)["psnr_db"] > 70, "equal pictures are finite"


def test_f1_of_edges_tolerates_one_pixel() -> None:
    truth = np.zeros((1, 20, 20), bool)
    truth[0, 5] = True
    assert edge_f1(truth, truth) == 1
    assert edge_f1(truth, np.roll(truth, 1, axis=1)) == 1
    assert edge_f1(truth, np.roll(truth, 2, axis=1)) == 0
    half = truth.copy()
    half[0, :, 10:] = False
    precision, recall = 1, 11 / 20
    assert math.isclose(edge_f1(truth, half), 2 * precision * recall / (precision + recall))
    assert edge_f1(truth, np.zeros_like(truth)) == 0


def test_the_edge_threshold_is_the_one_that_draws_best() -> None:
    truth = np.zeros((2, 16, 16), np.uint8)
    truth[:, ::5] = 255
    output = np.where(truth > 0, 0.35, 0.2)[:, None] * 2 - 1  # a timid network: lines at 0.35 of "certain"
    content = Edges()
    assert content.measure(truth, content.from_tensor(torch.from_numpy(output)))["f1"] == 0
    content.calibrate(truth, output)
    assert 0.2 <= content.settings["threshold"] < 0.35
    assert content.measure(truth, content.from_tensor(torch.from_numpy(output)))["f1"] == 1


def test_cosine_is_the_mean_over_positions() -> None:
    truth = np.zeros((1, 1, 2, 2), np.float16)
    truth[0, 0] = [[1, 0], [0, 2]]
    other = np.array([[[[5, 0], [3, 3]]]], np.float16)
    assert math.isclose(Features(2).measure(truth, other)["cosine"], (1 + math.sqrt(0.5)) / 2, rel_tol=1e-6)
    assert Features(2).measure(truth, np.zeros_like(truth))["cosine"] == 0


@pytest.mark.parametrize("content", [Pixels(), Edges(), Features(3)])
def test_the_loss_is_zero_for_the_truth_alone(content: Content) -> None:
    target = torch.randn(2, content.channels, 4, 4, generator=torch.Generator().manual_seed(0))
    assert float(content.loss(target, target)) < 1e-6 < float(content.loss(target + 0.1, target))


@pytest.mark.parametrize(
    ("content", "batch"),
    [
        (Pixels(), np.zeros((1, 4, 4, 3), np.float32)),
        (Pixels(), np.zeros((1, 4, 4), np.uint8)),
        (Pixels(), np.zeros((1, 3, 4, 4), np.uint8)),
        (Edges(), np.zeros((1, 4, 4, 1), np.uint8)),
        (Edges(), np.zeros((1, 4, 4), bool)),
        (Features(3), np.zeros((1, 4, 4, 2), np.float16)),
        (Features(3), np.zeros((1, 4, 4, 3), np.float64)),
        (Features(3), np.full((1, 4, 4, 3), np.nan, np.float16)),
        (Features(3), np.full((1, 4, 4, 3), np.inf, np.float32)),
    ],
)
def test_wrong_arrays_are_refused(content: Content, batch: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected|not finite"):
        content.check(batch)


def test_contents_by_name_with_their_settings() -> None:
    assert isinstance(make_content("pixels", 3, {}), Pixels)
    assert make_content("edges", 1, {"threshold": 0.3}).settings == {"threshold": 0.3}
    features = make_content("features", 7, {"scale": 2.0})
    assert (features.channels, features.settings, features.flips) == (7, {"scale": 2.0}, False)
    with pytest.raises(ValueError, match="unknown content 'sounds'; known: pixels, edges, features, classes"):
        make_content("sounds", 1, {})
