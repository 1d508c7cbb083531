"""Canny edges of the grey image, found at one scale relative to the photo whatever its resolution.

The published system names no thresholds. Plain `Canny(grey, 100, 200)` on photos of 0.2 to 1.5 megapixels drew asphalt,
foliage and water as noise, the more so the larger the photo, and broke faint contours of faces. So the grey image is
blurred by a Gaussian first, whose sigma grows with the short side (1 pixel at 480), and the thresholds are divided by
the same factor, because the gradient of a blurred step falls as 1 / sigma: a photo and its enlargement give the same
drawing. Thresholds 50 and 100 were chosen by eye on those photos.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from labelers.core import labeler
from labelers.core.compare import edges
from labelers.core.labeler import Labeler, Resources, Sample
from labelers.core.modality import Label, Modality, Null, require
from labelers.core.show import Cell, Picture


def _encode(label: NDArray[np.uint8]) -> bytes:
    """A PNG of one bit a pixel: a third smaller than eight, and every reader that asks for grey sees 0 and 255."""
    buffer = io.BytesIO()
    Image.fromarray(label).convert("1", dither=Image.Dither.NONE).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _decode(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return np.array(image.convert("L"), np.uint8)


def _check(label: Label) -> None:
    require(isinstance(label, np.ndarray) and label.dtype == np.uint8, "canny_edge: expected a uint8 array")
    require(label.ndim == 2 and label.size > 0, f"canny_edge: expected shape (H, W), got {label.shape}")
    require(bool(((label == 0) | (label == 255)).all()), "canny_edge: expected only 0 and 255")


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    return Picture(np.repeat(label[:, :, None], 3, axis=2))


CANNY_EDGE = Modality(
    name="canny_edge", kind="map", container="tar", ext="png", encode=_encode, decode=_decode,
    check=_check, show=_show, compare=edges,
    about="uint8 (H, W), 255 on an edge and 0 elsewhere, on the pixels of the upright image; PNG of 1 bit a pixel",
)  # fmt: skip


def canny(image: NDArray[np.uint8], low: float, high: float, sigma: float, reference_side: int) -> NDArray[np.uint8]:
    """uint8 RGB (H, W, 3) -> uint8 (H, W) in {0, 255}. sigma in pixels of a photo whose short side is `reference_side`.

    low, high: hysteresis thresholds on the L2 norm of the 3 x 3 Sobel gradient, at that size too. Photos smaller than
    the reference keep sigma and thresholds as they are.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = max(1.0, min(grey.shape) / reference_side)
    if sigma > 0:
        grey = cv2.GaussianBlur(grey, (0, 0), sigma * scale)
    return np.asarray(cv2.Canny(grey, low / scale, high / scale, apertureSize=3, L2gradient=True), np.uint8)


class CannyEdge(Labeler):
    """Canny edges by OpenCV."""

    class Params(labeler.Params):
        """See the module for how these were chosen."""

        low: float = Field(50.0, gt=0)
        high: float = Field(100.0, gt=0)
        sigma: float = Field(1.0, ge=0)  # 0: no blur
        reference_side: int = Field(480, ge=1)

        @model_validator(mode="after")
        def _ordered(self) -> Self:
            if self.low > self.high:
                raise ValueError(f"canny_edge: low ({self.low}) is above high ({self.high}); swap them")
            return self

    name = "canny_edge"
    version = 1
    backend = "OpenCV"
    produces = (CANNY_EDGE,)
    resources = Resources(cpu=1.0, batch=32)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        p = self.params
        return [{"canny_edge": canny(s.image, p.low, p.high, p.sigma, p.reference_side)} for s in samples]
