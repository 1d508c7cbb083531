"""sam_instance as a sequence: `point v0=y v1=x`, then for each instance that contains the point `polygon v0=xmin v1=ymin
v2=xmax v3=ymax` + 16 mask codes, largest first, or `none`.

Points are those of a regular grid over the view, in an order drawn from (id, seed, view). One that would say nothing new
is left out: every instance it shows was written before, or an empty place was. So 290 tokens show a dozen instances
rather than the largest one a dozen times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelers.core.masks import Instance, instance, largest_first
from labelers.core.rle import decode_rle, encode_rle
from tokenize_shards.grammar import TOP, Codes, bin_of, read_box, read_codes, write_box, write_codes
from tokenize_shards.views import MIN_AREA, View
from tokenize_shards.wordpiece import WordPiece, coordinate, split_coordinate

GRID = 16  # points a side
MASK_CODES = 16
POLYGON = 1 + 4 + MASK_CODES  # tokens of an instance
Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """An instance as a view shows it. mask: bool (h, w), all of the view, in the pixels of the mask's own map. box:
    float32 (4,) round what is left of it, 0..1 of the view. score: of the label.
    """

    mask: Masks
    box: NDArray[np.float32]
    score: float

    def contains(self, y: float, x: float) -> bool:
        """Whether a point in 0..1 of the view is in the mask."""
        height, width = self.mask.shape
        return bool(self.mask[min(int(y * height), height - 1), min(int(x * width), width - 1)])

    def cropped(self, side: int) -> Masks:
        """What is under the box, (side, side)."""
        from tokenize_shards.mask_vq import crop_mask  # brings torch, which reading other sequences does without

        height, width = self.mask.shape
        edges = np.rint(self.box * np.array([width, height] * 2, np.float32))  # whole pixels but for float32's rounding
        return crop_mask(self.mask, edges, side)


def cut_instances(label: Sequence[Instance], view: View, min_area: float = MIN_AREA) -> list[Cut]:
    """The instances of which something is in the view, in the label's order (largest first).

    One is dropped where the box round what is left covers less than min_area of the view.
    """
    found = []
    for one in label:
        height, width = one["mask"]["size"]
        x0, y0, x1, y1 = (round(edge) for edge in view.on(width, height))
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        bx0, by0, bx1, by1 = one["box"]
        if bx1 <= x0 or bx0 >= x1 or by1 <= y0 or by0 >= y1:
            continue  # most masks of a photo are outside a small view; they need not be unpacked
        region = decode_rle(one["mask"])[y0:y1, x0:x1]
        mask = region[:, ::-1] if view.flip else region
        box = _box_of(mask)
        if box is not None and float(np.prod(box[2:] - box[:2])) >= min_area:
            found.append(Cut(mask, box, one["score"]))
    return found


def _box_of(mask: Masks) -> NDArray[np.float32] | None:
    """Round the set pixels, 0..1 of the map; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    height, width = mask.shape
    edges = [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
    return np.array(edges, np.float32)


@dataclass(frozen=True)
class Written:
    """What a sequence will say: for each point (y, x in 0..1) the numbers of the instances it shows. boxes: of those
    that are shown, by number, in the order of the numbers.
    """

    points: tuple[tuple[float, float, tuple[int, ...]], ...]
    boxes: Mapping[int, NDArray[np.float32]]


def choose(cut: Sequence[Cut], limit: int, key: tuple[object, ...]) -> Written:
    """Points and instances that fit into `limit` tokens; a point's instances are written whole or not at all."""
    points: list[tuple[float, float, tuple[int, ...]]] = []
    written: set[int] = set()
    left, empty = limit, False
    for cell in _order(key):
        # The token of a point is a whole number; it must lie where the token says.
        y, x = (bin_of((part + 0.5) / GRID) / TOP for part in divmod(cell, GRID))
        shown = tuple(i for i, one in enumerate(cut) if one.contains(y, x))
        if set(shown) <= written and (shown or empty):
            continue
        size = 3 + max(1, len(shown) * POLYGON)
        if size > left:
            continue
        left -= size
        points.append((y, x, shown))
        written |= set(shown)
        empty |= not shown
    return Written(tuple(points), {i: cut[i].box for i in sorted(written)})


def _order(key: tuple[object, ...]) -> list[int]:
    """The cells of the grid in an order that depends on the key alone, on every machine."""
    digest = hashlib.shake_256(":".join(map(str, ("points", *key))).encode()).digest(4 * GRID * GRID)
    return [int(cell) for cell in np.argsort(np.frombuffer(digest, "<u4"), kind="stable")]


def write_instances(plan: Written, codes: Codes, words: WordPiece) -> list[int]:
    """Ids of a plan. codes: (n, 16), of plan.boxes."""
    polygons = {
        i: [words.keyword("polygon"), *write_box(box), *write_codes(row)]
        for (i, box), row in zip(plan.boxes.items(), codes, strict=True)
    }
    ids: list[int] = []
    for y, x, shown in plan.points:
        ids += [words.keyword("point"), coordinate(0, bin_of(y)), coordinate(1, bin_of(x))]
        ids += [t for i in shown for t in polygons[i]] or [words.keyword("none")]
    return ids


def decode_instances(
    ids: Sequence[int], side: int, words: WordPiece, masks: Callable[[Codes], Masks]
) -> list[Instance]:
    """Every instance that was written, once, as a label of a picture of side x side, largest first. masks: codes
    (n, 16) to bool (n, h, w). point: the first one it was written for, where it lies inside the picture.
    """
    from tokenize_shards.mask_vq import paste_mask

    point_id, polygon_id = words.keyword("point"), words.keyword("polygon")
    found: dict[tuple[int, ...], tuple[NDArray[np.float32], NDArray[np.uint16], NDArray[np.float32] | None]] = {}
    point: NDArray[np.float32] | None = None
    for at, token in enumerate(ids):
        if token == point_id:
            point = _read_point(ids[at + 1 : at + 3])
        if token == polygon_id:
            box, codes = read_box(ids[at + 1 : at + 5]), read_codes(ids[at + 5 :], MASK_CODES)
            if box is not None and codes is not None:
                found.setdefault(tuple(ids[at + 1 : at + POLYGON]), (box, codes, point))
    if not found:
        return []
    cropped = masks(np.stack([codes for _, codes, _ in found.values()]))
    label = []
    for (box, _, at_point), mask in zip(found.values(), cropped, strict=True):
        whole = paste_mask(mask, box * np.float32(side), side, side)
        if whole.any():
            label.append(instance(encode_rle(whole), 1.0, None if at_point is None else at_point * np.float32(side)))
    return largest_first(label)


def _read_point(ids: Sequence[int]) -> NDArray[np.float32] | None:
    """v0=y v1=x as x, y in 0..1; None for anything else."""
    cells = [split_coordinate(token) for token in ids]
    if len(cells) != 2 or cells[0] is None or cells[1] is None or (cells[0][0], cells[1][0]) != (0, 1):
        return None
    return np.array([cells[1][1] / TOP, cells[0][1] / TOP], np.float32)


def picture_of(cut: Sequence[Cut], side: int) -> list[Instance]:
    """Cut instances as a label of a picture of side x side: what the tokens of the view can say at best."""
    label = []
    rows = (np.arange(side) + 0.5) / side
    for one in cut:
        height, width = one.mask.shape
        whole = one.mask[np.ix_((rows * height).astype(int), (rows * width).astype(int))]
        if whole.any():
            label.append(instance(encode_rle(np.ascontiguousarray(whole)), one.score))
    return largest_first(label)
