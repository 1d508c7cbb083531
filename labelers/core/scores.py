"""Scores of many labels against a reference, pooled as the field does: over all boxes, pixels or masks, not as a mean of
images. Pure numpy; `Modality.scores` names the one that fits, and `add(found, truth)` takes one image at a time.

Imported ground truth is a recipe like any other, so `manymodal diff` prints these, and evaluation of a model uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from labelers.core.coco import PANOPTIC
from labelers.core.compare import aligned, depths, joints, match_boxes

IOU_STEPS = tuple(0.5 + 0.05 * i for i in range(10))  # COCO's: 0.50, 0.55 ... 0.95


class Scores(Protocol):
    """Collects images one by one. The second label is the reference."""

    def add(self, found: Any, truth: Any) -> None:
        """Take one image's pair of labels."""

    def result(self) -> dict[str, float]:
        """Scores by the name the field uses, best first; those that what was added does not define are left out."""


@runtime_checkable
class ScoresByClass(Scores, Protocol):
    """Scores that can also be given class by class."""

    def by_class(self) -> dict[str, float]:
        """Of each class that the reference has, the score the pooled one is the mean of."""


def average_precision(scores: NDArray[np.float64], hit: NDArray[np.bool_], truths: int) -> float:
    """COCO's AP: precision at 101 recalls, each the best at that recall or a higher one. nan without a true box."""
    if truths == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(hit[order])
    recall, precision = hits / truths, hits / np.arange(1, hits.size + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101))
    return float(np.where(at < best.size, np.append(best, 0)[np.minimum(at, best.size)], 0).mean())


class BoxScores:
    """Boxes with classes: precision and recall at an IoU of 0.5 of all boxes as they are, AP at 0.5, and COCO's AP.

    result() also holds `score >= t` variants through `at`: precision and recall of the boxes of at least that score.
    """

    def __init__(self) -> None:
        self._found: list[tuple[str, float, NDArray[np.bool_]]] = []
        self._truths: dict[str, int] = {}

    def add(self, found: Sequence[Any], truth: Sequence[Any]) -> None:
        hits = np.stack([match_boxes(found, truth, least) >= 0 for least in IOU_STEPS], axis=1)
        self._found += [(one["label"], one["score"], row) for one, row in zip(found, hits, strict=True)]
        for one in truth:
            self._truths[one["label"]] = self._truths.get(one["label"], 0) + 1

    def at(self, score: float) -> tuple[float, float]:
        """Precision and recall at an IoU of 0.5 of the boxes of at least that score; nan where undefined."""
        hit = [bool(row[0]) for _, sure, row in self._found if sure >= score]
        truths = sum(self._truths.values())
        return (sum(hit) / len(hit) if hit else float("nan")), (sum(hit) / truths if truths else float("nan"))

    def result(self) -> dict[str, float]:
        precision, recall = self.at(0.0)
        found = {"precision": precision, "recall": recall}
        curves = list(self._curves().values())
        if curves:
            found |= {"ap50": float(np.mean(curves, axis=0)[0]), "ap": float(np.mean(curves))}
        return {name: value for name, value in found.items() if np.isfinite(value)}

    def by_class(self) -> dict[str, float]:
        """COCO's AP of each class that the reference has."""
        return {name: float(np.mean(curve)) for name, curve in self._curves().items()}

    def _curves(self) -> dict[str, list[float]]:
        """AP at each IoU of IOU_STEPS, of each class that the reference has."""
        curves = {}
        for name, truths in self._truths.items():
            scores = np.array([s for label, s, _ in self._found if label == name], np.float64)
            hits = np.array([row for label, _, row in self._found if label == name], bool).reshape(-1, len(IOU_STEPS))
            curves[name] = [average_precision(scores, hits[:, i], truths) for i in range(len(IOU_STEPS))]
        return curves


