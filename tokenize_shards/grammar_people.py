"""human_poses as a sequence: `human v0=xmin v1=ymin v2=xmax v3=ymax` a person, then parts in an order that is drawn for
each person, each begun by its word; `none` where there is nobody.

    pose + 8 codes   the body's pose, by a fitted codec
    global + 9       rotation of the whole body, a 3 x 3 matrix row by row, each in [-1, 1]
    shape + 10       SMPL shape coefficients, each in [-3, 3]
    camera + 3       weak-perspective camera of the person's box: scale, x, y, each in [-1, 19]

A person of BlazePose has a pose alone (14 tokens); a label of a body model carries the others under those names, and
then takes the 39 tokens of 4M-21. Numbers are the nearest of 1000 values of their range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenize_shards.grammar import TOP, Codes, by_origin, read_box, read_codes, write_box, write_codes, write_number
from tokenize_shards.views import View, cut_boxes, cut_keypoints, cut_keypoints_3d, uniforms
from tokenize_shards.wordpiece import WordPiece, split_coordinate

POSE_CODES = 8
PARTS: Mapping[str, tuple[int, float, float]] = {  # word -> numbers, lowest, highest
    "global": (9, -1.0, 1.0), "shape": (10, -3.0, 3.0), "camera": (3, -1.0, 19.0),
}  # fmt: skip
SHAPES = {"global": (3, 3), "shape": (10,), "camera": (3,)}
_MIRROR = np.array([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]], np.float32)  # of a rotation, when x is turned round
People = Sequence[Mapping[str, Any]]


def cut_people(people: People, view: View, side: float = 1.0) -> list[dict[str, Any]]:
    """The people a view keeps, as a label of the view: pixels of a picture of `side` x `side`, in the label's order.

    A flip mirrors box, keypoints and 3-D landmarks, turns the rotation, and negates the camera's x.
    """
    if not people:
        return []
    boxes, kept = cut_boxes(np.stack([p["box"] for p in people]), view)
    found = []
    for box, i in zip(boxes, kept, strict=True):
        one = dict(people[i])
        points = cut_keypoints(one["keypoints"], view)
        points[:, :2] *= side
        one |= {"box": box * np.float32(side), "keypoints": points}
        one["keypoints_3d"] = cut_keypoints_3d(one["keypoints_3d"], view)
        if view.flip and "global" in one:
            one["global"] = np.asarray(one["global"], np.float32).reshape(3, 3) * _MIRROR
        if view.flip and "camera" in one:
            one["camera"] = np.asarray(one["camera"], np.float32) * np.array([1, -1, 1], np.float32)
        found.append(one)
    return found


def size_of(person: Mapping[str, Any]) -> int:
    """Tokens a person takes."""
    return 5 + 1 + POSE_CODES + sum(1 + count for word, (count, _, _) in PARTS.items() if word in person)


def fitting(people: People, view: View, limit: int) -> list[dict[str, Any]]:
    """The people that are written: those the view keeps, the label's first ones, as many as `limit` tokens hold."""
    cut, left = [], limit
    for person in cut_people(people, view):
        left -= size_of(person)
        if left < 0:
            break
        cut.append(person)
    return cut


def write_people(cut: People, codes: Codes, words: WordPiece, key: tuple[object, ...]) -> list[int]:
    """Ids of people that `fitting` gave, with the codes (n, 8) of their poses; nearest to the origin first."""
    if not cut:
        return [words.keyword("none")]
    ids: list[int] = []
    for i in by_origin(np.stack([p["box"] for p in cut])):
        parts = [[words.keyword("pose"), *write_codes(codes[i])]]
        for word, (_, low, high) in PARTS.items():
            if word in cut[i]:
                values = np.asarray(cut[i][word], np.float64).reshape(-1)
                parts.append([words.keyword(word), *(write_number(v, low, high) for v in values)])
        rank = uniforms("parts", *key, int(i))
        ids += [words.keyword("human"), *write_box(cut[i]["box"])]
        ids += [t for p in sorted(range(len(parts)), key=lambda p, r=rank: r[p]) for t in parts[p]]  # type: ignore[misc]
    return ids


def decode_people(
    ids: Sequence[int], side: float, words: WordPiece, poses: Callable[[Codes], NDArray[np.float32]]
) -> list[dict[str, Any]]:
    """People in a picture of `side` pixels. The landmarks in the picture are not in the tokens: the 3-D skeleton, seen
    from the front, is fitted into the box, which is right up to perspective. A person without a box or a pose is left
    out.
    """
    human = words.keyword("human")
    starts = [i for i, token in enumerate(ids) if token == human]
    found = []
    for at, end in pairwise([*starts, len(ids)]):
        box = read_box(ids[at + 1 : at + 5])
        parts = _read_parts(ids[at + 5 : end], words)
        codes = parts.pop("pose", None)
        if box is None or codes is None:
            continue
        body = poses(codes[None]).reshape(-1, 3)
        one = {
            "box": box * np.float32(side),
            "score": 1.0,
            "keypoints": into_box(body, box * side),
            "keypoints_3d": body,
        }
        found.append(one | parts)
    return found


def _read_parts(ids: Sequence[int], words: WordPiece) -> dict[str, NDArray[Any]]:
    """The whole parts after a person's box, the first of each kind."""
    names = {words.keyword(word): word for word in ("pose", *PARTS)}
    found: dict[str, NDArray[Any]] = {}
    for at, token in enumerate(ids):
        word = names.get(token, "")
        if not word or word in found:
            continue
        if word == "pose":
            codes = read_codes(ids[at + 1 :], POSE_CODES)
            if codes is not None:
                found[word] = codes
            continue
        count, low, high = PARTS[word]
        cells = [split_coordinate(t) for t in ids[at + 1 : at + 1 + count]]
        values = [cell[1] for cell in cells if cell is not None and cell[0] == 0]
        if len(values) == count:
            numbers = low + np.array(values, np.float32) / TOP * np.float32(high - low)
            found[word] = numbers.astype(np.float32).reshape(SHAPES[word])
    return found


def into_box(body: NDArray[np.float32], box: NDArray[np.float32]) -> NDArray[np.float32]:
    """x, y of a skeleton (k, 3) stretched onto a box x0 y0 x1 y1, visibility 1: (k, 3)."""
    low, high = body[:, :2].min(axis=0), body[:, :2].max(axis=0)
    unit = (body[:, :2] - low) / np.maximum(high - low, 1e-6)
    xy = box[:2] + unit * (box[2:] - box[:2])
    return np.concatenate([xy, np.ones((len(body), 1))], axis=1).astype(np.float32)
