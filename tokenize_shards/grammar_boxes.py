"""det as a sequence: `v0=xmin v1=ymin v2=xmax v3=ymax class` a box, nearest to the origin first; nothing where there is
no box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokenize_shards.grammar import by_origin, read_box, write_box
from tokenize_shards.views import View, cut_boxes
from tokenize_shards.wordpiece import CLASS, COCO_CLASSES

TOKENS = 5  # a box takes
_CLASS_ID = {name: CLASS + i for i, name in enumerate(COCO_CLASSES)}


def cut_detections(label: Sequence[Mapping[str, Any]], view: View, side: float = 1.0) -> list[dict[str, Any]]:
    """The boxes a view keeps, surest first as in the label, in pixels of a picture of `side` x `side`."""
    if not label:
        return []
    boxes, kept = cut_boxes(np.stack([one["box"] for one in label]), view)
    return [{**label[int(i)], "box": box * np.float32(side)} for box, i in zip(boxes, kept, strict=True)]


def encode_boxes(label: Sequence[Mapping[str, Any]], view: View, limit: int) -> list[int]:
    """As many boxes as fit into `limit` tokens, the surest kept, then in the order of the grammar."""
    found = cut_detections(label, view)
    if len(found) * TOKENS > limit:
        found = sorted(found, key=lambda one: -float(one["score"]))[: limit // TOKENS]
    if not found:
        return []
    order = by_origin(np.stack([one["box"] for one in found]))
    return [t for i in order for t in (*write_box(found[i]["box"]), _CLASS_ID[found[i]["label"]])]


def decode_boxes(ids: Sequence[int], side: float = 1.0) -> list[dict[str, Any]]:
    """Each whole group of four coordinates and a class, as a label: in pixels of a picture of `side` x `side`, score 1,
    in the order they were written. Boxes without an area are left out.
    """
    found = []
    for i in range(len(ids) - TOKENS + 1):
        box = read_box(ids[i : i + 4])
        token = ids[i + 4] - CLASS
        if box is not None and 0 <= token < len(COCO_CLASSES) and bool((box[:2] < box[2:]).all()):
            found.append({"box": box * np.float32(side), "label": COCO_CLASSES[token], "score": 1.0})
    return found
