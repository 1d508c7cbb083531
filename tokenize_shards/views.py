"""Views: square crops of a sample that depend on (id, seed, view number) and nothing else.

A view is a pure function of a hash, so any modality can be tokenized at any time, in any order, on any machine, and
still line up with the others. Image, maps, boxes and keypoints are labelled on the whole image and cut here.

Frame: continuous pixels of the image, origin at the top-left corner of the top-left pixel. Cut coordinates are 0..1 of
the view. A map may have another resolution than the image: the view is scaled to it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SCALE = (0.35, 1.0)  # area of a random view, as a share of the largest square's
MIN_AREA = 0.0005  # a cut box smaller than this share of the view is dropped (5 x 5 px at 224 px)
MIN_VISIBLE = 0.1  # and so is one of which less than this share of its own area is left

# BlazePose's 33 landmarks: (left, right) pairs; the nose, 0, is its own mirror image.
_PAIRS = ((1, 4), (2, 5), (3, 6), (7, 8), (9, 10), *((i, i + 1) for i in range(11, 33, 2)))


def mirror_of(pairs: tuple[tuple[int, int], ...], count: int) -> NDArray[np.intp]:
    """Order of `count` points after a mirror: (left, right) pairs change places."""
    order = np.arange(count)
    for left, right in pairs:
        order[[left, right]] = right, left
    return order


BLAZEPOSE_MIRROR = mirror_of(_PAIRS, 33)  # landmark i of a mirrored body is landmark MIRROR[i] of the body


@dataclass(frozen=True)
class View:
    """A square of the image, in its pixels; flip: mirrored left to right after cutting. frame: (width, height) of the
    image it is a part of; None where every map has the image's own size.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    flip: bool = False
    frame: tuple[int, int] | None = field(default=None, compare=False)

    @property
    def side(self) -> float:
        """Pixels of the image along one side."""
        return self.x1 - self.x0

    def to_unit(self, xy: NDArray[np.floating]) -> NDArray[np.float32]:
        """Pixels of the image (..., 2) -> 0..1 of the view, float32; outside that range where the point is outside."""
        unit = (np.asarray(xy, np.float64) - (self.x0, self.y0)) / self.side
        if self.flip:
            unit[..., 0] = 1 - unit[..., 0]
        return unit.astype(np.float32)

    def on(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The view as x0, y0, x1, y1 in the pixels of a map of that size. ValueError where it was made for something
        smaller than it reaches.
        """
        of = self.frame or (width, height)
        if min(self.x0, self.y0) < 0 or self.x1 > of[0] or self.y1 > of[1]:
            raise ValueError(f"{self} does not lie inside {of[0]} x {of[1]} pixels; made for another image?")
        sx, sy = width / of[0], height / of[1]
        return self.x0 * sx, self.y0 * sy, self.x1 * sx, self.y1 * sy

    def to_pixels(self, unit: NDArray[np.floating]) -> NDArray[np.float32]:
        """0..1 of the view (..., 2) -> pixels of the image, float32; the inverse of to_unit."""
        xy = np.array(unit, np.float64)
        if self.flip:
            xy[..., 0] = 1 - xy[..., 0]
        return (xy * self.side + (self.x0, self.y0)).astype(np.float32)


def uniforms(*key: object) -> tuple[float, float, float, float]:
    """Four numbers in [0, 1) from the sha256 of the key; the same on every machine and library version."""
    digest = hashlib.sha256(":".join(map(str, key)).encode()).digest()
    parts = [int.from_bytes(digest[i : i + 8], "big") >> 11 for i in (0, 8, 16, 24)]
    return parts[0] / 2**53, parts[1] / 2**53, parts[2] / 2**53, parts[3] / 2**53


def view_of(id: str, seed: int, view: int, width: int, height: int) -> View:
    """View number `view` of a sample of width x height pixels. Its edges lie on whole pixels.

    View 0 is the largest centre square, not flipped. The others are squares whose area is a uniform share (SCALE) of
    the largest square's, anywhere in the image, half of them flipped. ValueError for sizes below 1 or a negative view.
    """
    if width < 1 or height < 1 or view < 0:
        raise ValueError(f"sample {id}: no view {view} of an image of {width} x {height} pixels")
    largest = min(width, height)
    if view == 0:
        x0, y0 = (width - largest) // 2, (height - largest) // 2
        return View(x0, y0, x0 + largest, y0 + largest, frame=(width, height))
    share, at_x, at_y, flip = uniforms("view", id, seed, view)
    side = max(1, round(largest * math.sqrt(SCALE[0] + (SCALE[1] - SCALE[0]) * share)))
    x0, y0 = int(at_x * (width - side + 1)), int(at_y * (height - side + 1))
    return View(x0, y0, x0 + side, y0 + side, flip >= 0.5, (width, height))


def _region(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """The pixels under the view, mirrored where it flips; (side, side, ...), C-contiguous."""
    edges = (view.x0, view.y0, view.x1, view.y1)
    x0, y0, x1, y1 = (int(edge) for edge in edges)
    height, width = pixels.shape[:2]
    if (x0, y0, x1, y1) != edges or not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(f"{view} is not made of whole pixels of a {width} x {height} image; made for another image?")
    region = pixels[y0:y1, x0:x1]
    return np.ascontiguousarray(region[:, ::-1] if view.flip else region)


def _resize(region: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Square resize: area average down, bicubic up. Both align pixel edges, not centres."""
    how = cv2.INTER_AREA if size < region.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(region, (size, size), interpolation=how), np.uint8)


