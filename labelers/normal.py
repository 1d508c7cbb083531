"""normal: the direction every surface faces, by a network (TIPSv2 with a DPT head), or worked out from depth.

The two are backends of one modality; `normal_from_depth` says its name everywhere, because what it makes is only as good
as the depth it reads, and for depth without a scale rests on an assumed camera and range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from labelers.core.depth_map import DepthMap, stretched
from labelers.core.labeler import Labeler, Licence, Params, Resources, Sample
from labelers.core.modality import Label, Null
from labelers.core.networks import NetworkLabeler, NetworkParams
from labelers.core.normal_map import NORMAL, unit_vectors
from labelers.core.pixels import Preparation

Sign = Literal[-1, 1]


class TipsParams(NetworkParams):
    """signs: what the network's x, y and z are multiplied by to become ours (+x right, +y down, z towards the camera).

    The checkpoint's card does not state its frame. Look at a floor in the gallery: it must face up, so y is negative.
    """

    signs: tuple[Sign, Sign, Sign] = (1, 1, 1)


class TipsNormal(NetworkLabeler):
    """Normals by TIPSv2 B/14 with a DPT head, trained on indoor scenes."""

    name = "tips_normal"
    version = 1
    backend = "TIPSv2 B/14 with DPT head, indoor (transformers)"
    produces = (NORMAL,)
    resources = Resources(cpu=1.0, gpu=0.25, batch=16)
    weights = {"model": "hf:google/tipsv2-b14-dpt@main"}
    licence = Licence("Apache-2.0", "Apache-2.0")
    architecture = "Tipsv2DptForNormalEstimation"
    prepare = Preparation(448, 448, resample=Image.Resampling.BILINEAR, mean=(0, 0, 0), std=(1, 1, 1))
    Params = TipsParams

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        maps = self.batched([s.image for s in samples], lambda out: list(out.normals.float()), full=True)
        return [{"normal": self._label(one, s.image)} for one, s in zip(maps, samples, strict=True)]

    def _label(self, normals: Any, image: NDArray[np.uint8]) -> Label | Null:
        """(3, h, w) of any length -> unit vectors at the image's resolution."""
        import torch

        unit = torch.nn.functional.normalize(normals, dim=0)[None]
        full = torch.nn.functional.interpolate(unit, size=image.shape[:2], mode="bilinear", align_corners=False)[0]
        signs = np.array(self.params.signs, np.float32)
        return _or_null(unit_vectors(full.permute(1, 2, 0).cpu().numpy() * signs))


class FromDepthParams(Params):
    """fov: assumed angle of view of the longer side, degrees. far: how many times farther the farthest pixel of a map
    without a scale is taken to be than the nearest. smooth: standard deviation, in pixels of a 512 px image, of the
    smoothing before slopes are taken.
    """

    fov: float = Field(60.0, gt=5, lt=160)
    far: float = Field(10.0, gt=1)
    smooth: float = Field(1.5, ge=0, le=20)


class NormalFromDepth(Labeler):
    """Normals as the slopes of the surface that a depth map describes."""

    name = "normal_from_depth"
    version = 2
    backend = "slopes of depth (numpy)"
    produces = (NORMAL,)
    reads = ("depth",)
    resources = Resources(cpu=1.0, batch=16)
    uses_pixels = False
    default_on = False
    licence = Licence("Apache-2.0")
    Params = FromDepthParams

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        rows: list[dict[str, Label | Null]] = []
        for sample in samples:
            depth: DepthMap | Null = sample.labels.get("depth", Null("not labelled"))
            if isinstance(depth, Null):
                rows.append({"normal": Null(f"no depth: {depth.reason}")})
            else:
                rows.append({"normal": _or_null(normals_of(distance(depth, self.params.far), self.params))})
        return rows


def distance(depth: DepthMap, far: float) -> NDArray[np.float32]:
    """Distances along the axis, float32 (H, W), NaN where unknown; nearest 1 and farthest `far` without a scale."""
    if depth.unit == "metre":
        return np.where(depth.values > 0, depth.values, np.nan).astype(np.float32)
    values = stretched(depth.values, depth.unit).values  # imported maps have any range; one of 0..1 stays as it is
    if depth.unit == "relative":
        return (1 + values * (far - 1)).astype(np.float32)
    inverse = 1 - values * (1 - 1 / far)  # 1 at the nearest, 1 / far at the farthest
    return (1 / np.maximum(inverse, 1e-6)).astype(np.float32)


def normals_of(z: NDArray[np.float32], params: FromDepthParams) -> NDArray[np.float32]:
    """Unit normals of the surface at distances z (H, W) from a pinhole camera: float32 (H, W, 3), (0, 0, 0) where a
    neighbour is unknown.

    For points P = z (x, y, 1), the normal is the product of P's slopes along the image's columns and rows; of its two
    directions the one that faces the camera is taken.
    """
    height, width = z.shape
    focal = max(height, width) / 2 / math.tan(math.radians(params.fov) / 2)
    known = np.isfinite(z)
    sigma = params.smooth * max(height, width) / 512
    smooth = _smoothed(z, known, sigma)
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / focal
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / focal
    points = np.stack([smooth * x, smooth * y[:, None], smooth], axis=-1)
    across, down = (
        np.gradient(points, axis=axis) if points.shape[axis] > 1 else _flat(points, axis, focal) for axis in (1, 0)
    )
    normal = np.cross(across, down)
    # It is about (z / focal)² long, which unit_vectors takes for no direction in a large photo: its largest part becomes 1.
    largest = np.abs(normal).max(axis=-1, keepdims=True)
    normal /= np.where(largest > 0, largest, np.float32(1))
    facing = np.sum(normal * points, axis=-1, keepdims=True) > 0  # it points away from the camera
    normal = np.where(facing, -normal, normal) * np.array([1, 1, -1], np.float32)  # our z points at the camera
    return unit_vectors(np.where(known[..., None], normal, np.nan))


def _flat(points: NDArray[np.float32], axis: int, focal: float) -> NDArray[np.float32]:
    """Slopes along an axis of one pixel: those of a surface that faces the camera."""
    slope = np.zeros_like(points)
    slope[..., 0 if axis == 1 else 1] = points[..., 2] / focal
    return slope


def _smoothed(z: NDArray[np.float32], known: NDArray[np.bool_], sigma: float) -> NDArray[np.float32]:
    """Gaussian mean over known pixels; NaN where unknown."""
    if sigma <= 0:
        return z
    weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), sigma)
    total = cv2.GaussianBlur(np.where(known, z, 0).astype(np.float32), (0, 0), sigma)
    return np.where(known, total / np.maximum(weight, 1e-6), np.nan).astype(np.float32)


def _or_null(label: NDArray[np.float32]) -> Label | Null:
    return label if label.any() else Null("no pixel has a normal: every value is unknown or not finite")
