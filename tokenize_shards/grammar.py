"""How structures become text tokens and back: the sequence grammars of 4M-21, one pair of functions a modality.

Encoders take a label and a view, and give ids without [SOS] and [EOS]. Decoders take whatever a model wrote, keep what
is valid, drop the rest, and never raise. Coordinates are whole numbers 0..999 of the view.

    color_palette  v1=n, then v0=r v0=g v0=b a colour, raw 0..255; n comes from a hash of (id, seed, view)
    metadata       v1=field v0=value a pair, in field order; the trainer shuffles pairs
    det            v0=xmin v1=ymin v2=xmax v3=ymax class a box, nearest to the origin first    (grammar_boxes.py)
    human_poses    human v0 v1 v2 v3, then pose and 8 codes, and what else is known of a person (grammar_people.py)
    sam_instance   point v0=y v1=x, then polygon v0 v1 v2 v3 and 16 codes a mask, or none       (grammar_masks.py)

A code below 512 is written as v0=code, else as v1=code-512.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.modality import Null
from labelers.metadata import BY_ID, FIELDS, decode_field, encode_field
from tokenize_shards.views import uniforms
from tokenize_shards.wordpiece import (
    AXES,
    BINS,
    CLASS,
    COORDINATE,
    EOS,
    WORDS,
    WordPiece,
    coordinate,
    split_coordinate,
)  # fmt: skip

TOP = BINS - 1  # the largest coordinate value
SPLIT = 512  # codes from here on are written on axis 1
KEYS = {  # the words a grammar writes
    "human_poses": ("human", "pose", "global", "shape", "camera", "none"),
    "sam_instance": ("point", "polygon", "none"),
}
# How a content is cut and written; 1 where it is not named. human_poses (smpl_poses too): 2, landmarks have a camera; 3,
# that of a body is of the part of its box that the view shows. sam_instance: 2, masks are cropped to the pixel. edges: 2,
# lines between two pixels are kept.
VERSIONS = {"human_poses": 3, "sam_instance": 2, "edges": 2}
Codes = NDArray[np.integer[Any]]


def bin_of(unit: float) -> int:
    """0..1 -> 0..999, the nearest of 1000 values."""
    return int(np.clip(np.round(unit * TOP), 0, TOP))


def write_number(value: float, low: float, high: float) -> int:
    """A number of a range as a coordinate token of axis 0; beyond the range it is clipped."""
    return coordinate(0, bin_of((value - low) / (high - low)))


def write_box(box: NDArray[np.floating]) -> list[int]:
    """x0 y0 x1 y1 in 0..1 of the view as v0 v1 v2 v3."""
    return [coordinate(axis, bin_of(float(value))) for axis, value in enumerate(box)]


def read_box(ids: Sequence[int]) -> NDArray[np.float32] | None:
    """v0 v1 v2 v3 in this order as a box in 0..1, corners put in order; None for anything else."""
    cells = [split_coordinate(token) for token in ids]
    if len(cells) != AXES or any(cell is None or cell[0] != axis for axis, cell in enumerate(cells)):
        return None
    values = np.array([cell[1] for cell in cells if cell is not None], np.float32) / TOP
    return np.concatenate([np.minimum(values[:2], values[2:]), np.maximum(values[:2], values[2:])])


def write_codes(codes: Codes) -> list[int]:
    """Codes 0..1023 of a fitted codec."""
    return [coordinate(0, int(c)) if c < SPLIT else coordinate(1, int(c) - SPLIT) for c in codes]


def read_codes(ids: Sequence[int], count: int) -> NDArray[np.uint16] | None:
    """`count` codes from the start of ids; None where these are not all codes."""
    cells = [split_coordinate(token) for token in ids[:count]]
    found = [cell[1] + SPLIT * cell[0] for cell in cells if cell is not None and cell[0] in (0, 1) and cell[1] < SPLIT]
    return np.array(found, np.uint16) if len(found) == count else None


def by_origin(boxes: NDArray[np.floating]) -> NDArray[np.intp]:
    """Order of boxes (n, 4) by the distance of (xmin, ymin) to the origin."""
    return np.argsort(np.hypot(boxes[:, 0], boxes[:, 1]), kind="stable")


def encode_palette(palettes: Sequence[NDArray[np.uint8]], key: tuple[object, ...]) -> list[int]:
    """One of the seven palettes, its size drawn from the hash of `key`."""
    colours = drawn_palette(palettes, key)
    return [coordinate(1, len(colours)), *(coordinate(0, value) for value in colours.reshape(-1).tolist())]


def drawn_palette(palettes: Sequence[NDArray[np.uint8]], key: tuple[object, ...]) -> NDArray[np.uint8]:
    """The palette that is written for `key`, (id, seed, view)."""
    return palettes[int(uniforms("palette", *key)[0] * len(palettes))]


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


def allowed_ids(name: str, words: WordPiece) -> NDArray[np.int64]:
    """The ids a well-formed sequence of a grammar can hold, [EOS] included: what a model is let write."""
    axes = {"color_palette": {0: 256, 1: 8}, "metadata": {0: BINS, 1: len(FIELDS)}}.get(name)
    if axes is not None:
        return np.array([EOS, *(coordinate(axis, value) for axis, top in axes.items() for value in range(top))])
    coordinates = range(COORDINATE, CLASS)
    if name == "det":
        return np.array([EOS, *coordinates, *range(CLASS, WORDS)])
    if name in KEYS:
        return np.array([EOS, *map(words.keyword, KEYS[name]), *coordinates])
    return np.array([EOS, *range(CLASS, words.vocab)])
