"""People as a sequence: `human v0=xmin v1=ymin v2=xmax v3=ymax` a person, then parts in an order that is drawn for each
person, each begun by its word; `none` where there is nobody.

    pose + 8 codes   the body's pose, by a fitted codec
    global + 9       rotation of the whole body, a 3 x 3 matrix row by row, each in [-1, 1]
    shape + 10       SMPL shape coefficients, each in [-3, 3]
    camera + 3       weak-perspective camera of the person's box: scale, x, y, each in [-1, 19]

A person of human_poses (BlazePose) has pose and camera, the pose being 33 landmarks in metres: 18 tokens. One of smpl_poses
has them all, the pose being 23 rotations: the 39 tokens of 4M-21. Numbers are the nearest of 1000 values of their range.

The camera puts a body into the picture: in units of half the longer side of the box, from its middle, a point X is at
scale (X + x, y). That of landmarks is the one that fits those in the picture best (to a thirtieth of the box, on 195
photos, where the skeleton stretched onto the box is off by a seventh: hidden legs are not in the box). That of a body of
SMPL comes with its label, and becomes one of what the view leaves of the box.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenize_shards.grammar import TOP, Codes, by_origin, read_box, read_codes, write_box, write_codes, write_number
from tokenize_shards.views import View, cut_boxes, cut_keypoints, cut_keypoints_3d, mirror_of, uniforms
from tokenize_shards.wordpiece import WordPiece, split_coordinate

POSE_CODES = 8
VISIBLE = 0.5  # visibility from which a landmark counts as seen
SMPL_JOINTS = 23  # beside the pelvis, whose rotation is the body's
_SMPL_PAIRS = ((0, 1), (3, 4), (6, 7), (9, 10), (12, 13), (15, 16), (17, 18), (19, 20), (21, 22))  # left, right
SMPL_MIRROR = mirror_of(_SMPL_PAIRS, SMPL_JOINTS)
_TURNED = np.array([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]], np.float32)  # a rotation when x is turned round
People = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Part:
    """Numbers of a person that are written as they are. field: of the label."""

    field: str
    count: int
    low: float
    high: float


PARTS: Mapping[str, Part] = {
    "global": Part("global_orient", 9, -1.0, 1.0), "shape": Part("betas", 10, -3.0, 3.0),
    "camera": Part("camera", 3, -1.0, 19.0),
}  # fmt: skip


def pose_of(person: Mapping[str, Any]) -> NDArray[np.float32]:
    """What the codec sees of a person: 33 landmarks in metres (99,), or 23 rotations (207,)."""
    return np.asarray(person["keypoints_3d" if "keypoints_3d" in person else "body_pose"], np.float32).reshape(-1)


def cut_people(people: People, view: View, side: float = 1.0) -> list[dict[str, Any]]:
    """The people a view keeps, as a label of the view: pixels of a picture of `side` x `side`, in the label's order.

    A flip mirrors box, keypoints, landmarks and joint rotations (left and right swapped), turns the body's rotation, and
    negates the camera's x. Where the view cuts a box, the camera is moved with it, so that the body stays in its place.
    """
    if not people:
        return []
    boxes, kept = cut_boxes(np.stack([p["box"] for p in people]), view)
    return [_cut(people[i], box * np.float32(side), view, side) for box, i in zip(boxes, kept, strict=True)]


def _cut(person: Mapping[str, Any], box: NDArray[np.float32], view: View, side: float) -> dict[str, Any]:
    one = {**person, "box": box}
    if "keypoints" in one:
        one["keypoints"] = cut_keypoints(one["keypoints"], view)
        one["keypoints"][:, :2] *= side
        one["keypoints_3d"] = cut_keypoints_3d(one["keypoints_3d"], view)
    if view.flip and "body_pose" in one:
        one["body_pose"] = one["body_pose"][SMPL_MIRROR] * _TURNED
        one["global_orient"] = one["global_orient"] * _TURNED
        one["camera"] = one["camera"] * np.array([1, -1, 1], np.float32)
    if "body_pose" in one:
        corners = view.to_unit(np.asarray(person["box"], np.float64).reshape(2, 2)) * np.float32(side)
        one["camera"] = _moved(one["camera"], np.concatenate([corners.min(axis=0), corners.max(axis=0)]), box)
    return one


def _moved(camera: NDArray[np.float32], whole: NDArray[np.float32], box: NDArray[np.float32]) -> NDArray[np.float32]:
    """The camera of a whole box x0 y0 x1 y1 as that of the box which is left of it: every point stays where it is."""
    (half, centre), (left, middle) = _frame(whole), _frame(box)
    scale = float(camera[0])
    place = camera[1:] + (centre - middle) / (half * scale or np.inf)  # without a scale nothing can be moved
    return np.array([scale * (half / left), *place], np.float32)


def camera_of(person: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """Scale, x, y of the weak-perspective camera that fits a person's landmarks best, weighted by how visible they are.

    None where hardly any can be seen, or they say nothing.
    """
    body, flat = person["keypoints_3d"][:, :2].astype(np.float64), person["keypoints"].astype(np.float64)
    weight = flat[:, 2] ** 2
    if (flat[:, 2] >= VISIBLE).sum() < 2:
        return None
    weight /= weight.sum()
    middle, seen = weight @ body, weight @ flat[:, :2]
    spread = float(weight @ ((body - middle) ** 2).sum(axis=1))
    scale = float(weight @ ((body - middle) * (flat[:, :2] - seen)).sum(axis=1)) / max(spread, 1e-12)
    half, centre = _frame(person["box"])
    if scale <= 0 or half <= 0:
        return None
    camera = np.array([scale / half, *((seen - centre) / scale - middle)])
    return camera.astype(np.float32) if _can_be_written(camera) else None


def _can_be_written(camera: NDArray[np.floating]) -> bool:
    return bool(((PARTS["camera"].low <= camera) & (camera <= PARTS["camera"].high)).all())


def seen_by(body: NDArray[np.float32], camera: NDArray[np.float32], box: NDArray[np.float32]) -> NDArray[np.float32]:
    """x, y of landmarks (k, 3) through a camera of a box x0 y0 x1 y1, and a visibility of 1 on the box, 0 off it: (k, 3).

    A box lies round the visible landmarks; a twentieth of it more is allowed for what the codec and the camera lose.
    """
    half, centre = _frame(box)
    xy = centre + half * camera[0] * (body[:, :2] + camera[1:])
    on = ((xy >= box[:2] - half / 10) & (xy <= box[2:] + half / 10)).all(axis=1)
    return np.concatenate([xy, on[:, None]], axis=1).astype(np.float32)


def _frame(box: NDArray[Any]) -> tuple[float, NDArray[np.float64]]:
    """Half the longer side of a box, and its middle."""
    low, high = np.asarray(box[:2], np.float64), np.asarray(box[2:], np.float64)
    return float((high - low).max()) / 2, (low + high) / 2


def size_of(person: Mapping[str, Any]) -> int:
    """Tokens a person takes."""
    return 5 + 1 + POSE_CODES + sum(1 + part.count for part in PARTS.values() if part.field in person)


def fitting(people: People, view: View, limit: int) -> list[dict[str, Any]]:
    """The people that are written: those the view keeps, the label's first ones, as many as `limit` tokens hold.

    A body whose camera is beyond its range is left out: it would be written in another place.
    """
    cut, left = [], limit
    for person in map(_with_camera, cut_people(people, view)):
        if "camera" in person and not _can_be_written(person["camera"]):
            continue
        left -= size_of(person)
        if left < 0:
            break
        cut.append(person)
    return cut


def _with_camera(person: dict[str, Any]) -> dict[str, Any]:
    """A person of human_poses with the camera that is written for it."""
    camera = camera_of(person) if "keypoints" in person else None
    return person if camera is None else person | {"camera": camera}


def write_people(cut: People, codes: Codes, words: WordPiece, key: tuple[object, ...]) -> list[int]:
    """Ids of people that `fitting` gave, with the codes (n, 8) of their poses; nearest to the origin first."""
    if not cut:
        return [words.keyword("none")]
    ids: list[int] = []
    for i in by_origin(np.stack([p["box"] for p in cut])):
        parts = [[words.keyword("pose"), *write_codes(codes[i])]]
        for word, part in PARTS.items():
            if part.field in cut[i]:
                values = np.asarray(cut[i][part.field], np.float64).reshape(-1)
                parts.append([words.keyword(word), *(write_number(v, part.low, part.high) for v in values)])
        drawn = sorted(zip(uniforms("parts", *key, int(i)), parts, strict=False), key=lambda pair: pair[0])
        ids += [words.keyword("human"), *write_box(cut[i]["box"]), *(t for _, part in drawn for t in part)]
    return ids


def decode_people(
    ids: Sequence[int], side: float, words: WordPiece, poses: Callable[[Codes], NDArray[np.float32]]
) -> list[dict[str, Any]]:
    """People in a picture of `side` pixels, of human_poses or smpl_poses, as the codec has it. One who lacks a box or a
    part is left out.

    Landmarks whose camera was not written (tokens of earlier versions) are stretched onto the box.
    """
    human = words.keyword("human")
    found = []
    for at, end in pairwise([*(i for i, token in enumerate(ids) if token == human), len(ids)]):
        box = read_box(ids[at + 1 : at + 5])
        parts = _read_parts(ids[at + 5 : end], words)
        codes = parts.pop("pose", None)
        if box is None or codes is None:
            continue
        one: dict[str, Any] = {"box": box * np.float32(side), "score": 1.0}
        body = poses(codes[None])[0].reshape(-1)
        if body.size != SMPL_JOINTS * 9:
            landmarks = body.reshape(-1, 3)
            flat = (
                seen_by(landmarks, parts["camera"], one["box"])
                if "camera" in parts
                else into_box(landmarks, one["box"])
            )
            found.append(one | {"keypoints": flat, "keypoints_3d": landmarks})
        elif len(parts) == len(PARTS):
            turns = rotations(np.concatenate([parts["global"].reshape(1, 3, 3), body.reshape(-1, 3, 3)]))
            whole = {
                "global_orient": turns[0],
                "body_pose": turns[1:],
                "betas": parts["shape"],
                "camera": parts["camera"],
            }
            found.append(one | whole)
    return found


def rotations(matrices: NDArray[np.floating]) -> NDArray[np.float32]:
    """The rotations nearest to matrices (n, 3, 3)."""
    left, _, right = np.linalg.svd(matrices.astype(np.float64))
    signs = np.ones((len(matrices), 3))
    signs[:, 2] = np.linalg.det(left @ right)
    return ((left * signs[:, None]) @ right).astype(np.float32)


def _read_parts(ids: Sequence[int], words: WordPiece) -> dict[str, NDArray[Any]]:
    """The whole parts after a person's box by their word, the first of each kind."""
    names = {words.keyword(word): word for word in ("pose", *PARTS)}
    found: dict[str, NDArray[Any]] = {}
    for at, token in enumerate(ids):
        word = names.get(token, "")
        if not word or word in found:
            continue
        values = read_codes(ids[at + 1 :], POSE_CODES) if word == "pose" else _numbers(ids[at + 1 :], PARTS[word])
        if values is not None:
            found[word] = values
    return found


def _numbers(ids: Sequence[int], part: Part) -> NDArray[np.float32] | None:
    """The part's numbers from the start of ids; None where these are not all numbers."""
    cells = [split_coordinate(token) for token in ids[: part.count]]
    values = [cell[1] for cell in cells if cell is not None and cell[0] == 0]
    if len(values) != part.count:
        return None
    return (part.low + np.array(values) / TOP * (part.high - part.low)).astype(np.float32)


def into_box(body: NDArray[np.float32], box: NDArray[np.float32]) -> NDArray[np.float32]:
    """x, y of a skeleton (k, 3) stretched onto a box x0 y0 x1 y1, visibility 1: (k, 3)."""
    low, high = body[:, :2].min(axis=0), body[:, :2].max(axis=0)
    unit = (body[:, :2] - low) / np.maximum(high - low, 1e-6)
    xy = box[:2] + unit * (box[2:] - box[:2])
    return np.concatenate([xy, np.ones((len(body), 1))], axis=1).astype(np.float32)
