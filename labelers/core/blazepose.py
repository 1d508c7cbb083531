"""The geometry of BlazePose: anchors, letterbox, weighted suppression, rotated crops, landmarks back to the image. Pure
numpy.

The numbers are those of MediaPipe's pose_detection and pose_landmark graphs (0.10.21). Pixel coordinates are
continuous, with the origin at the top-left corner of the top-left pixel; angles are clockwise on the screen, in
radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DETECTOR_SIZE = 224
LANDMARK_SIZE = 256
BODY = 33  # landmarks of the body; the network gives six more, which only track a person from frame to frame
STRIDES = (8, 16, 32, 32, 32)
ANCHORS_A_CELL = 2
ROI_SCALE = 1.25

NAMES = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer", "left_ear",
    "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
    "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel", "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip
EDGES = (
    (0, 1), (1, 2), (2, 3), (3, 7), (0, 4), (4, 5), (5, 6), (6, 8), (9, 10), (11, 12), (11, 13), (13, 15), (15, 17), (15, 19),
    (15, 21), (17, 19), (12, 14), (14, 16), (16, 18), (16, 20), (16, 22), (18, 20), (11, 23), (12, 24), (23, 24), (23, 25),
    (24, 26), (25, 27), (26, 28), (27, 29), (28, 30), (29, 31), (30, 32), (27, 31), (28, 32),
)  # fmt: skip


@dataclass(frozen=True)
class Roi:
    """A square of the image, turned about its centre.

    x, y: centre; size: side in pixels; angle: of its upright axis.
    """

    x: float
    y: float
    size: float
    angle: float

    def to_image(self, points: Floats) -> Floats:
        """(n, 2) in 0..1 of the square -> (n, 2) image pixels."""
        turned = (points - 0.5) @ rotation(self.angle).T * np.float32(self.size)
        return np.asarray(turned + np.array([self.x, self.y], np.float32), np.float32)


def rotation(angle: float) -> Floats:
    """The 2 x 2 matrix that turns column vectors (x right, y down) clockwise on the screen."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]], np.float32)


def sigmoid(x: Floats) -> Floats:
    return (1 / (1 + np.exp(-np.clip(x, -80, 80)))).astype(np.float32)


@lru_cache(maxsize=1)
def anchors() -> Floats:
    """Centres of the 2254 anchors in 0..1 of the detector's input, (2254, 2) as x, y. All have size 1."""
    rows = []
    for stride in STRIDES:
        cells = DETECTOR_SIZE // stride
        y, x = np.mgrid[:cells, :cells]
        centres = np.stack([x, y], axis=-1).reshape(-1, 2)
        rows.append(np.repeat((centres + 0.5) / cells, ANCHORS_A_CELL, axis=0))
    # Layers of one stride share a grid: MediaPipe lists all of a cell's anchors before it goes to the next cell.
    merged = np.concatenate([rows[0], rows[1], np.repeat(rows[2][::ANCHORS_A_CELL], 3 * ANCHORS_A_CELL, axis=0)])
    return merged.astype(np.float32)


def decode_detections(raw: Floats, logits: Floats, min_score: float) -> tuple[Floats, Floats]:
    """The detector's output -> (n, 12) box x0, y0, x1, y1 and four key points x, y in 0..1 of its input, and (n,)
    scores.

    raw: (2254, 12); logits: (2254,). Key points: 0 middle of the hips, 1 a point on the circle round the body.
    """
    scores = sigmoid(logits)
    kept = np.flatnonzero(scores >= min_score)
    values = raw[kept].reshape(-1, 6, 2) / DETECTOR_SIZE
    centre = anchors()[kept]
    points = values + centre[:, None]
    half = values[:, 1] / 2
    boxes = np.concatenate([points[:, 0] - half, points[:, 0] + half], axis=1)
    return np.concatenate([boxes, points[:, 2:].reshape(-1, 8)], axis=1).astype(np.float32), scores[kept]


def iou(box: Floats, boxes: Floats) -> Floats:
    """Intersection over union of one box (4,) with many (n, 4), as x0, y0, x1, y1."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    area = np.prod(np.clip(box[2:] - box[:2], 0, None))
    areas = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    union = area + areas - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0).astype(np.float32)


def weighted_suppression(detections: Floats, scores: Floats, threshold: float = 0.3) -> tuple[Floats, Floats]:
    """One detection a person:

    those that overlap the best one are averaged with it, by score. (n, 12), (n,) -> (m, 12), (m,).
    """
    order = np.argsort(-scores, kind="stable")
    merged, best = [], []
    while len(order):
        similar = iou(detections[order[0], :4], detections[order, :4]) > threshold
        similar[0] = True  # a box without area does not overlap even itself
        group = order[similar]
        merged.append(np.average(detections[group], axis=0, weights=scores[group]))
        best.append(scores[order[0]])
        order = order[~similar]
    return np.array(merged, np.float32).reshape(-1, detections.shape[1]), np.array(best, np.float32)


def roi_of(hips: Floats, circle: Floats) -> Roi:
    """The crop of a person from two points in image pixels:

    twice their distance, times 1.25, turned so that the body stands up.
    """
    dx, dy = (circle - hips).astype(np.float64)
    angle = np.pi / 2 - np.arctan2(-dy, dx)
    angle -= 2 * np.pi * np.floor((angle + np.pi) / (2 * np.pi))
    return Roi(float(hips[0]), float(hips[1]), float(2 * np.hypot(dx, dy) * ROI_SCALE), float(angle))


def refine(points: Floats, heatmaps: Floats, kernel: int = 7, min_confidence: float = 0.5) -> Floats:
    """Move landmarks to the centre of mass of their heat nearby, as MediaPipe does.

    points: (n, 2) in 0..1; heatmaps: logits (h, w, n). A landmark keeps its place where no heat near it passes
    min_confidence.
    """
    height, width, _ = heatmaps.shape
    refined = points.copy()
    for i, (x, y) in enumerate(points):
        column, row = int(np.floor(x * width)), int(np.floor(y * height))
        if not (0 <= column < width and 0 <= row < height):
            continue
        top, left = max(0, row - kernel // 2), max(0, column - kernel // 2)
        window = sigmoid(heatmaps[top : row + kernel // 2 + 1, left : column + kernel // 2 + 1, i])
        if window.max() < min_confidence:
            continue
        total = window.sum()
        refined[i, 0] = (window.sum(axis=0) @ np.arange(left, left + window.shape[1])) / total / width
        refined[i, 1] = (window.sum(axis=1) @ np.arange(top, top + window.shape[0])) / total / height
    return refined


def turn_world(points: Floats, angle: float) -> Floats:
    """World landmarks of the upright crop -> of the image: (n, 3) metres turned about the axis of view."""
    turned = points.copy()
    turned[:, :2] = points[:, :2] @ rotation(angle).T
    return turned


def box_of(keypoints: Floats, width: int, height: int, visible: float = 0.5) -> Floats:
    """The box round the visible landmarks (all of them, if fewer than four are), cut at the image's borders;

    (4,) x0, y0, x1, y1.
    """
    seen = keypoints[keypoints[:, 2] >= visible]
    points = (seen if len(seen) >= 4 else keypoints)[:, :2]
    points = np.clip(points, 0, np.array([width, height], np.float32))
    return np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32)


def distinct(boxes: Floats, scores: Floats, threshold: float) -> list[int]:
    """Indices of the people to keep, best score first:

    a box that overlaps a better one by more than threshold is the same person.
    """
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if not kept or float(iou(boxes[i], boxes[kept]).max()) <= threshold:
            kept.append(int(i))
    return kept
