"""Drawing over a photo, for `show`: a small copy of it, colours that tell classes apart, boxes with names, skeletons."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

SHOWN = 640  # longest side of a drawn picture
Colour = tuple[int, int, int]


@lru_cache(maxsize=1024)
def class_colour(number: int) -> Colour:
    """A vivid colour for a number; neighbours are far apart on the colour wheel, and brightness alternates."""
    value = (1.0, 0.8, 0.9)[number % 3]
    r, g, b = colorsys.hsv_to_rgb(number * 0.618034 % 1, (0.75, 0.9, 0.55)[number // 3 % 3], value)
    return round(r * 255), round(g * 255), round(b * 255)


def small_copy(image: NDArray[np.uint8], side: int = SHOWN) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A copy to draw on, at most `side` pixels a side, and what to multiply x, y, x, y of the image by: float32 (4,)."""
    height, width = image.shape[:2]
    share = min(1.0, side / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    copy = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if share < 1 else image.copy()
    return np.ascontiguousarray(copy, np.uint8), np.array([size[0] / width, size[1] / height] * 2, np.float32)


def draw_box(canvas: NDArray[np.uint8], box: NDArray[np.float32], colour: Colour, text: str = "") -> None:
    """Draw a box x0, y0, x1, y1 and its name into uint8 RGB (H, W, 3), in place; a dark rim keeps it visible."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    width = max(1, round(max(canvas.shape[:2]) / 220))
    cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), (20, 20, 20), width + 2)
    cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), colour, width)
    if text:
        scale = max(0.35, max(canvas.shape[:2]) / 900)
        (wide, high), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        left = int(np.clip(x0, 0, max(0, canvas.shape[1] - wide - 4)))
        top = int(np.clip(y0 - high - base - 2, 0, max(0, canvas.shape[0] - high - base - 2)))
        cv2.rectangle(canvas, (left, top), (left + wide + 4, top + high + base + 2), colour, -1)
        dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        ink = (0, 0, 0) if dark else (255, 255, 255)
        cv2.putText(canvas, text, (left + 2, top + high + 1), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)


def blend(image: NDArray[np.uint8], colours: NDArray[np.uint8], share: float, where: NDArray[np.bool_]) -> None:
    """Mix colours (H, W, 3) into the image in place, where the mask (H, W) says; share 0..1 of the colours."""
    mixed = (1 - share) * image[where].astype(np.float32) + share * colours[where]
    image[where] = mixed.round().astype(np.uint8)


def draw_skeleton(
    canvas: NDArray[np.uint8], points: NDArray[np.float32], seen: NDArray[np.bool_],
    edges: Sequence[tuple[int, int]], colours: Sequence[Colour],
) -> None:  # fmt: skip
    """Joints (n, 2) in pixels of the canvas and the limbs between them, in place. A limb has its second joint's colour."""
    spots = [(round(float(x) * 16), round(float(y) * 16)) for x, y in points]  # shift=4: sixteenths of a pixel
    reach = float(np.ptp(points[seen], axis=0).max()) if seen.any() else 0.0
    width = int(np.clip(reach / 80, 1, 4))
    for rim in (True, False):  # a dark rim first, so that the colours stand out on any photo
        for a, b in edges:
            if seen[a] and seen[b]:
                colour = (20, 20, 20) if rim else colours[b]
                cv2.line(canvas, spots[a], spots[b], colour, width + 2 * rim, cv2.LINE_AA, 4)
    for i in map(int, np.flatnonzero(seen)):
        cv2.circle(canvas, spots[i], 16 * width, colours[i], -1, cv2.LINE_AA, 4)
