"""keypoints: COCO's 17 body joints of every person. The one definition; networks and imports produce it.

A modality of its own beside human_poses, whose 33 landmarks also have metres: joints of another set cannot be turned
into those without inventing some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labelers.core.compare import joints
from labelers.core.modality import Label, Modality, require
from labelers.core.overlays import Colour, draw_skeleton, small_copy
from labelers.core.scores import JointScores
from labelers.core.show import Cell, Picture

NAMES: tuple[str, ...] = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
EDGES: tuple[tuple[int, int], ...] = (
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13),
    (13, 15), (12, 14), (14, 16),
)  # fmt: skip
LEFT, RIGHT, MIDDLE = (255, 138, 0), (0, 217, 231), (255, 255, 255)  # as human_poses
SHOWN_FROM = 0.3  # a joint of less confidence is not drawn
_COLOURS: tuple[Colour, ...] = tuple(
    LEFT if n.startswith("left") else RIGHT if n.startswith("right") else MIDDLE for n in NAMES
)


class Joints(TypedDict):
    """One person. box: float32 (4,) x0, y0, x1, y1 pixel edges. score: 0..1.

    keypoints: float32 (17, 3): x, y in pixels of the upright image and a confidence 0..1, 0 where it is not known (an
    imported joint: 1 where it is visible, 0.5 where it is hidden).
    """

    box: NDArray[np.float32]
    score: float
    keypoints: NDArray[np.float32]


def _check(label: Label) -> None:
    require(isinstance(label, list), f"keypoints: expected a list of people, got {type(label).__name__}")
    for i, one in enumerate(label):
        where = f"keypoints: person {i}"
        require(isinstance(one, dict) and set(one) == set(Joints.__annotations__), f"{where} has wrong fields")
        for name, shape in (("box", (4,)), ("keypoints", (len(NAMES), 3))):
            value = one[name]
            good = isinstance(value, np.ndarray) and value.dtype == np.float32 and value.shape == shape
            require(good and bool(np.isfinite(value).all()), f"{where}: {name} is not float32 {shape}, finite")
        require(bool((one["box"][:2] <= one["box"][2:]).all()), f"{where}: box {one['box']} is not x0, y0, x1, y1")
        require(isinstance(one["score"], float) and 0 <= one["score"] <= 1, f"{where}: score is not in 0..1")
        sure = one["keypoints"][:, 2]
        require(float(sure.min()) >= 0 and float(sure.max()) <= 1, f"{where}: a confidence is not in 0..1")


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    """Skeletons on the photo: the person's left side orange, right side cyan, the head white."""
    if image is None:
        reach = max((float(one["box"].max()) for one in label), default=64.0)
        image = np.full((int(np.clip(np.ceil(reach), 1, 8192)),) * 2 + (3,), 32, np.uint8)
    canvas, scale = small_copy(image)
    for one in label:
        seen = one["keypoints"][:, 2] >= SHOWN_FROM
        draw_skeleton(canvas, one["keypoints"][:, :2] * scale[:2], seen, EDGES, _COLOURS)
    return Picture(canvas, f"{len(label)} {'person' if len(label) == 1 else 'people'}" if label else "no person")


def _encode(label: Label) -> list[dict[str, Any]]:
    return [{k: v.ravel().tolist() if isinstance(v, np.ndarray) else v for k, v in one.items()} for one in label]


def _decode(raw: Sequence[Mapping[str, Any]]) -> list[Joints]:
    return [
        {
            "box": np.asarray(one["box"], np.float32),
            "score": float(one["score"]),
            "keypoints": np.asarray(one["keypoints"], np.float32).reshape(-1, 3),
        }
        for one in raw
    ]


KEYPOINTS = Modality(
    name="keypoints", kind="record", container="parquet",
    arrow=pa.list_(pa.struct([
        ("box", pa.list_(pa.float32(), 4)), ("score", pa.float32()),
        ("keypoints", pa.list_(pa.float32(), len(NAMES) * 3)),
    ])),
    encode=_encode, decode=_decode, check=_check, show=_show, compare=joints, scores=JointScores,
    about="list of people, empty = nobody: box float32 (4,) x0, y0, x1, y1 pixel edges of the upright image; score 0..1; "
    "keypoints float32 (17, 3), COCO's joints in order: x, y pixels and a confidence 0..1, 0 = not known; left and right "
    "are the person's",
)  # fmt: skip
