"""A set of instance masks: how it is stored, checked, painted and drawn as edges.

A mask is COCO's compressed run-length encoding, see labelers.core.rle.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from labelers.core.compare import edges, overlaps
from labelers.core.modality import Label, Modality, require
from labelers.core.rle import Rle, Runs
from labelers.core.scores import OverlapScores
from labelers.core.show import Cell, Picture

SHOWN = 640  # longest side of a painted picture
ARROW = pa.list_(
    pa.struct(
        [
            ("mask", pa.struct([("size", pa.list_(pa.int32(), 2)), ("counts", pa.string())])),
            ("box", pa.list_(pa.float32(), 4)),
            ("score", pa.float32()),
            ("area", pa.int64()),
            ("point", pa.list_(pa.float32(), 2)),
        ]
    )
)


class Instance(TypedDict):
    """One mask of a label; see `masks_modality` for what its fields hold."""

    mask: Rle
    box: NDArray[np.float32]
    score: float
    area: int
    point: NDArray[np.float32] | None


def instance(mask: Rle, score: float, point: NDArray[np.float32] | None = None) -> Instance:
    """One entry of a label; area and box are those of the mask. Raises LabelError for an empty mask."""
    return instances(Runs.read([mask]), [score], [point])[0]


def instances(runs: Runs, scores: Sequence[float], points: Sequence[NDArray[np.float32] | None]) -> list[Instance]:
    """Entries of a label, one a mask; areas and boxes are those of the masks. Raises LabelError for an empty mask."""
    areas, boxes = runs.areas_and_boxes()
    require(bool((areas > 0).all()), "mask: empty, no pixel is set")
    found = zip(runs.rles(), boxes.astype(np.float32), scores, areas.tolist(), points, strict=True)
    return [
        {"mask": rle, "box": box, "score": float(np.float32(score)), "area": area, "point": point}
        for rle, box, score, area, point in found
    ]


def largest_first(masks: Sequence[Instance]) -> list[Instance]:
    """The order of a label: by area, then by the mask itself, so that it does not depend on who found what first."""
    return sorted(masks, key=lambda one: (-one["area"], one["mask"]["counts"]))


def instance_map(masks: Sequence[Instance], shape: tuple[int, int]) -> NDArray[np.int32]:
    """int32 (H, W): 0 where there is no mask, else 1 + the index of the last mask there, so of the smallest.

    All runs at once: one of length n is two of the largest power of two that is not more than n. What is painted over
    2 k pixels from some place on is painted over k pixels from there and from k further on, until k is 1.
    """
    height, width = shape
    for one in masks:
        require(one["mask"]["size"] == [height, width], f"mask: size {one['mask']['size']} in an image {shape}")
    front = np.zeros(width * height, np.int32)
    if not masks:
        return front.reshape(height, width)
    starts, stops, owner = Runs.read([one["mask"] for one in masks]).ones()
    power = np.frexp((stops - starts).astype(np.float64))[1] - 1
    for k in range(int(power.max(initial=0)), -1, -1):
        half, wider = 1 << k, front
        if half < front.size:
            front = wider.copy()
            np.maximum(wider[half:], wider[:-half], out=front[half:])
        own = power == k
        np.maximum.at(front, starts[own], owner[own] + 1)
        np.maximum.at(front, stops[own] - half, owner[own] + 1)
    return np.ascontiguousarray(front.reshape(width, height).T)


def mask_overlap(a: Sequence[Instance], b: Sequence[Instance]) -> NDArray[np.float64]:
    """Intersection over union of every mask of a with every mask of b, of one image: float64 (n, m), from the runs alone.

    All pixels between two neighbouring ends of runs, of whatever mask, belong to the same masks: so each mask is a row
    of ones and zeros over those stretches, and the intersections are one matrix product.
    """
    if not a or not b:
        return np.zeros((len(a), len(b)))
    both = [one["mask"] for one in (*a, *b)]
    require(len({tuple(rle["size"]) for rle in both}) == 1, "mask: masks of images of several sizes cannot be compared")
    ends = Runs.read(both).each()
    stops = np.unique(np.concatenate(ends))
    lengths = np.diff(stops, prepend=0)
    inside = np.stack([np.searchsorted(end, stops) % 2 == 1 for end in ends]).astype(np.float64)
    common = (inside[: len(a)] * lengths) @ inside[len(a) :].T
    areas = inside @ lengths
    return np.asarray(common / (areas[: len(a), None] + areas[None, len(a) :] - common))


def edges_of(masks: Sequence[Instance], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Boundaries of the instance map, uint8 (H, W): 255 on an edge, 0 elsewhere.

    An edge pixel belongs to the instance in front and has, among its four neighbours in the image, one of what lies
    behind. So lines are as thin as Canny's (one pixel, diagonals connected by corners) and do not depend on how the
    instances are numbered into grey values, which Canny on the map itself would. The frame of the image is no edge.
    """
    return _boundaries(instance_map(masks, shape))


def _boundaries(front: NDArray[np.int32]) -> NDArray[np.uint8]:
    edge = np.zeros(front.shape, np.uint8)
    edge[1:][front[1:] > front[:-1]] = 255
    edge[:-1][front[:-1] > front[1:]] = 255
    edge[:, 1:][front[:, 1:] > front[:, :-1]] = 255
    edge[:, :-1][front[:, :-1] > front[:, 1:]] = 255
    return edge


