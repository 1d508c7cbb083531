"""Numbers about a scene from its other labels: what one can walk on, how much is things, how crooked, how layered.

The fields are 4M-21's. Its list for objectness held stuff classes only, a superset of its list for walkability; here
objectness is the share of things. A field whose label does not tell it is left out, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from labelers.core.class_map import NAMES, VOID
from labelers.core.coco import CLASSES
from labelers.core.depth_map import DepthMap, stretched

# Ground that a person can walk on, of COCO's stuff.
WALKABLE = (
    "bridge", "floor-wood", "gravel", "platform", "playingfield", "road", "sand", "snow", "stairs", "floor-other-merged",
    "pavement-merged", "grass-merged", "dirt-merged", "rug-merged",
)  # fmt: skip
LEAST_KNOWN = 0.5  # share of a map that must be known: most of a photo, or the share says nothing about it
EDGE, SIDE = 0.3, 224  # Sobel response of an occlusion edge, in a map of that shorter side stretched to 0..1

Numbers = dict[str, float]
Reasons = dict[str, str]
_IS_WALKABLE = np.array([name in WALKABLE for name in NAMES])
_IS_THING = np.array([name in CLASSES for name in NAMES])


def from_classes(label: NDArray[np.uint8]) -> tuple[Numbers, Reasons]:
    """walkability, objectness: shares of the pixels that have a class; semantic_diversity: how many classes there are.

    Where most pixels have none, as of a network that knows VOC's 20 classes, nothing can be said.
    """
    counts = np.bincount(label.reshape(-1), minlength=len(NAMES))
    known = int(counts.sum() - counts[VOID])
    if known < LEAST_KNOWN * counts.sum():
        reason = f"semseg: {100 * known / counts.sum():.0f} % of the pixels have a class"
        return {}, dict.fromkeys(("walkability", "objectness", "semantic_diversity"), reason)
    counts[VOID] = 0
    return {
        "walkability": float(counts[_IS_WALKABLE].sum() / known),
        "objectness": float(counts[_IS_THING].sum() / known),
        "semantic_diversity": float(np.count_nonzero(counts)),
    }, {}


def from_boxes(label: Sequence[Mapping[str, Any]]) -> tuple[Numbers, Reasons]:
    """coco_count: how many boxes; coco_diversity: of how many classes."""
    return {"coco_count": len(label), "coco_diversity": len({one["label"] for one in label})}, {}


def from_normals(label: NDArray[np.float32]) -> tuple[Numbers, Reasons]:
    """geometric_complexity: angular variance of the known normals, 1 - length of their mean; 0 where all are parallel."""
    known = label.any(axis=-1)
    if known.mean() < LEAST_KNOWN:
        return {}, {"geometric_complexity": f"normal: {100 * known.mean():.0f} % of the pixels are known"}
    vectors = label[known].astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {"geometric_complexity": float(np.clip(1 - np.linalg.norm(vectors.mean(axis=0)), 0, 1))}, {}


def from_depth(label: DepthMap) -> tuple[Numbers, Reasons]:
    """occlusion: share of pixels at which depth jumps. The map is brought to 224 pixels of the shorter side (nearest) and
    its own range to 0..1 first, so that the number depends neither on the photo's size nor on the unit's scale.
    """
    height, width = label.values.shape
    scale = SIDE / min(height, width)
    rows = np.minimum(((np.arange(max(1, round(height * scale))) + 0.5) / scale).astype(np.int64), height - 1)
    columns = np.minimum(((np.arange(max(1, round(width * scale))) + 0.5) / scale).astype(np.int64), width - 1)
    if max(rows.size, columns.size) > 100 * SIDE:
        return {}, {"occlusion": f"depth: {width} x {height} pixels are too narrow"}
    values = stretched(label.values[rows][:, columns], label.unit).values
    known = np.isfinite(values)
    if known.mean() < LEAST_KNOWN:
        return {}, {"occlusion": f"depth: {100 * known.mean():.0f} % of the pixels are known"}
    filled = np.where(known, values, 0).astype(np.float32)
    slope = np.hypot(cv2.Sobel(filled, cv2.CV_32F, 1, 0), cv2.Sobel(filled, cv2.CV_32F, 0, 1))
    judged = cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # no jump next to what is missing
    return {"occlusion": float((slope[judged] > EDGE).mean()) if judged.any() else 0.0}, {}
