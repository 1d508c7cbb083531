"""From segments of patches to segments of pixels: each segment's share of a pixel, moved to the edges of the photo.

The shares of a patch map, interpolated, are smooth; a guided filter (He, Sun, Tang 2010) makes each a locally linear
function of the photo's colours, so that it changes where they change. A pixel belongs to the segment of largest share.
No graphical model is fitted; box filters are all it takes.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]


class GuidedFilter:
    """The filter for one guide, float32 RGB 0..1 (H, W, 3). radius: of its windows in pixels. smooth: variance of the
    colours in a window below which it is taken to be flat.
    """

    def __init__(self, guide: NDArray[np.float32], radius: int, smooth: float) -> None:
        self._size = (2 * radius + 1,) * 2
        self._guide: list[Plane] = [np.ascontiguousarray(guide[..., i], np.float32) for i in range(3)]
        self._mean = [self._box(plane) for plane in self._guide]
        self._inverse = self._inverse_covariance(smooth)

    def _box(self, values: Plane) -> Plane:
        """Mean over the window."""
        return np.asarray(cv2.blur(values, self._size, borderType=cv2.BORDER_REFLECT), np.float32)

    def _inverse_covariance(self, smooth: float) -> list[list[Plane]]:
        """The inverse of the 3 x 3 covariance of the colours in each window, `smooth` added to its diagonal."""
        i, m = self._guide, self._mean
        a, b, c, d, e, f = (
            self._box(i[p] * i[q]) - m[p] * m[q] + np.float32(smooth * (p == q))
            for p, q in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
        )
        upper = [d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b]
        scale = 1 / (a * upper[0] + b * upper[1] + c * upper[2])
        aa, ab, ac, bb, bc, cc = (np.asarray(plane * scale, np.float32) for plane in upper)
        return [[aa, ab, ac], [ab, bb, bc], [ac, bc, cc]]

    def __call__(self, values: Plane) -> Plane:
        """values (H, W), filtered."""
        mean = self._box(values)
        joint = [self._box(g * values) - m * mean for g, m in zip(self._guide, self._mean, strict=True)]
        slope = [row[0] * joint[0] + row[1] * joint[1] + row[2] * joint[2] for row in self._inverse]
        offset = mean - sum(s * m for s, m in zip(slope, self._mean, strict=True))
        lines = [self._box(s) * g for s, g in zip(slope, self._guide, strict=True)]
        return np.asarray(self._box(np.asarray(offset, np.float32)) + sum(lines), np.float32)


def to_pixels(
    segments: NDArray[np.integer[Any]], image: NDArray[np.uint8], side: int, radius: float, smooth: float
) -> NDArray[np.int32]:
    """A map of segment numbers 0..n-1 of patches (h, w) to one of pixels, int32, of the image made smaller.

    side: the longer side of the result, at most the image's. radius: of the filter's windows in patches. Patches of a
    negative number belong to nobody, and their pixels to a neighbour.
    """
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    pixels = max(1, round(radius * max(size) / max(segments.shape)))
    guided = GuidedFilter(np.asarray(small, np.float32) / np.float32(255), pixels, smooth)
    best = np.full((size[1], size[0]), -np.inf, np.float32)
    number = np.zeros(best.shape, np.int32)
    for i in range(int(segments.max()) + 1):
        share = cv2.resize((segments == i).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        share = guided(np.asarray(share, np.float32))
        wins = share > best
        number[wins] = i
        np.maximum(best, share, out=best)
    return number
