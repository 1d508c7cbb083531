"""A set of instance masks: how it is stored, checked, painted and drawn as edges.

A mask is COCO's compressed run-length encoding, {"size": [H, W], "counts": text}: run lengths of the pixels taken
column by column, starting with a run of zeros (of length 0 where the first pixel is set); from the fourth on each is
written as its difference to the one two before, in groups of five bits, lowest first, each a character from "0" to
"o". It is exact, takes one to two bytes a run, and pycocotools reads it as it is.
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
_MOST_GROUPS = 8  # 40 bits: more than any number of pixels


class Rle(TypedDict):
    """A mask as the module describes it. size: [H, W]."""

    size: list[int]
    counts: str


class Instance(TypedDict):
    """One mask of a label; see `masks_modality` for what its fields hold."""

    mask: Rle
    box: NDArray[np.float32]
    score: float
    area: int
    point: NDArray[np.float32] | None


# Runs -----------------------------------------------------------------------------------------------------------------


def pack_counts(counts: NDArray[np.int64]) -> str:
    """Run lengths, int64 (n,), to COCO's text."""
    delta = counts.astype(np.int64)
    delta[3:] -= counts[1:-2]
    place = np.arange(_MOST_GROUPS)
    magnitude = np.where(delta < 0, ~delta, delta)[:, None]
    groups = 1 + (magnitude >= (np.int64(16) << 5 * place)).sum(axis=1, keepdims=True)  # 5 k bits hold -2^(5k-1) and up
    values = (delta[:, None] >> 5 * place & 31) + np.where(place < groups - 1, 32, 0) + 48
    text: bytes = values.astype(np.uint8)[place < groups].tobytes()
    return text.decode("ascii")


def unpack_counts(text: str) -> NDArray[np.int64]:
    """The inverse of pack_counts. Raises LabelError for text that is no such encoding."""
    raw = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64) - 48
    require(raw.size > 0 and raw.min() >= 0 and raw.max() < 64, "mask: counts hold a character outside '0'..'o'")
    ends = np.flatnonzero(raw & 32 == 0)
    require(ends.size > 0 and ends[-1] == raw.size - 1, "mask: counts end in the middle of a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(raw.size) - np.repeat(starts, ends - starts + 1)
    require(place.max() < _MOST_GROUPS, "mask: counts hold a number of more than 40 bits")
    counts = np.add.reduceat((raw & 31) << 5 * place, starts)
    counts -= np.where(raw[ends] & 16, np.int64(32) << 5 * place[ends], 0)  # two's complement of 5 k bits
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """A mask, bool (H, W) of at least one pixel, to its run-length encoding."""
    if mask.dtype != np.bool_ or mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"expected a bool mask (H, W), got {mask.dtype} {mask.shape}")
    flat = mask.T.ravel()
    bounds = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    counts = np.concatenate([[0], np.diff(bounds)]) if flat[0] else np.diff(bounds)
    return {"size": [int(side) for side in mask.shape], "counts": pack_counts(counts)}


def decode_rle(rle: Rle) -> NDArray[np.bool_]:
    """The inverse of encode_rle: bool (H, W). Raises LabelError where the runs do not fill the size."""
    height, width = rle["size"]
    counts = _runs(rle)
    flat = np.repeat(np.arange(counts.size) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def _runs(rle: Rle) -> NDArray[np.int64]:
    """Run lengths that are known to cover the size exactly, none but the first of them empty."""
    counts = unpack_counts(rle["counts"])
    require(bool((counts[1:] > 0).all()) and counts[0] >= 0, "mask: a run has no length")
    pixels = rle["size"][0] * rle["size"][1]
    require(int(counts.sum()) == pixels, f"mask: runs of {counts.sum()} pixels in a mask of {pixels}")
    return counts


def _area_and_box(rle: Rle) -> tuple[int, NDArray[np.float32]]:
    """Pixels of a mask and the box round them, from its runs alone. Raises LabelError for an empty mask."""
    counts, height = _runs(rle), rle["size"][0]
    ends = np.cumsum(counts)
    stops = ends[1::2]
    starts = ends[::2][: stops.size]
    require(stops.size > 0, "mask: empty, no pixel is set")
    left, right = starts // height, (stops - 1) // height
    top, bottom = starts % height, (stops - 1) % height
    if (left != right).any():  # such a run reaches the bottom of one column and the top of the next
        top, bottom = np.array([0]), np.array([height - 1])
    box = np.array([left[0], top.min(), right[-1] + 1, bottom.max() + 1], np.float32)
    return int(counts[1::2].sum()), box


# Labels ---------------------------------------------------------------------------------------------------------------


def instance(mask: Rle, score: float, point: NDArray[np.float32] | None = None) -> Instance:
    """One entry of a label; area and box are those of the mask. Raises LabelError for an empty mask."""
    area, box = _area_and_box(mask)
    return {"mask": mask, "box": box, "score": float(np.float32(score)), "area": area, "point": point}


def largest_first(masks: Sequence[Instance]) -> list[Instance]:
    """The order of a label: by area, then by the mask itself, so that it does not depend on who found what first."""
    return sorted(masks, key=lambda one: (-one["area"], one["mask"]["counts"]))


def instance_map(masks: Sequence[Instance], shape: tuple[int, int]) -> NDArray[np.int32]:
    """int32 (H, W): 0 where there is no mask, else 1 + the index of the last mask there, so of the smallest."""
    height, width = shape
    columns = np.zeros(width * height, np.int32)
    for number, one in enumerate(masks, 1):
        require(one["mask"]["size"] == [height, width], f"mask: size {one['mask']['size']} in an image {shape}")
        ends = np.cumsum(_runs(one["mask"])).tolist()
        for start, stop in zip(ends[::2], ends[1::2], strict=False):  # a last run of zeros has no partner
            columns[start:stop] = number
    return np.ascontiguousarray(columns.reshape(width, height).T)


def mask_overlap(a: Sequence[Instance], b: Sequence[Instance]) -> NDArray[np.float64]:
    """Intersection over union of every mask of a with every mask of b, of one image: float64 (n, m), from the runs alone.

    All pixels between two neighbouring ends of runs, of whatever mask, belong to the same masks: so each mask is a row
    of ones and zeros over those stretches, and the intersections are one matrix product.
    """
    if not a or not b:
        return np.zeros((len(a), len(b)))
    ends = [np.cumsum(_runs(one["mask"])) for one in (*a, *b)]
    require(len({int(end[-1]) for end in ends}) == 1, "mask: masks of images of several sizes cannot be compared")
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
    area, bounds = _area_and_box(mask)
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
