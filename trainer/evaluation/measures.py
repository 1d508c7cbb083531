"""Scores of published tasks that pool many labels, over and above labelers.core.scores: instances, people, vectors.

Each has `add(found, truth)` and `result()`, like those there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from labelers.core.compare import box_iou, pairs
from labelers.core.depth_map import DepthMap
from labelers.core.masks import mask_overlap
from labelers.core.scores import IOU_STEPS, DepthScores, OverlapScores, average_precision

Floats = npt.NDArray[np.float64]


class InstanceScores:
    """Masks without classes: COCO's AP and AP at 0.5 as if all were of one class, surest first, and what OverlapScores
    has.
    """

    def __init__(self) -> None:
        self._scores: list[float] = []
        self._hits: list[npt.NDArray[np.bool_]] = []
        self._truths = 0
        self._overlap = OverlapScores(mask_overlap)

    def add(self, found: Sequence[Any], truth: Sequence[Any]) -> None:
        self._overlap.add(found, truth)
        self._truths += len(truth)
        table = mask_overlap(found, truth) if found and truth else np.zeros((len(found), len(truth)))
        order = sorted(range(len(found)), key=lambda i: -found[i]["score"])
        for i, row in zip(order, _matched(table[order]), strict=True):
            self._scores.append(float(found[i]["score"]))
            self._hits.append(row)

    def result(self) -> dict[str, float]:
        if not self._truths:
            return {}
        hits = np.array(self._hits, bool).reshape(-1, len(IOU_STEPS))
        curve = [average_precision(np.array(self._scores), hits[:, i], self._truths) for i in range(len(IOU_STEPS))]
        return {"ap": float(np.mean(curve)), "ap50": float(curve[0]), **self._overlap.result()}


def _matched(table: Floats) -> npt.NDArray[np.bool_]:
    """(found, truth) overlaps, surest first -> whether each hits at each IoU step: each true mask is hit once."""
    hits = np.zeros((len(table), len(IOU_STEPS)), bool)
    for step, least in enumerate(IOU_STEPS):
        left = table.copy()
        for i in range(len(table)):
            if left.shape[1] and left[i].max() >= least:
                hits[i, step] = True
                left[:, int(left[i].argmax())] = -1
    return hits


class PoseScores:
    """People in 3-D: mean distance of joints in mm of people whose boxes match, relative to the middle of the hips, and
    after the best turn, scale and shift (Procrustes); recall: share of true people that are matched.
    """

    def __init__(self) -> None:
        self._plain: list[float] = []
        self._fitted: list[float] = []
        self._truths = 0

    def add(self, found: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]]) -> None:
        self._truths += len(truth)
        if not found or not truth:
            return
        for i, j in pairs(box_iou(np.stack([p["box"] for p in found]), np.stack([p["box"] for p in truth]))):
            mine, real = (np.asarray(p["keypoints_3d"], np.float64) for p in (found[i], truth[j]))
            self._plain.append(
                float(np.linalg.norm((mine - mine.mean(0)) - (real - real.mean(0)), axis=1).mean()) * 1000
            )
            self._fitted.append(float(np.linalg.norm(procrustes(mine, real) - real, axis=1).mean()) * 1000)

    def result(self) -> dict[str, float]:
        if not self._truths:
            return {}
        found = {"recall": len(self._plain) / self._truths}
        if self._plain:
            found = {"mpjpe_mm": float(np.mean(self._plain)), "pa_mpjpe_mm": float(np.mean(self._fitted)), **found}
        return found


def procrustes(points: Floats, target: Floats) -> Floats:
    """Points (n, 3) turned, scaled and shifted onto the target as closely as squares of distances allow; no mirror."""
    a, b = points - points.mean(0), target - target.mean(0)
    u, weight, v = np.linalg.svd(a.T @ b)
    sign = np.ones(3)
    sign[-1] = np.sign(np.linalg.det(u @ v)) or 1.0
    turn = (u * sign) @ v
    scale = float((weight * sign).sum() / max(float((a**2).sum()), 1e-12))
    return np.asarray(scale * a @ turn + target.mean(0))


class DepthErrors:
    """Depth: what DepthScores has, and loss_l1, the mean error after the best scale and shift, in spreads (standard
    deviations) of the true map, so that maps of any unit can be judged.
    """

    def __init__(self) -> None:
        self._scores, self._errors = DepthScores(), list[float]()

    def add(self, found: DepthMap, truth: DepthMap) -> None:
        self._scores.add(found, truth)
        if found.values.shape != truth.values.shape:
            return
        good = np.isfinite(found.values) & np.isfinite(truth.values)
        x, y = found.values[good].astype(np.float64), truth.values[good].astype(np.float64)
        if len(x) > 1 and y.std() > 0:
            spread = x - x.mean()
            scale = max(0.0, float(spread @ (y - y.mean())) / max(float(spread @ spread), 1e-12))
            self._errors.append(float(np.abs(y.mean() + scale * spread - y).mean() / y.std()))

    def result(self) -> dict[str, float]:
        found = {"loss_l1": float(np.mean(self._errors))} if self._errors else {}
        return found | self._scores.result()


class VectorScores:
    """Embeddings: mean cosine, and retrieval: is the true embedding of the same sample the nearest, or among five, of all
    true ones (top1, top5)? With classes, k nearest neighbours by cosine among the true embeddings of other samples.
    """

    def __init__(self, classes: Sequence[str | None] = (), neighbours: int = 20) -> None:
        self._found: list[Floats] = []
        self._truth: list[Floats] = []
        self._classes, self._neighbours = list(classes), neighbours
        self._seen: list[int] = []
        self._at = 0

    def skip(self) -> None:
        """A sample that lacks one of the two; its class does not count either."""
        self._at += 1

    def add(self, found: Floats, truth: Floats) -> None:
        self._found.append(found / max(float(np.linalg.norm(found)), 1e-12))
        self._truth.append(truth / max(float(np.linalg.norm(truth)), 1e-12))
        self._seen.append(self._at)
        self._at += 1

    def result(self) -> dict[str, float]:
        if not self._found:
            return {}
        found, truth = np.stack(self._found), np.stack(self._truth)
        table = found @ truth.T
        rank = (table > np.diag(table)[:, None]).sum(axis=1)
        scores = {
            "cosine": float(np.diag(table).mean()),
            "top1": float((rank < 1).mean()),
            "top5": float((rank < 5).mean()),
        }
        return scores | self._nearest(table)

    def _nearest(self, table: Floats) -> dict[str, float]:
        classes = [self._classes[i] if i < len(self._classes) else None for i in self._seen]
        known = [i for i, c in enumerate(classes) if c is not None]
        if len(known) < 2 or len({classes[i] for i in known}) < 2:
            return {}
        first = five = 0
        for i in known:
            others = [j for j in known if j != i]
            near = sorted(others, key=lambda j: -table[i, j])[: self._neighbours]
            votes: dict[str, float] = {}
            for j in near:
                votes[str(classes[j])] = votes.get(str(classes[j]), 0.0) + float(np.exp(table[i, j] / 0.07))
            order = sorted(votes, key=lambda c: -votes[c])
            first += order[:1] == [classes[i]]
            five += classes[i] in order[:5]
        return {"knn_top1": first / len(known), "knn_top5": five / len(known)}


class MeanScores:
    """Means over samples of what `compare` says of each pair."""

    def __init__(self, compare: Callable[[Any, Any], dict[str, float]]) -> None:
        self._compare, self._rows = compare, list[dict[str, float]]()

    def add(self, found: Any, truth: Any) -> None:
        self._rows.append(self._compare(found, truth))

    def result(self) -> dict[str, float]:
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        return {name: float(np.mean([row[name] for row in self._rows if name in row])) for name in names}
