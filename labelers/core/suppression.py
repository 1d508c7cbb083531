"""Greedy suppression of boxes, the same for detections and for masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.compare import box_iou

BLOCK = 512  # boxes compared with each other at once


def suppress(boxes: NDArray[Any], scores: NDArray[Any], most_overlap: float) -> NDArray[np.int64]:
    """Places of the boxes that stay, best first: none overlaps a better one that stays by more than `most_overlap` (IoU).

    boxes: (n, 4) x0, y0, x1, y1. scores: (n,); of equal ones the first is the better. Within a block, who stays is asked
    again until nothing changes, which it does as soon as the longest chain of boxes that hang on each other is through.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = np.asarray(boxes, np.float64).reshape(-1, 4)[order]
    kept = np.zeros(0, np.int64)
    for start in range(0, len(order), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(order)))
        for earlier in range(0, len(kept), BLOCK):
            better = ranked[kept[earlier : earlier + BLOCK]]
            rows = rows[~(box_iou(better, ranked[rows]) > most_overlap).any(axis=0)]
        beats = np.triu(box_iou(ranked[rows], ranked[rows]) > most_overlap, 1)
        stays = np.ones(len(rows), bool)
        while (stays != (after := ~np.any(beats[stays], axis=0))).any():
            stays = after
        kept = np.concatenate([kept, rows[stays]])
    return order[kept]