class ClassScores:
    """Class maps: mean IoU over the classes that the reference has, and the share of right pixels. Pixels without a class
    in the reference (0) count for nothing; a missing class (0) in the found map counts as wrong.
    """

    def __init__(self, names: Sequence[str] = PANOPTIC) -> None:
        self._names = ("void", *names)
        self._counts = np.zeros((len(self._names),) * 2, np.int64)  # truth, found

    def add(self, found: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]]) -> None:
        if found.shape != truth.shape:
            raise ValueError(f"class maps of one image have shapes {found.shape} and {truth.shape}")
        n = len(self._names)
        both = truth.reshape(-1).astype(np.int64) * n + found.reshape(-1)
        self._counts += np.bincount(both, minlength=n * n).reshape(n, n)

    def by_class(self) -> dict[str, float]:
        """IoU of each class that the reference has."""
        counts = self._counts[1:]
        right, wanted = np.diag(self._counts)[1:], counts.sum(axis=1)
        union = wanted + counts.sum(axis=0)[1:] - right
        return {self._names[i + 1]: float(right[i] / union[i]) for i in np.flatnonzero(wanted)}

    def result(self) -> dict[str, float]:
        known = self._counts[1:].sum()
        if known == 0:
            return {}
        right = np.diag(self._counts)[1:].sum()
        return {"miou": float(np.mean(list(self.by_class().values()))), "pixel_accuracy": float(right / known)}


class OverlapScores:
    """Masks without classes: mean over all true masks of the best IoU any found mask has with it, and the share of true
    masks that some found mask covers with an IoU of at least 0.5.

    overlap: two labels -> their IoU matrix (found, truth).
    """

    def __init__(self, overlap: Callable[[Any, Any], NDArray[np.float64]]) -> None:
        self._overlap = overlap
        self._best: list[float] = []

    def add(self, found: Sequence[Any], truth: Sequence[Any]) -> None:
        if truth:
            self._best += self._overlap(found, truth).max(axis=0).tolist() if found else [0.0] * len(truth)

    def result(self) -> dict[str, float]:
        if not self._best:
            return {}
        best = np.array(self._best)
        return {"mean_best_iou": float(best.mean()), "recall_50": float((best >= 0.5).mean())}


class DepthScores:
    """Depth maps: mean over images of AbsRel and of d1 (share of pixels within a factor of 1.25), and of the order of
    pairs; found maps of unknown scale are fitted to the reference first.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []

    def add(self, found: Any, truth: Any) -> None:
        row = depths(found.values, truth.values, found.unit, truth.unit)
        if "abs_rel" in row:
            good = np.isfinite(found.values) & np.isfinite(truth.values) & (truth.values > 0)
            good &= (found.values > 0) | (found.unit != "metre")
            y = truth.values[good].astype(np.float64)
            x = np.maximum(aligned(found.values[good].astype(np.float64), y, found.unit), 1e-9)
            row["d1"] = float((np.maximum(x / y, y / x) < 1.25).mean())
        self._rows.append(row)

    def result(self) -> dict[str, float]:
        return _means(self._rows, ("abs_rel", "d1", "depth_order"))


class NormalScores:
    """Normals: mean and median angle in degrees, and the share of pixels within 11.25 degrees, over all known pixels."""

    def __init__(self, bins: int = 1800) -> None:
        self._counts = np.zeros(bins, np.int64)  # of angles, a tenth of a degree wide

    def add(self, found: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
        x, y = found.reshape(-1, 3).astype(np.float64), truth.reshape(-1, 3).astype(np.float64)
        length = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        good = np.isfinite(length) & (length > 0)
        angle = np.degrees(np.arccos(np.clip((x * y).sum(axis=1)[good] / length[good], -1, 1)))
        n = self._counts.size
        self._counts += np.bincount(np.minimum(angle / 180 * n, n - 1).astype(np.int64), minlength=n)

    def result(self) -> dict[str, float]:
        total = self._counts.sum()
        if total == 0:
            return {}
        middle = (np.arange(self._counts.size) + 0.5) * 180 / self._counts.size
        half = middle[np.searchsorted(np.cumsum(self._counts), total / 2)]
        near = self._counts[middle < 11.25].sum() / total
        mean = float(middle @ self._counts / total)
        return {"mean_angle": mean, "median_angle": float(half), "within_11_25": float(near)}


class JointScores:
    """People with COCO's joints: the similarity (OKS) of each true person's match, 0 without one, as a mean of images."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []

    def add(self, found: Sequence[Any], truth: Sequence[Any]) -> None:
        self._rows.append(joints(found, truth))

    def result(self) -> dict[str, float]:
        return _means(self._rows, ("oks",))


def _means(rows: Sequence[dict[str, float]], names: Sequence[str]) -> dict[str, float]:
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: float(np.mean(values)) for name, values in found.items() if values}
