"""COCO's annotation files (instances, keypoints, captions, panoptic), read once and looked up by the photo's file name."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.modality import LabelError
from labelers.core.rle import Rle, decode_rle, pack_counts
from labelers.core.sources import Shape, Source, SourceError


@dataclass
class ImageRecord:
    """One image of a file. shape: (height, width), or None where the file does not say."""

    name: str
    shape: Shape | None
    annotations: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Coco:
    """images: by file name. categories: id -> name."""

    images: dict[str, ImageRecord]
    categories: dict[int, str]

    def of(self, name: str, shape: Shape) -> list[dict[str, Any]]:
        """The annotations of an image. SourceError where the file says another size than the photo's."""
        record = self.images[name]
        if record.shape not in (None, shape):
            height, width = record.shape or (0, 0)
            raise SourceError(
                f"size differs: annotated on {width} x {height} pixels, the upright photo has {shape[1]} x {shape[0]}"
            )
        return record.annotations


def json_of(data: bytes, what: str) -> Any:
    """Parsed JSON. SourceError naming what was expected."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"is no JSON ({error}); expected {what}") from error


def read_coco(data: bytes, what: str) -> Coco:
    """A COCO annotation file. SourceError where it lacks images or annotations, or they do not fit together."""
    raw = json_of(data, what)
    if not isinstance(raw, dict) or not {"images", "annotations"} <= set(raw):
        raise SourceError(f"is no COCO file with images and annotations; expected {what}")
    try:
        return _coco(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"is no whole COCO file ({type(error).__name__}: {error}); expected {what}") from error


def _coco(raw: dict[str, Any]) -> Coco:
    by_id: dict[Any, ImageRecord] = {}
    images: dict[str, ImageRecord] = {}
    for image in raw["images"]:
        size = image.get("height"), image.get("width")
        shape = (int(size[0]), int(size[1])) if size[0] and size[1] else None
        record = ImageRecord(str(image["file_name"]), shape)
        by_id[image["id"]] = images[record.name] = record
    for annotation in raw["annotations"]:
        by_id[annotation["image_id"]].annotations.append(annotation)
    categories = {int(c["id"]): str(c["name"]) for c in raw.get("categories", ())}
    return Coco(images, categories)


def panoptic_of(source: Source) -> tuple[dict[str, list[dict[str, Any]]], dict[int, str]]:
    """Segments of a COCO panoptic source (PNGs, and a JSON beside them): PNG's stem -> segments, and category names;
    empty where the source has no such JSON.
    """
    segments: dict[str, list[dict[str, Any]]] = defaultdict(list)
    categories: dict[int, str] = {}
    for name in source.of(".json"):
        raw = json_of(source.read(name), "COCO panoptic annotations")
        for one in raw.get("annotations", ()) if isinstance(raw, dict) else ():
            if isinstance(one, dict) and "segments_info" in one and "file_name" in one:
                segments[str(one["file_name"]).rpartition("/")[2].removesuffix(".png")] = one["segments_info"]
                categories |= {int(c["id"]): str(c["name"]) for c in raw.get("categories", ())}
    return dict(segments), categories


def panoptic_ids(pixels: NDArray[np.generic]) -> NDArray[np.int64]:
    """Segment ids of a panoptic PNG, RGB (H, W, 3): R + 256 G + 65536 B."""
    if pixels.ndim != 3 or pixels.shape[2] < 3:
        raise SourceError(f"a panoptic PNG is RGB, got {pixels.shape}")
    wide = pixels.astype(np.int64)
    return np.asarray(wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2])


def mask_of(segmentation: Any, shape: Shape) -> NDArray[np.bool_]:
    """A COCO segmentation of an image (H, W): polygons, or a run-length encoding with or without compression."""
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        if list(segmentation.get("size", ())) != list(shape):
            raise SourceError(f"a mask of size {segmentation.get('size')} in an image of {list(shape)}")
        try:
            text = counts if isinstance(counts, str) else pack_counts(np.asarray(counts, np.int64))
            return decode_rle(Rle(size=list(shape), counts=text))
        except (LabelError, TypeError, ValueError, OverflowError) as error:
            raise SourceError(f"a mask's runs cannot be read ({error})") from error
    mask = np.zeros(shape, np.bool_)
    for polygon in segmentation:
        points = np.asarray(polygon, np.float64)
        if points.size < 6 or points.size % 2 or not np.isfinite(points).all():
            raise SourceError(f"a polygon of {points.size} numbers is none")
        mask |= filled(points.reshape(-1, 2), shape)
    return mask


def filled(points: NDArray[np.float64], shape: Shape) -> NDArray[np.bool_]:
    """Pixels of an image (H, W) whose centre is inside a polygon (n, 2) of x, y, by the even-odd rule.

    Each edge crosses some rows of pixel centres; a row changes from outside to inside, or back, where it is crossed.
    """
    height, width = shape
    start, end = points, np.roll(points, -1, axis=0)
    low = np.clip(np.ceil(np.minimum(start[:, 1], end[:, 1]) - 0.5), 0, height).astype(np.int64)
    high = np.clip(np.ceil(np.maximum(start[:, 1], end[:, 1]) - 0.5), 0, height).astype(np.int64)
    count = high - low
    edge = np.repeat(np.arange(len(points)), count)
    row = np.arange(edge.size) - np.repeat(np.cumsum(count) - count, count) + low[edge]
    (x0, y0), (x1, y1) = start[edge].T, end[edge].T
    cross = x0 + (row + 0.5 - y0) * (x1 - x0) / np.where(y1 == y0, 1, y1 - y0)
    column = np.clip(np.ceil(cross - 0.5), 0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), np.int32)
    np.add.at(turns, (row, column), 1)
    return np.asarray(np.cumsum(turns, axis=1)[:, :width] % 2 == 1)
