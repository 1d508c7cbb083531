"""semseg: the class of every pixel, among the 133 of COCO panoptic. The one definition; networks and imports produce it.

Stored numbers are the published system's, one more than a panoptic network's: 0 is void (no class), 1..133 are
labelers.core.coco.PANOPTIC in order. A backend that knows fewer classes leaves the rest void, and its name says so.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelers.core.coco import CATEGORY_IDS, PANOPTIC
from labelers.core.compare import classes
from labelers.core.modality import Label, LabelError, Modality, require
from labelers.core.overlays import blend, class_colour, small_copy
from labelers.core.scores import ClassScores
from labelers.core.show import Cell, Picture

VOID = 0
NAMES: tuple[str, ...] = ("void", *PANOPTIC)  # by stored number, 134
NUMBER_OF: Mapping[str, int] = {name: number for number, name in enumerate(NAMES)}  # name -> stored number
MISSING = 255  # in lookup tables only: a number that stands for no class
_COLOURS = np.array([(0, 0, 0), *(class_colour(n) for n in range(len(PANOPTIC)))], np.uint8)


def from_category_ids() -> NDArray[np.uint8]:
    """Lookup table (256,) from COCO's panoptic category ids to stored numbers; 0 is void, unknown ids are MISSING."""
    table = np.full(256, MISSING, np.uint8)
    table[0] = VOID
    for name, category in CATEGORY_IDS.items():
        table[category] = NUMBER_OF[name]
    return table


def _encode(label: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _decode(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if image.mode != "L":
            raise LabelError(f"semseg: expected a PNG of 8-bit grey, got mode {image.mode}")
        return np.array(image, np.uint8)


def _check(label: Label) -> None:
    require(isinstance(label, np.ndarray) and label.dtype == np.uint8, "semseg: expected a uint8 array")
    require(label.ndim == 2 and label.size > 0, f"semseg: expected shape (H, W), got {label.shape}")
    require(int(label.max()) < len(NAMES), f"semseg: {label.max()} is no class; 0 is void, 1..{len(PANOPTIC)} COCO's")


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    """Colours over the photo, white lines between classes; the largest classes are named."""
    base = np.full((*label.shape, 3), 96, np.uint8) if image is None else image
    canvas, _ = small_copy(base)
    rows, columns = canvas.shape[:2]
    y, x = np.arange(rows) * label.shape[0] // rows, np.arange(columns) * label.shape[1] // columns
    front = label[y][:, x]
    blend(canvas, _COLOURS[front], 0.65, front != VOID)
    border = np.zeros(front.shape, np.bool_)
    border[1:] |= front[1:] != front[:-1]
    border[:, 1:] |= front[:, 1:] != front[:, :-1]
    canvas[border] = 255
    counts = np.bincount(label.reshape(-1), minlength=len(NAMES))
    counts[VOID] = 0
    largest = [n for n in np.argsort(-counts, kind="stable")[:4] if counts[n] > 0]
    words = ", ".join(f"{NAMES[n].removesuffix('-merged')} {100 * counts[n] / label.size:.0f} %" for n in largest)
    return Picture(canvas, words or "no class")


SEMSEG = Modality(
    name="semseg", kind="map", container="tar", ext="png", encode=_encode, decode=_decode, check=_check, show=_show,
    compare=classes, scores=ClassScores,
    about="uint8 (H, W) on the pixels of the upright image: 0 void, 1..133 the classes of COCO panoptic in their order "
    "(80 things, 53 stuff); PNG of 8-bit grey; resize with nearest only",
)  # fmt: skip