def cut_image(image: NDArray[np.uint8], view: View, size: int) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) -> uint8 (size, size, 3); images smaller than `size` are enlarged."""
    region = _region(image, view)
    return region if len(region) == size else _resize(region, size)


def cut_map(labels: NDArray[np.generic], view: View, size: int) -> NDArray[np.generic]:
    """(H, W) or (H, W, C) of any dtype -> (size, size[, C]), nearest value at the centre of each output pixel."""
    height, width = labels.shape[:2]
    x0, y0, x1, y1 = view.on(width, height)
    share = (np.arange(size) + 0.5) / size
    rows = np.minimum((y0 + share * (y1 - y0)).astype(np.intp), height - 1)
    columns = np.minimum((x0 + share * (x1 - x0)).astype(np.intp), width - 1)
    return labels[np.ix_(rows, columns[::-1] if view.flip else columns)]


def _smooth(plane: NDArray[np.float32], view: View, size: int) -> NDArray[np.float32]:
    """One float32 plane (H, W) under the view -> (size, size): triangle filter, as wide as a shrunk pixel; not flipped."""
    box = view.on(plane.shape[1], plane.shape[0])
    cut = Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(cut, np.float32)


def cut_values(values: NDArray[np.floating], view: View, size: int) -> NDArray[np.float32]:
    """Continuous map, float (H, W) or (H, W, C), NaN where unknown -> float32 (size, size[, C]).

    Unknown pixels do not bleed into known ones; an output pixel is NaN where less than half of it is known.
    """
    planes = np.moveaxis(np.asarray(values, np.float32).reshape(*values.shape[:2], -1), -1, 0)
    known = np.isfinite(planes).all(axis=0)
    filled = np.nan_to_num(planes, nan=0.0) * np.asarray(known, np.float32)
    cut = [_smooth(np.asarray(plane, np.float32), view, size) for plane in filled]
    found = np.stack(cut, axis=-1)
    if not known.all():
        share = _smooth(np.asarray(known, np.float32), view, size)[..., None]
        found = np.where(share >= 0.5, found / np.maximum(share, 0.5), np.float32(np.nan))
    turned = found[:, ::-1] if view.flip else found
    return np.ascontiguousarray(turned.reshape(size, size, *values.shape[2:]), np.float32)


def cut_normals(normals: NDArray[np.floating], view: View, size: int) -> NDArray[np.float32]:
    """Unit vectors (H, W, 3), (0, 0, 0) where unknown -> the same, float32 (size, size, 3). A flip negates x."""
    known = (normals != 0).any(axis=-1, keepdims=True)
    found = cut_values(np.where(known, normals, np.nan), view, size)
    if view.flip:
        found[..., 0] = -found[..., 0]
    length = np.linalg.norm(found, axis=-1, keepdims=True)
    return np.where(length > 1e-3, found / np.maximum(length, 1e-3), np.float32(0))  # NaN compares as unknown


def cut_edges(edges: NDArray[np.uint8], view: View, size: int) -> NDArray[np.uint8]:
    """Line map uint8 (H, W) in {0, 255} -> (size, size) in {0, 255}, keeping one-pixel lines unbroken.

    Nearest sampling would leave a line one dot in `side / size`. An output pixel is an edge where edge pixels cover at
    least half of what a line straight across it covers.
    """
    height, width = edges.shape
    box = view.on(width, height)
    whole = tuple(int(edge) for edge in box)
    ratio = min(box[2] - box[0], box[3] - box[1]) / size
    if ratio <= 1:
        return np.asarray(cut_map(edges, view, size), np.uint8)
    lines = (edges > 0).astype(np.float32)
    if whole == box:
        x0, y0, x1, y1 = whole
        share = cv2.resize(lines[y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_AREA)
    else:
        share = _smooth(lines, view, size)
    least = (0.5 - 1e-4) / ratio  # rounding must not take half a line from both of the pixels it lies between
    return np.where((share[:, ::-1] if view.flip else share) >= least, 255, 0).astype(np.uint8)


def cut_boxes(
    boxes: NDArray[np.floating], view: View, min_area: float = MIN_AREA, min_visible: float = MIN_VISIBLE
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Boxes (n, 4) x0 y0 x1 y1 in pixels -> (float32 (m, 4) in 0..1 of the view, the m kept indices in order).

    Boxes are clipped to the view. One is dropped where what is left covers less than min_area of the view, or less than
    min_visible of the whole box.
    """
    corners = view.to_unit(np.asarray(boxes, np.float64).reshape(-1, 2, 2)).astype(np.float64)
    low, high = corners.min(axis=1), corners.max(axis=1)
    whole = np.prod(high - low, axis=1)
    low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    left = np.prod(high - low, axis=1)
    kept = np.flatnonzero((left >= min_area) & (left >= min_visible * whole) & (left > 0))
    return np.concatenate([low, high], axis=1)[kept].astype(np.float32), kept


