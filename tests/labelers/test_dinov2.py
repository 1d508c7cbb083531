"""DINOv2: the converted network against an independent copy of its weights, and the encodings of its two modalities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelers.core.features import principal_colours
from labelers.core.labeler import Sample
from labelers.core.modality import LabelError
from labelers.core.pixels import square
from labelers.core.weights import resolve_all
from labelers.dinov2 import DIM, FEATURES, GLOBAL, Dinov2, Dinov2Base, backbone_weights


@pytest.fixture(scope="module")
def dinov2() -> Dinov2:
    labeler = Dinov2(files={slot: weight.path for slot, weight in resolve_all(Dinov2.weights).items()})
    labeler.setup()
    return labeler


@pytest.fixture(scope="module")
def views() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)


def test_shapes_and_checks(dinov2: Dinov2, views: np.ndarray) -> None:
    maps, vectors = dinov2.features(views)
    assert (maps.shape, maps.dtype) == ((3, 16, 16, DIM), np.float16)
    assert (vectors.shape, vectors.dtype) == ((3, DIM), np.float32)
    for features, vector in zip(maps, vectors, strict=True):
        FEATURES.check(features)
        GLOBAL.check(vector)
    assert dinov2.features(views[:0])[0].shape == (0, 16, 16, DIM)


def test_a_view_has_the_same_bytes_in_any_batch(dinov2: Dinov2, views: np.ndarray) -> None:
    together, alone = dinov2.features(views), dinov2.features(views[1:2])
    assert together[0][1].tobytes() == alone[0][0].tobytes()
    assert together[1][1].tobytes() == alone[1][0].tobytes()


def test_a_whole_image_is_squeezed_into_one_view(dinov2: Dinov2) -> None:
    image = np.random.default_rng(1).integers(0, 256, (300, 500, 3), np.uint8)
    (label,) = dinov2.label([Sample("a" * 32, image)])
    maps, vectors = dinov2.features(square(image, 224)[None])
    assert np.array_equal(label["dinov2"], maps[0])
    assert np.array_equal(label["dinov2_global"], vectors[0])
    assert dinov2.label([]) == []


def test_views_of_a_wrong_shape_are_refused(dinov2: Dinov2) -> None:
    with pytest.raises(ValueError, match="multiple of 14"):
        dinov2.features(np.zeros((1, 225, 225, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        dinov2.features(np.zeros((1, 224, 224, 3), np.float32))  # type: ignore[arg-type]


def test_weights_and_features_agree_with_the_reference(dinov2: Dinov2, views: np.ndarray, assets: Path) -> None:
    """The reference holds the same tensors, converted by someone else and rounded to float16."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from safetensors.numpy import load_file

    folder = assets / "weights" / "dinov2-small"
    ours, theirs = backbone_weights(dinov2.files["model"]), load_file(folder / "model.safetensors")
    assert set(ours) == set(theirs)
    for name in set(theirs) - {"embeddings.mask_token"}:
        np.testing.assert_array_equal(ours[name].astype(np.float16), theirs[name], err_msg=name)
    network = transformers.Dinov2Model.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = (views / np.float32(255) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        tokens = network(torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2))).last_hidden_state.numpy()
    maps, vectors = dinov2.features(views)
    np.testing.assert_allclose(vectors, tokens[:, 0], atol=0.05)
    np.testing.assert_allclose(maps.reshape(3, -1, DIM), tokens[:, 1:], atol=0.05)


def test_features_mean_something(dinov2: Dinov2, assets: Path) -> None:
    """Two crops of one photo are nearer to each other than to another photo."""
    import cv2

    names = ("skimage_chelsea.png", "skimage_coffee.png", "skimage_rocket.jpg")
    photos = [cv2.cvtColor(cv2.imread(str(assets / "images" / name)), cv2.COLOR_BGR2RGB) for name in names]
    crops = [photo[:, i * photo.shape[1] // 5 :][:, : photo.shape[1] * 4 // 5] for photo in photos for i in (0, 1)]
    vectors = dinov2.features(np.stack([square(np.ascontiguousarray(crop), 224) for crop in crops]))[1]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors @ vectors.T - 2 * np.eye(len(crops))
    assert near.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]


def test_a_file_that_is_no_backbone_is_refused(tmp_path: Path, assets: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"<html>not a network</html>")
    with pytest.raises(ValueError, match="not an ONNX file"):
        backbone_weights(path)
    with pytest.raises(ValueError, match="not the export of a DINOv2 backbone"):
        backbone_weights(assets / "weights" / "yolox_nano_416.onnx")


def test_features_go_round_trip() -> None:
    label = np.random.default_rng(2).normal(size=(5, 7, DIM)).astype(np.float16)
    data = FEATURES.encode(label)
    back = FEATURES.decode(data)
    assert back.dtype == np.float16
    assert np.array_equal(back, label)
    assert FEATURES.encode(back) == data
    with pytest.raises(LabelError, match=r"no \.npy array"):
        FEATURES.decode(data[:50])


def test_a_pickle_is_not_read() -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(LabelError):
        FEATURES.decode(buffer.getvalue())


@pytest.mark.parametrize(
    "label",
    [
        np.zeros((16, 16, DIM), np.float32),
        np.zeros((16, 16, 5), np.float16),
        np.full((1, 1, DIM), np.nan, np.float16),
        [1],
    ],
)
def test_wrong_features_are_refused(label: object) -> None:
    with pytest.raises(LabelError):
        FEATURES.check(label)


def test_the_picture_does_not_depend_on_the_sign_of_a_component() -> None:
    rng = np.random.default_rng(3)
    features = rng.gamma(1.0, size=(8, 9, 20)).astype(np.float16)
    first = principal_colours(features)
    turned = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    assert (first.shape, first.dtype) == ((8, 9, 3), np.uint8)
    difference = principal_colours(features.astype(np.float64) @ turned).astype(int) - first
    assert np.abs(difference).max() <= 1  # the same map in other coordinates has the same picture
    assert principal_colours(np.ones((2, 2, DIM), np.float16)).shape == (2, 2, 3)
    assert principal_colours(np.ones((1, 1, DIM), np.float16)).shape == (1, 1, 3)
    assert FEATURES.show(np.ones((16, 16, DIM), np.float16), None).pixels.shape == (224, 224, 3)


def test_a_real_checkpoint_of_the_hubs_layout_gives_the_same_features(dinov2: Dinov2, assets: Path) -> None:
    """The path of hub weights with real ones: the same backbone, saved by transformers in half precision."""
    import cv2

    from tests.labelers.tiny import ready

    labeler = ready(Dinov2Base, assets / "weights" / "dinov2-small")
    image = cv2.cvtColor(cv2.imread(str(assets / "images" / "skimage_chelsea.png")), cv2.COLOR_BGR2RGB)
    ours, theirs = (one.label([Sample("a", image)])[0] for one in (labeler, dinov2))
    for modality in (FEATURES, GLOBAL):
        modality.check(ours[modality.name])
        assert modality.compare(ours[modality.name], theirs[modality.name])["cosine"] > 0.9999
