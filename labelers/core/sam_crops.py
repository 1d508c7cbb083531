"""Where SAM's automatic masks look: crops of an image, grids of points, sizes, as segment_anything defines them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERLAP = 512 / 1500  # of crops of the first layer, in shares of the image's short side; halved with each layer
NEAR = 20.0  # pixels: a mask that comes so close to a crop's edge was cut by it

Shape = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Crop:
    """A part of an image. image: its number. frame: (H, W) of the image. box: x0, y0, x1, y1. layer: 0 for the whole image."""

    image: int
    frame: Shape
    box: tuple[int, int, int, int]
    layer: int = 0

    @property
    def shape(self) -> Shape:
        """(height, width) of the crop."""
        x0, y0, x1, y1 = self.box
        return y1 - y0, x1 - x0

    @property
    def area(self) -> int:
        """Pixels of the crop."""
        return self.shape[0] * self.shape[1]


def crops_of(image: int, frame: Shape, layers: int) -> list[Crop]:
    """The image itself, then for each layer i from 1 on 2**i x 2**i crops that overlap. Some may be empty if it is tiny."""
    height, width = frame
    found = [Crop(image, frame, (0, 0, width, height))]
    for layer in range(1, layers + 1):
        side = 2**layer
        overlap = int(OVERLAP * min(frame) * (2 / side))
        step_y, step_x = (math.ceil((overlap * (side - 1) + length) / side) - overlap for length in frame)
        for i, j in itertools.product(range(side), repeat=2):
            x0, y0 = i * step_x, j * step_y
            box = (x0, y0, min(x0 + step_x + overlap, width), min(y0 + step_y + overlap, height))
            found.append(Crop(image, frame, box, layer))
    return found


def scaled(shape: Shape, side: int) -> Shape:
    """(height, width) at which a network with a square input of that side sees an image, before what pads it."""
    scale = side / max(shape)
    return int(shape[0] * scale + 0.5), int(shape[1] * scale + 0.5)


def fits(shape: Shape, side: int) -> bool:
    """Whether there is a pixel at all, and of both sides at least one is left at the network's input size."""
    return min(shape) > 0 and min(scaled(shape, side)) > 0


def point_grid(side: int) -> NDArray[np.float64]:
    """side x side points, row by row, in shares of the image: (side**2, 2) x, y."""
    ticks = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
    return np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)


def cut_by(crop: Crop, boxes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which masks come close to an edge of the crop that is no edge of the image. boxes: (n, 4), last pixels inclusive."""
    near_crop = np.abs(boxes - np.array(crop.box)) <= NEAR
    near_frame = np.abs(boxes - np.array([0, 0, crop.frame[1], crop.frame[0]])) <= NEAR
    return np.asarray((near_crop & ~near_frame).any(axis=1))