def _mirrored(points: NDArray[np.floating], mirror: NDArray[np.intp]) -> NDArray[np.floating]:
    if points.shape[-2] != len(mirror):
        raise ValueError(f"{points.shape[-2]} keypoints, but the table of left and right has {len(mirror)}")
    return points[..., mirror, :]


def cut_keypoints(
    keypoints: NDArray[np.floating], view: View, mirror: NDArray[np.intp] = BLAZEPOSE_MIRROR
) -> NDArray[np.float32]:
    """(..., K, 3) x, y in pixels and visibility -> float32 of the same shape, x, y in units of the view.

    Points outside the view keep their place (beyond 0..1) and get visibility 0. A flip swaps left and right landmarks.
    """
    points = _mirrored(keypoints, mirror) if view.flip else keypoints
    unit = view.to_unit(points[..., :2])
    inside = np.all((unit >= 0) & (unit <= 1), axis=-1)
    return np.concatenate([unit, np.where(inside, points[..., 2], 0)[..., None]], axis=-1).astype(np.float32)


def cut_keypoints_3d(
    keypoints: NDArray[np.floating], view: View, mirror: NDArray[np.intp] = BLAZEPOSE_MIRROR
) -> NDArray[np.float32]:
    """(..., K, 3) metres around the hips -> the same; a flip negates x and swaps left and right landmarks."""
    points = np.array(_mirrored(keypoints, mirror) if view.flip else keypoints, np.float32)
    if view.flip:
        points[..., 0] = -points[..., 0]
    return points
