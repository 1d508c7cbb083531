"""Class maps, depth, normals and masks: encodings come back exactly where they can, figures are those of the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tokenize_shards.content import Content
from tokenize_shards.content_maps import Classes, Depth, Masks, Normals, abs_rel, class_codes
from tokenize_shards.contents import make_content


@given(arrays(np.uint8, (2, 4, 3), elements=st.integers(0, 133)))
def test_class_maps_come_back(batch: np.ndarray) -> None:
    content = make_content("classes", 134, {})
    tensor = content.to_tensor(batch)
    assert tensor.shape == (2, content.channels, 4, 3)
    back = content.from_tensor(tensor)
    assert back.dtype == np.uint8 and np.array_equal(back, batch)


@pytest.mark.parametrize("classes", [2, 21, 134, 1000])
def test_classes_are_points_of_unit_length_far_apart(classes: int) -> None:
    codes = class_codes(classes)
    assert codes.shape == (classes, 16) and np.allclose(np.linalg.norm(codes, axis=1), 1)
    cosines = codes @ codes.T - 2 * np.eye(classes)
    assert cosines.max() <= (0.376 if classes <= 134 else 0.626)
    assert np.array_equal(codes, class_codes(classes))


def test_class_loss_is_cross_entropy_and_prefers_the_truth() -> None:
    content = Classes(7)
    target = content.to_tensor(np.random.default_rng(0).integers(0, 7, (1, 4, 4)).astype(np.uint8))
    right, far, off = (float(content.loss(x, target)) for x in (target, 3 * target, -target))
    assert far < right < math.log(7) < off


def test_miou_of_known_maps() -> None:
    truth = np.array([[[0, 0, 1, 1]]], np.uint8)
    guess = np.array([[[0, 1, 1, 2]]], np.uint8)
    assert Classes(3).measure(truth, guess)["miou"] == pytest.approx((1 / 2 + 1 / 3) / 2), "class 2 is not in the truth"
    assert Classes(3).measure(truth, truth)["miou"] == 1


def test_a_class_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="class 3 is not one of the 3"):
        Classes(3).check(np.full((1, 2, 2), 3, np.uint8))
    with pytest.raises(ValueError, match="class maps need 2"):
        make_content("classes", 1, {})


@given(st.floats(0.5, 500), st.floats(-3, 3))
def test_depth_forgets_scale_and_shift_alone(scale: float, shift: float) -> None:
    view = np.random.default_rng(0).uniform(1, 9, (1, 8, 8)).astype(np.float32)
    a, b = (Depth().to_tensor(v) for v in (view, view * np.float32(scale) + np.float32(shift)))
    assert torch.allclose(a, b, atol=2e-3)


def test_depth_standardises_by_the_middle_of_the_view() -> None:
    view = np.arange(100, dtype=np.float32).reshape(1, 10, 10)
    outlier = view.copy()
    outlier[0, 9, 9] = 1e6
    a, b = Depth().to_tensor(view), Depth().to_tensor(outlier)
    assert torch.equal(a.ravel()[:99], b.ravel()[:99]), "one wrong pixel does not move the others"
    middle = np.arange(10, 90)
    assert float(a.ravel()[0]) == pytest.approx((0 - middle.mean()) / middle.std(), rel=1e-3)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_depth_decodes_to_the_type_and_range_of_the_labels(kind: type) -> None:
    train = np.random.default_rng(0).uniform(10, 240, (4, 8, 8)).astype(kind)
    content = Depth()
    content.learn(train)
    found = content.from_tensor(content.to_tensor(train) * 50)
    assert found.dtype == kind and found.min() >= train.min() and found.max() <= train.max()
    again = make_content("depth", 1, content.settings)
    assert again.from_tensor(again.to_tensor(train)).dtype == kind
    assert content.measure(train, content.from_tensor(content.to_tensor(train)))["abs_rel"] < 0.05


def test_unknown_depths_are_neither_learned_nor_counted() -> None:
    view = np.random.default_rng(0).uniform(1, 5, (2, 6, 6)).astype(np.float32)
    holes = view.copy()
    holes[0, :2] = np.nan
    holes[1] = np.inf
    content = Depth()
    content.learn(holes)
    assert all(np.isfinite(value) for value in content.settings.values())
    tensor = content.to_tensor(holes)
    assert bool(torch.isfinite(tensor).all()) and not tensor[0, 0, :2].any() and not tensor[1].any()
    assert content.measure(holes, view)["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert content.measure(holes[1:], view[1:]) == {}


def test_abs_rel_after_scale_and_shift() -> None:
    truth = np.linspace(1, 4, 50)
    assert abs_rel(truth, 5 * truth - 2) == pytest.approx(0, abs=1e-9)
    assert abs_rel(truth, np.zeros(50)) == pytest.approx((np.abs(truth - truth.mean()) / truth).mean())


def unit(n: int) -> np.ndarray:
    raw = np.random.default_rng(0).normal(size=(n, 4, 4, 3)).astype(np.float32)
    return raw / np.linalg.norm(raw, axis=-1, keepdims=True)


def test_normals_come_back_in_either_encoding() -> None:
    vectors = unit(3)
    for batch, degrees in ((vectors, 1e-1), (((vectors + 1) * 127.5).round().astype(np.uint8), 0.6)):
        content = Normals()
        content.learn(batch)
        found = content.from_tensor(3 * content.to_tensor(batch))
        assert found.dtype == batch.dtype and content.measure(batch, found)["angle_deg"] < degrees


def test_a_mirrored_normal_map_points_the_other_way() -> None:
    content = Normals()
    tensor = content.to_tensor(unit(1))
    mirrored = content.mirror(tensor)
    assert torch.equal(mirrored[:, 0], -tensor[:, 0].flip(-1)) and torch.equal(mirrored[:, 1:], tensor[:, 1:].flip(-1))
    assert torch.equal(content.mirror(mirrored), tensor)


def test_angles_of_known_normals() -> None:
    truth = np.zeros((1, 1, 3, 3), np.float32)
    truth[0, 0, :2, 2] = 1  # the third is unknown
    other = np.array([[[[0, 0, 1], [0, 1, 1], [1, 0, 0]]]], np.float32)
    assert Normals().measure(truth, other)["angle_deg"] == pytest.approx(22.5, abs=1e-2)


@given(arrays(np.bool_, (2, 4, 4)))
def test_masks_come_back(batch: np.ndarray) -> None:
    content = Masks()
    assert np.array_equal(content.from_tensor(content.to_tensor(batch)), batch)
    target = content.to_tensor(batch)
    assert float(content.loss(target, target)) < float(content.loss(torch.zeros_like(target), target))


def test_iou_of_known_masks() -> None:
    a, b = np.zeros((2, 4, 4), np.bool_), np.zeros((2, 4, 4), np.bool_)
    a[0, :2], b[0, 1:3] = True, True
    assert Masks().measure(a, b)["mask_iou"] == pytest.approx((4 / 12 + 0) / 2)


@pytest.mark.parametrize("content", [Classes(4), Depth(), Normals(), Masks()])
def test_resizing_keeps_channels_and_meaning(content: Content) -> None:
    tensor = torch.ones(1, content.channels, 8, 8) * 0.25
    assert torch.allclose(content.resize(tensor, 4), torch.full((1, content.channels, 4, 4), 0.25))
    assert content.resize(tensor, 16).shape == (1, content.channels, 16, 16)


@pytest.mark.parametrize(
    ("content", "batch"),
    [
        (Classes(4), np.zeros((1, 4, 4), np.float32)),
        (Classes(4), np.zeros((1, 4, 4, 1), np.uint8)),
        (Depth(), np.zeros((1, 4, 4), np.int32)),
        (Depth(), np.zeros((1, 4, 4, 1), np.float32)),
        (Normals(), np.zeros((1, 4, 4), np.float32)),
        (Normals(), np.zeros((1, 4, 4, 3), np.float64)),
        (Masks(), np.zeros((1, 4, 4), np.uint8)),
    ],
)
def test_wrong_arrays_are_refused(content: Content, batch: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        content.check(batch)
