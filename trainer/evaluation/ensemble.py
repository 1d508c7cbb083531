"""Several predictions of one label as one: the mean of numbers, the vote of classes, the one most like the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from labelers.core.compare import METRICS
from labelers.core.depth_map import DepthMap
from labelers.core.modality import Label, Modality, Null
from tokenize_shards.table import TokenSpec


def ensembled(spec: TokenSpec, modality: Modality | None, labels: Sequence[Label | Null | None]) -> Label | Null | None:
    """One label of several; Nulls and missing ones are left out, and stand where there is no other."""
    some = [label for label in labels if label is not None and not isinstance(label, Null)]
    if len(some) < 2:
        return some[0] if some else labels[0]
    if spec.content == "depth":
        return DepthMap(np.mean([label.values for label in some], axis=0).astype(np.float32), some[0].unit)
    if spec.content == "classes":
        return _vote(np.stack(some))
    if spec.content == "normals":
        mean = np.mean(some, axis=0)
        return (mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-6)).astype(np.float32)
    if spec.content == "edges":
        return np.where(np.mean(np.stack(some) > 0, axis=0) >= 0.5, 255, 0).astype(np.uint8)
    if isinstance(some[0], np.ndarray):
        mean = np.mean([label.astype(np.float32) for label in some], axis=0)
        return mean.round().astype(some[0].dtype) if some[0].dtype.kind in "ui" else mean.astype(some[0].dtype)
    return some[_medoid(modality, some)]


def _vote(stack: np.ndarray) -> np.ndarray:
    """The most frequent class of each pixel, (n, H, W) -> (H, W); of equal ones the smaller."""
    names = np.unique(stack)
    counts = np.stack([(stack == name).sum(axis=0) for name in names])
    return names[counts.argmax(axis=0)].astype(stack.dtype)


def _medoid(modality: Modality | None, labels: Sequence[Any]) -> int:
    """The label most like the others, by the first metric its modality compares by."""
    if modality is None:
        return 0

    def likeness(a: Any, b: Any) -> float:
        for name, value in modality.compare(a, b).items():
            return value if METRICS[name].more_is_better else -value
        return 0.0

    sums = [sum(likeness(a, b) for j, b in enumerate(labels) if j != i) for i, a in enumerate(labels)]
    return int(np.argmax(sums))
