"""normal: the direction every surface faces. The one definition; networks and imports produce it.

The frame is the published system's: +X right, +Y down, and (0, 0, 1) faces the camera. A horizontal flip of the map also
negates X (`flipped`). Missing is (0, 0, 0), stored as black, which no unit vector is.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelers.core.compare import normals
from labelers.core.modality import Label, LabelError, Modality, require
from labelers.core.overlays import small_copy
from labelers.core.scores import NormalScores
from labelers.core.show import Cell, Picture

LOOSE = 0.02  # by how much a stored vector's length may differ from 1: eight bits a component leave 0.007


def unit_vectors(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W, 3) of any length -> float32 unit vectors; not finite or of no length becomes (0, 0, 0)."""
    found = np.where(np.isfinite(vectors).all(axis=-1, keepdims=True), vectors, 0).astype(np.float32)
    length = np.linalg.norm(found, axis=-1, keepdims=True)
    return np.asarray(np.where(length > 1e-6, found / np.maximum(length, 1e-6), 0), np.float32)


def flipped(label: NDArray[np.float32]) -> NDArray[np.float32]:
    """The map of the mirrored image."""
    turned: NDArray[np.float32] = label[:, ::-1] * np.array([-1, 1, 1], np.float32)
    return turned


def rgb_of(label: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Vectors to the published RGB code, 255 (n / 2 + 0.5); missing is black."""
    codes = np.rint(np.clip(label.astype(np.float64) / 2 + 0.5, 0, 1) * 255)
    return np.where((label == 0).all(axis=-1, keepdims=True), 0, codes).astype(np.uint8)


def from_rgb(codes: NDArray[Any], largest: int = 255) -> NDArray[np.float32]:
    """The inverse of rgb_of, for codes of 0..largest: float32 (H, W, 3), lengths as they are stored."""
    found = codes.astype(np.float32) / np.float32(largest) * 2 - 1
    return np.asarray(np.where((codes == 0).all(axis=-1, keepdims=True), 0, found), np.float32)


def _encode(label: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb_of(label)).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _decode(data: bytes) -> NDArray[np.float32]:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if image.mode != "RGB":
            raise LabelError(f"normal: expected a PNG of 8-bit RGB, got mode {image.mode}")
        return from_rgb(np.array(image))


def _check(label: Label) -> None:
    require(isinstance(label, np.ndarray) and label.dtype == np.float32, "normal: expected a float32 array")
    good = label.ndim == 3 and label.shape[2] == 3 and label.size > 0
    require(good, f"normal: expected shape (H, W, 3), got {label.shape}")
    require(bool(np.isfinite(label).all()), "normal: not finite; a missing vector is (0, 0, 0)")
    length = np.linalg.norm(label, axis=-1)
    known = length > 0
    require(bool(known.any()), "normal: every pixel is missing; that is a Null")
    apart = float(np.abs(length[known] - 1).max())
    require(apart <= LOOSE, f"normal: a vector's length differs from 1 by {apart:.3f}")


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    """The published code as colours: what faces the camera is light blue, the right is red, down is green."""
    return Picture(small_copy(rgb_of(label))[0])


NORMAL = Modality(
    name="normal", kind="map", container="tar", ext="png", encode=_encode, decode=_decode, check=_check, show=_show,
    compare=normals, scores=NormalScores,
    about="float32 (H, W, 3) unit vectors on the pixels of the upright image, +X right, +Y down, (0, 0, 1) faces the "
    "camera, (0, 0, 0) missing; PNG of 8-bit RGB, 255 (n / 2 + 0.5), missing black: exact to half a degree; a horizontal "
    "flip negates X",
)  # fmt: skip
