"""det: boxes of things with a COCO class each. The one definition; every detector and every import produces it.

Boxes are in pixels of the upright image, as those of sam_instance and human_poses: what is cut by a view moves with it,
and no label needs the image's size to be understood. Normalised coordinates belong to tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labelers.core.coco import CLASSES, NUMBER
from labelers.core.compare import boxes
from labelers.core.modality import Label, Modality, require
from labelers.core.overlays import class_colour, draw_box, small_copy
from labelers.core.scores import BoxScores
from labelers.core.show import Cell, Picture


class Box(TypedDict):
    """One detection. box: float32 (4,) x0, y0, x1, y1, pixel edges of the upright image, x1 and y1 exclusive.

    label: one of labelers.core.coco.CLASSES (COCO's 80). score: 0..1, 1 where a person drew the box.
    """

    box: NDArray[np.float32]
    label: str
    score: float


def sorted_boxes(found: Sequence[Box]) -> list[Box]:
    """The order of a label: by score, highest first, then by class and box, so that it does not depend on who came
    first.
    """
    return sorted(found, key=lambda one: (-one["score"], NUMBER.get(one["label"], -1), one["box"].tolist()))


def detection(box: Sequence[float] | NDArray[Any], label: str, score: float, shape: tuple[int, int]) -> Box | None:
    """One entry of a label, cut to an image of shape (H, W); None where nothing of the box lies inside it."""
    limit = np.array([shape[1], shape[0]] * 2, np.float32)
    edges = np.clip(np.asarray(box, np.float32), 0, limit)
    if not (edges[0] < edges[2] and edges[1] < edges[3]):
        return None
    return {"box": edges, "label": label, "score": float(np.float32(score))}


def _check(label: Label) -> None:
    require(isinstance(label, list), f"det: expected a list of boxes, got {type(label).__name__}")
    for i, one in enumerate(label):
        require(isinstance(one, dict) and set(one) == set(Box.__annotations__), f"det: box {i} has wrong fields")
        box, score = one["box"], one["score"]
        good = isinstance(box, np.ndarray) and box.dtype == np.float32 and box.shape == (4,)
        require(good and bool(np.isfinite(box).all()), f"det: box {i} is not float32 (4,) of finite numbers")
        require(
            bool(0 <= box[0] < box[2] and 0 <= box[1] < box[3]), f"det: box {i}: {box} is not x0, y0, x1, y1 in pixels"
        )
        require(one["label"] in NUMBER, f"det: box {i}: {one['label']!r} is not one of COCO's {len(CLASSES)} classes")
        require(isinstance(score, float) and 0 <= score <= 1, f"det: box {i}: score {score} is not in 0..1")
    scores = [one["score"] for one in label]
    require(scores == sorted(scores, reverse=True), "det: boxes are not in order, highest score first")


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    """The boxes on the photo, each in its class's colour with the name on it; the surest on top."""
    if image is None:
        reach = np.max([one["box"] for one in label], axis=0) if label else np.full(4, 64)
        image = np.full((int(np.ceil(reach[3])), int(np.ceil(reach[2])), 3), 32, np.uint8)
    canvas, scale = small_copy(image)
    for one in reversed(label):
        text = one["label"] if one["score"] >= 0.9995 else f"{one['label']} {one['score']:.2f}"
        draw_box(canvas, one["box"] * scale, class_colour(NUMBER[one["label"]]), text)
    counts: dict[str, int] = {}
    for one in label:
        counts[one["label"]] = counts.get(one["label"], 0) + 1
    words = ", ".join(f"{n} × {name}" if n > 1 else name for name, n in sorted(counts.items(), key=lambda c: -c[1]))
    return Picture(canvas, words or "nothing found")


def _encode(label: Label) -> list[dict[str, Any]]:
    return [{"box": one["box"].tolist(), "label": one["label"], "score": one["score"]} for one in label]


def _decode(raw: Sequence[Mapping[str, Any]]) -> list[Box]:
    return [
        {"box": np.asarray(one["box"], np.float32), "label": one["label"], "score": float(one["score"])} for one in raw
    ]


DET = Modality(
    name="det", kind="record", container="parquet",
    arrow=pa.list_(pa.struct([
        ("box", pa.list_(pa.float32(), 4)), ("label", pa.string()), ("score", pa.float32()),
    ])),
    encode=_encode, decode=_decode, check=_check, show=_show, compare=boxes, scores=BoxScores,
    about="list of boxes, highest score first, empty = nothing found: box float32 (4,) x0, y0, x1, y1 pixel edges of the "
    "upright image (x1, y1 exclusive); label: name of one of COCO's 80 classes; score 0..1, 1 where a person drew it",
)  # fmt: skip