def _check_one(one: Any, where: str) -> None:
    require(isinstance(one, dict) and set(one) == set(Instance.__annotations__), f"{where} has wrong fields")
    mask, box, score, point = one["mask"], one["box"], one["score"], one["point"]
    require(isinstance(mask, dict) and set(mask) == {"size", "counts"}, f"{where}: not a size and counts")
    size = mask["size"]
    whole = isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
    require(whole and isinstance(mask["counts"], str), f"{where}: size is not [H, W], or counts are not text")
    (area,), (bounds,) = Runs.read([mask]).areas_and_boxes()
    require(area > 0, "mask: empty, no pixel is set")
    require(one["area"] == area, f"{where}: area {one['area']}, but the mask has {area} pixels")
    require(isinstance(box, np.ndarray) and box.dtype == np.float32, f"{where}: box is not float32")
    require(np.array_equal(box, bounds), f"{where}: box {box} is not the mask's, {bounds}")
    require(isinstance(score, float) and 0 <= score <= 1, f"{where}: score {score} is not in 0..1")
    if point is not None:
        ok = isinstance(point, np.ndarray) and point.dtype == np.float32 and point.shape == (2,)
        require(ok, f"{where}: point is not float32 (2,)")
        require(bool(((point >= 0) & (point <= size[::-1])).all()), f"{where}: point {point} is outside the image")


def check_masks(label: Label, name: str) -> None:
    """Raise LabelError, naming the modality, for anything `masks_modality` does not allow."""
    require(isinstance(label, list), f"{name}: expected a list of masks, got {type(label).__name__}")
    for index, one in enumerate(label):
        _check_one(one, f"{name}: mask {index}")
    sizes = {tuple(one["mask"]["size"]) for one in label}
    require(len(sizes) <= 1, f"{name}: masks of several sizes, {sorted(sizes)}")
    areas = [one["area"] for one in label]
    require(areas == sorted(areas, reverse=True), f"{name}: masks are not in order, largest first")


def _encode(label: Label) -> list[dict[str, Any]]:
    return [{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in one.items()} for one in label]


def _decode(raw: Any) -> list[Instance]:
    return [
        {
            "mask": {"size": list(one["mask"]["size"]), "counts": one["mask"]["counts"]},
            "box": np.asarray(one["box"], np.float32),
            "score": float(one["score"]),
            "area": int(one["area"]),
            "point": None if one["point"] is None else np.asarray(one["point"], np.float32),
        }
        for one in raw
    ]


# Pictures -------------------------------------------------------------------------------------------------------------


def paint(masks: Sequence[Instance], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The masks over an image, uint8 RGB (H, W, 3), made smaller if it is large; colours follow the order."""
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, SHOWN / max(height, width))
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    small = np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA) if scale < 1 else image)
    y, x = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    front = instance_map(masks, (height, width))[y][:, x]
    hues = [colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.75, 1.0) for i in range(len(masks))]  # neighbours far apart
    colours = np.array([(0.0, 0.0, 0.0), *hues])[front] * 255
    mixed = np.where(front[..., None] > 0, 0.45 * small + 0.55 * colours, small)
    mixed[_boundaries(front) > 0] = 255
    return np.asarray(mixed.round(), np.uint8)


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    if image is None:
        size = label[0]["mask"]["size"] if label else (64, 64)
        image = np.full((*size, 3), 32, np.uint8)
    count = f"{len(label)} {'mask' if len(label) == 1 else 'masks'}" if label else "no mask"
    return Picture(paint(label, image), count)


def masks_modality(name: str, about: str) -> Modality:
    """Masks of the things in an image. about: whose masks they are; what the fields hold is added to it."""
    fields = (
        "list of masks, largest first, empty = none found: mask {size [H, W], counts} COCO compressed RLE of the "
        "upright image; box float32 (4,) x0, y0, x1, y1 pixel edges round the mask (x1, y1 exclusive); score float32 "
        "0..1; area in pixels; point float32 (2,) x, y of the pixel asked about, None where none was"
    )
    return Modality(
        name=name, kind="record", container="parquet", arrow=ARROW, encode=_encode, decode=_decode,
        check=lambda label: check_masks(label, name), show=_show, about=f"{about}; {fields}",
        compare=lambda a, b: overlaps(mask_overlap(a, b)), scores=lambda: OverlapScores(mask_overlap),
    )  # fmt: skip


def edges_modality(name: str, about: str) -> Modality:
    """Edges, uint8 (H, W) of 0 and 255, as a PNG of one bit a pixel: the encoding of canny_edge."""

    def encode(label: NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(label).convert("1", dither=Image.Dither.NONE).save(buffer, "PNG", compress_level=6)
        return buffer.getvalue()

    def decode(data: bytes) -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.array(image.convert("L"), np.uint8)

    def check(label: Label) -> None:
        require(isinstance(label, np.ndarray) and label.dtype == np.uint8, f"{name}: expected a uint8 array")
        require(label.ndim == 2 and label.size > 0, f"{name}: expected shape (H, W), got {label.shape}")
        require(bool(((label == 0) | (label == 255)).all()), f"{name}: expected only 0 and 255")

    def show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
        return Picture(np.repeat(label[:, :, None], 3, axis=2))

    return Modality(
        name=name, kind="map", container="tar", ext="png", encode=encode, decode=decode, check=check, show=show, compare=edges,
        about=f"uint8 (H, W), 255 on an edge and 0 elsewhere, on the pixels of the upright image; {about}",
    )  # fmt: skip


SAM_INSTANCE = masks_modality("sam_instance", "masks of everything that stands out from the rest of the image")
SAM_EDGE = edges_modality("sam_edge", "boundaries of the map of sam_instance, smaller masks in front; PNG of 1 bit")
