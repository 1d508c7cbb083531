"""How structures become text tokens and back: the sequence grammars of 4M-21, one pair of functions a modality.

Encoders take a label and a view, and give ids without [SOS] and [EOS]. Decoders take whatever a model wrote, keep what
is valid, drop the rest, and never raise. Coordinates are whole numbers 0..999 of the view.

color_palette  v1=n, then v0=r v0=g v0=b a colour, raw 0..255; n comes from a hash of (id, seed, view) metadata
v1=field v0=value a pair, in field order; the trainer shuffles pairs det            v0=xmin v1=ymin v2=xmax v3=ymax
class a box, sorted by the distance of (xmin, ymin) to the origin human_poses    human v0 v1 v2 v3 pose code x 8 a
person (a code below 512 as v0=code, else v1=code-512), sorted likewise; or none
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.modality import Null
from labelers.metadata import BY_ID, FIELDS, decode_field, encode_field
from tokenize_shards.views import View, cut_boxes, cut_keypoints, cut_keypoints_3d, uniforms
from tokenize_shards.wordpiece import CLASS, COCO_CLASSES, EOS, WordPiece, coordinate, split_coordinate

BINS_WRITTEN = 1000  # values a coordinate token of an axis can take
TOP = 999  # the largest coordinate value
SPLIT = 512  # pose and mask codes from here on are written on axis 1
POSE_CODES = 8
Codes = NDArray[np.integer[Any]]


def bin_of(unit: float) -> int:
    """0..1 -> 0..999, the nearest of 1000 values."""
    return int(np.clip(np.round(unit * TOP), 0, TOP))


def encode_palette(palettes: Sequence[NDArray[np.uint8]], key: tuple[object, ...]) -> list[int]:
    """One of the seven palettes, its size drawn from the hash of `key`."""
    size = 1 + int(uniforms("palette", *key)[0] * len(palettes))
    colours = palettes[size - 1].reshape(-1).tolist()
    return [coordinate(1, size), *(coordinate(0, value) for value in colours)]


def decode_palette(ids: Sequence[int]) -> list[NDArray[np.uint8]] | Null:
    """A list of the one palette that was written: whole colours, at most as many as it says."""
    cells = [cell for cell in map(split_coordinate, ids) if cell is not None]
    sizes = [value for axis, value in cells if axis == 1]
    values = [min(value, 255) for axis, value in cells if axis == 0]
    whole = len(values) // 3
    size = min(whole, sizes[0]) if sizes and sizes[0] > 0 else whole
    if not size:
        return Null("no colour in the tokens")
    return [np.array(values[: size * 3], np.uint8).reshape(-1, 3)]


def encode_metadata(label: Mapping[str, Any]) -> list[int]:
    """A pair for each field that has a value."""
    pairs = [(f, label["values"].get(f.name)) for f in FIELDS]
    return [
        i
        for f, value in pairs
        if value is not None
        for i in (coordinate(1, f.id), coordinate(0, encode_field(f, value)))
    ]


def decode_metadata(ids: Sequence[int]) -> dict[str, Any]:
    """Values by name, each the middle of its bin; of a field written twice the first counts."""
    cells = [split_coordinate(token) for token in ids]
    values: dict[str, float | None] = {f.name: None for f in FIELDS}
    for first, second in pairwise(cells):
        if first is not None and second is not None and first[0] == 1 and second[0] == 0 and first[1] in BY_ID:
            field = BY_ID[first[1]]
            if values[field.name] is None:
                values[field.name] = decode_field(field, second[1])
    return {"values": values, "reasons": {name: "not in the tokens" for name, v in values.items() if v is None}}


def encode_boxes(boxes: NDArray[np.floating], classes: Sequence[int], view: View) -> list[int]:
    """Boxes (n, 4) in pixels of the image, classes 0..79: those the view keeps, nearest to the origin first."""
    cut, kept = cut_boxes(boxes, view)
    order = np.argsort(np.hypot(cut[:, 0], cut[:, 1]), kind="stable")
    return [t for i in order for t in (*_corners(cut[i]), CLASS + classes[int(kept[i])])]


def _corners(box: NDArray[np.floating]) -> list[int]:
    return [coordinate(axis, bin_of(float(value))) for axis, value in enumerate(box)]


def decode_boxes(ids: Sequence[int]) -> list[tuple[NDArray[np.float32], str]]:
    """(box in 0..1 of the view, class name) of each whole group of four coordinates and a class."""
    found = []
    for i in range(len(ids) - 4):
        box = _read_box(ids[i : i + 4])
        if box is not None and CLASS <= ids[i + 4] < CLASS + len(COCO_CLASSES):
            found.append((box, COCO_CLASSES[ids[i + 4] - CLASS]))
    return found


def _read_box(ids: Sequence[int]) -> NDArray[np.float32] | None:
    """v0 v1 v2 v3 in this order as a box in 0..1, corners put in order; None for anything else."""
    cells = [split_coordinate(token) for token in ids]
    if len(cells) != 4 or any(cell is None or cell[0] != axis for axis, cell in enumerate(cells)):
        return None
    values = np.array([cell[1] for cell in cells if cell is not None], np.float32) / TOP
    return np.concatenate([np.minimum(values[:2], values[2:]), np.maximum(values[:2], values[2:])])


def cut_people(people: Sequence[Mapping[str, Any]], view: View, side: float = 1.0) -> list[dict[str, Any]]:
    """The people a view keeps, as a label of the view: pixels of a picture of `side` x `side`, largest box first kept."""
    if not people:
        return []
    boxes, kept = cut_boxes(np.stack([p["box"] for p in people]), view)
    found = []
    for box, i in zip(boxes, kept, strict=True):
        points = cut_keypoints(people[i]["keypoints"], view)
        points[:, :2] *= side
        found.append(
            {
                "box": box * np.float32(side), "score": people[i]["score"], "keypoints": points,
                "keypoints_3d": cut_keypoints_3d(people[i]["keypoints_3d"], view),
            }
        )  # fmt: skip
    return found


def encode_people(
    people: Sequence[Mapping[str, Any]],
    view: View,
    limit: int,
    words: WordPiece,
    pose_codes: Callable[[NDArray[np.float32]], Codes],
) -> list[int]:
    """People of a label: `none`, or 14 tokens each, as many as fit in `limit`, the largest kept, nearest to the origin
    first.
    """
    cut = cut_people(people, view)[: limit // (2 + 4 + POSE_CODES)]
    if not cut:
        return [words.keyword("none")]
    codes = pose_codes(np.stack([p["keypoints_3d"] for p in cut]))
    order = np.argsort([float(np.hypot(*p["box"][:2])) for p in cut], kind="stable")
    ids: list[int] = []
    for i in order:
        ids += [words.keyword("human"), *_corners(cut[i]["box"]), words.keyword("pose")]
        ids += [coordinate(0, int(c)) if c < SPLIT else coordinate(1, int(c) - SPLIT) for c in codes[i]]
    return ids


def decode_people(
    ids: Sequence[int], side: float, words: WordPiece, poses: Callable[[NDArray[np.integer[Any]]], NDArray[np.float32]]
) -> list[dict[str, Any]]:
    """People in a picture of `side` pixels. The landmarks in the picture are not in the tokens: the 3-D skeleton, seen
    from the front, is fitted into the box, which is right up to perspective.
    """
    human, pose = words.keyword("human"), words.keyword("pose")
    found = []
    for at in [i for i, token in enumerate(ids) if token == human]:
        box = _read_box(ids[at + 1 : at + 5])
        cells = [split_coordinate(token) for token in ids[at + 6 : at + 6 + POSE_CODES]]
        whole = len(cells) == POSE_CODES and all(
            cell is not None and cell[0] in (0, 1) and cell[1] < SPLIT for cell in cells
        )
        if box is None or not whole or ids[at + 5] != pose:
            continue
        codes = np.array([[cell[1] + SPLIT * cell[0] for cell in cells if cell is not None]], np.uint16)
        body = poses(codes).reshape(-1, 3)
        found.append(
            {
                "box": box * np.float32(side),
                "score": 1.0,
                "keypoints": _into_box(body, box * side),
                "keypoints_3d": body,
            }
        )
    return found


def _into_box(body: NDArray[np.float32], box: NDArray[np.float32]) -> NDArray[np.float32]:
    """x, y of a skeleton (k, 3) stretched onto a box x0 y0 x1 y1, visibility 1: (k, 3)."""
    low, high = body[:, :2].min(axis=0), body[:, :2].max(axis=0)
    unit = (body[:, :2] - low) / np.maximum(high - low, 1e-6)
    xy = box[:2] + unit * (box[2:] - box[:2])
    return np.concatenate([xy, np.ones((len(body), 1))], axis=1).astype(np.float32)


def allowed_ids(modality: str, words: WordPiece) -> NDArray[np.int64]:
    """The ids a well-formed sequence of the modality can hold, [EOS] included: what a model is let write."""
    axes = {"color_palette": {0: 256, 1: 8}, "metadata": {0: BINS_WRITTEN, 1: len(FIELDS)}}.get(modality)
    if axes is not None:
        return np.array([EOS, *(coordinate(axis, value) for axis, top in axes.items() for value in range(top))])
    if modality == "human_poses":
        keys = [words.keyword(word) for word in ("human", "pose", "none")]
        return np.array([EOS, *keys, *range(coordinate(0, 0), CLASS)])
    return np.array([EOS, *range(CLASS, words.vocab)])
