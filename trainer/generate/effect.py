"""How far a generation follows what steered it: a number for each way to steer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from labelers.color_palette import palettes, to_lab
from labelers.core.compare import edges
from labelers.core.modality import Label, Modality

Picture = npt.NDArray[np.uint8]  # (H, W, 3)
Bools = npt.NDArray[np.bool_]


def palette_distance(picture: Picture, colours: npt.NDArray[np.uint8]) -> float:
    """How far the palette of a picture, of as many colours, is from one: mean distance in CIE Lab of colours matched one to
    one, at best. 2 is hardly seen, 100 is black and white.
    """
    own = palettes(picture)[len(colours) - 1]
    apart = np.linalg.norm(to_lab(own)[:, None] - to_lab(colours)[None], axis=-1)
    return float(apart[linear_sum_assignment(apart)].mean())


def agreement(modality: Modality, a: Label, b: Label) -> dict[str, float]:
    """The first metric by which labels of a modality are compared; empty where these two define none. Of edges the
    correlation of the pixels: F1, which forgives a pixel of distance, is high for a drawing that is all edges.
    """
    if modality.compare is edges:
        return {"correlation": correlation(np.asarray(a), np.asarray(b))}
    return dict(list(modality.compare(a, b).items())[:1])


def correlation(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Of two drawings of one size, which pixels are on: -1..1, 0 where one is all on or all off."""
    x, y = (drawing.ravel() > 0 for drawing in (a, b))
    return float(np.corrcoef(x, y)[0, 1]) if x.any() and y.any() and not x.all() and not y.all() else 0.0


def places(grid: Bools, height: int, width: int) -> Bools:
    """(height, width) pixels of the tokens that are True in a grid (rows, columns)."""
    y, x = np.arange(height) * grid.shape[0] // height, np.arange(width) * grid.shape[1] // width
    return np.asarray(grid[np.ix_(y, x)])


def off(picture: Picture, other: Picture, grid: Bools) -> float:
    """Mean difference of two pictures of one size, 0..255, at the tokens that are True in a grid (rows, columns)."""
    where = places(grid, *picture.shape[:2])
    return float(np.abs(picture.astype(np.float64) - other)[where].mean())


def seam(picture: Picture, known: Bools) -> float:
    """Steps between neighbouring pixels where given and made tokens meet, over those between tokens that were made: 1
    where no seam shows. known: (rows, columns), the given tokens.
    """
    height, width = picture.shape[:2]
    given, grey = places(known, height, width), picture.astype(np.float64).mean(-1)
    cells = np.arange(height) * known.shape[0] // height, np.arange(width) * known.shape[1] // width
    meets, elsewhere = [], []
    for axis, cell in enumerate(cells):
        step = np.abs(np.diff(grey, axis=axis))
        before, after = np.delete(given, -1, axis), np.delete(given, 0, axis)
        between = np.expand_dims(np.diff(cell) > 0, 1 - axis)
        meets.append(step[before != after])
        elsewhere.append(step[~before & ~after & between])
    return float(np.concatenate(meets).mean() / max(np.concatenate(elsewhere).mean(), 1e-9))
