"""Seven palettes of an image, of 1 to 7 colours, each sorted by the share of pixels, largest first.

k-means in CIE Lab (where distance is closer to what the eye calls different: small vivid areas, a parrot's red or a
navy blouse, get a colour two or three palette sizes earlier than in RGB) on the image shrunk by area averaging to at
most 64 pixels a side. Each palette is its own clustering, started by k-means++ from a fixed seed, the better of two.
The mean in Lab of a cluster, as 8-bit sRGB, is its colour. Clusters that round to one colour are joined; a palette with
fewer distinct colours than its size repeats its last one, so that palette n always has n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from labelers.core import compare, labeler
from labelers.core.labeler import Labeler, Resources, Sample
from labelers.core.modality import Label, Modality, Null, require
from labelers.core.show import Cell, Swatches

SIZES = range(1, 8)


def _check(label: Label) -> None:
    require(isinstance(label, list) and 1 <= len(label) <= len(SIZES), f"color_palette: expected 1 to {len(SIZES)}")
    before = 0
    for palette in label:
        require(isinstance(palette, np.ndarray) and palette.dtype == np.uint8, "color_palette: expected uint8 arrays")
        size = len(palette)
        require(palette.shape == (size, 3), f"color_palette: expected shape ({size}, 3), got {palette.shape}")
        require(before < size <= max(SIZES), f"color_palette: {size} colours after a palette of {before}")
        before = size


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    return Swatches(tuple(tuple((int(r), int(g), int(b)) for r, g, b in palette) for palette in label))


COLOR_PALETTE = Modality(
    name="color_palette", kind="record", container="parquet", arrow=pa.list_(pa.list_(pa.uint8())),
    encode=lambda label: [palette.reshape(-1).tolist() for palette in label],
    decode=lambda raw: [np.asarray(flat, np.uint8).reshape(-1, 3) for flat in raw],
    check=_check, show=_show, compare=compare.palettes,
    about="7 palettes (fewer where they were decoded from tokens), each uint8 sRGB (n, 3), n rising from 1 to 7, largest "
    "share first; stored flat as r, g, b, r, ...",
)  # fmt: skip


def shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """uint8 RGB (H, W, 3), area-averaged so that its longer side is at most `side`; smaller ones stay as they are."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def to_lab(colours: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 sRGB (n, 3) -> CIE Lab (n, 3), L 0..100."""
    return np.asarray(cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0], np.float32)


def _to_rgb(lab: NDArray[np.float32]) -> NDArray[np.uint8]:
    rgb = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_LAB2RGB)[0]
    return np.asarray(np.clip(np.rint(rgb * 255), 0, 255), np.uint8)


def _exactly(size: int, colours: NDArray[np.uint8], shares: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Join equal colours, sort by share (ties by r, g, b: never by chance), repeat the last; (size, 3)."""
    distinct, which = np.unique(colours, axis=0, return_inverse=True)
    total = np.bincount(which.reshape(-1), weights=shares)
    ordered = distinct[np.argsort(-total, kind="stable")]  # np.unique sorted them by r, g, b
    return ordered[np.minimum(np.arange(size), len(ordered) - 1)]


def _distinct(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Distinct colours of uint8 (N, 3) and how often each occurs. Packed in integers: np.unique(axis=0) is slow."""
    packed, counts = np.unique(pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32), return_counts=True)
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1).astype(np.uint8), counts


def palettes(image: NDArray[np.uint8], side: int = 64, seed: int = 0) -> list[NDArray[np.uint8]]:
    """uint8 RGB (H, W, 3) -> seven uint8 arrays, palette i of shape (i + 1, 3)."""
    pixels = shrink(image, side).reshape(-1, 3)
    distinct, counts = _distinct(pixels)
    lab = to_lab(pixels)
    none: Any = None  # no labels to start from; OpenCV's stubs do not know of it
    found = []
    for size in SIZES:
        if len(distinct) <= size:  # no clustering can say it better, and k-means needs as many points as clusters
            found.append(_exactly(size, distinct, counts))
            continue
        cv2.setRNGSeed(seed)
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
        _, labels, centres = cv2.kmeans(lab, size, none, stop, 2, cv2.KMEANS_PP_CENTERS)
        colours = _to_rgb(np.asarray(centres, np.float32))
        found.append(_exactly(size, colours, np.bincount(labels[:, 0], minlength=size)))
    return found


class ColorPalette(Labeler):
    """Seven palettes by k-means."""

    class Params(labeler.Params):
        """side: pixels of the longer side clustering sees. seed: of k-means++."""

        side: int = Field(64, ge=8, le=512)
        seed: int = Field(0, ge=0, lt=2**31)

    name = "color_palette"
    version = 1
    backend = "k-means in Lab (OpenCV)"
    produces = (COLOR_PALETTE,)
    resources = Resources(cpu=1.0, batch=32)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [{"color_palette": palettes(s.image, self.params.side, self.params.seed)} for s in samples]
