"""What a person gives on the command line, as tokens: `--given MODALITY=TEXT`.

caption="a red car"                        the text; "..." in it is a gap to be filled in
color_palette="#ff8800 #002244"            1 to 7 colours
metadata="brightness=200 human_count=3"       some fields by name
det="person 0.1 0.2 0.5 0.9; dog 0 0.5 0.3 1"   class and x0 y0 x1 y1 in shares of the picture
rgb=left                                   a region of the photo's own tokens: left, right, top, bottom, centre,
                                           border, none, 30% (at random), or x0,y0,x1,y1 in shares of the picture
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from labelers.metadata import BY_NAME
from pipeline.errors import ConfigError
from tokenize_shards import grammar, grammar_boxes
from tokenize_shards.sequence import SequenceTokenizer
from tokenize_shards.table import TokenSpec
from tokenize_shards.views import View, uniforms
from tokenize_shards.wordpiece import CLASS, COCO_CLASSES, WordPiece, coordinate
from trainer.generate.decoding import Part

REGIONS = {
    "left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 1.0, 1.0), "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 1.0), "centre": (0.25, 0.25, 0.75, 0.75), "none": (0.0, 0.0, 0.0, 0.0),
}  # fmt: skip
GAP = "..."


def region(spec: TokenSpec, text: str, key: str) -> np.ndarray:
    """bool (tokens,): the positions of a grid, or of the slots of a vector, that a region names."""
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if share:
        rank = np.argsort([uniforms("region", key, spec.name, i)[0] for i in range(spec.length)])
        known = np.zeros(spec.length, bool)
        known[rank[: round(min(100.0, float(share[1])) / 100 * spec.length)]] = True
        return known
    if spec.grid is None:
        raise ConfigError(f"--given {spec.modality}={text}: its tokens have no places; give a share of them, like 50%")
    if text == "border":
        return ~region(spec, "centre", key)
    corners = REGIONS.get(text) or _numbers(text.split(","), 4)
    if corners is None:
        known_words = ", ".join([*REGIONS, "border"])
        raise ConfigError(f"--given {spec.modality}={text}: no such region; use {known_words}, 30%, or x0,y0,x1,y1")
    rows, columns = spec.grid
    y, x = (np.arange(rows)[:, None] + 0.5) / rows, (np.arange(columns)[None] + 0.5) / columns
    x0, y0, x1, y1 = corners
    return np.asarray((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).reshape(-1)


def _numbers(words: list[str], count: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(word) for word in words)
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def sequence_part(tokenizer: SequenceTokenizer, text: str) -> Part:
    """The tokens of a sequence that a text stands for; unknown where there is a gap. ConfigError where it has none."""
    read = READERS.get(tokenizer.grammar)
    if read is None:
        raise ConfigError(f"--given {tokenizer.modality}: cannot be written by hand; known are {', '.join(READERS)}")
    ids: list[int] = []
    known: list[bool] = []
    for i, piece in enumerate(text.split(GAP)):
        if i:
            ids, known = [*ids, 0], [*known, False]
        more = read(tokenizer.words, piece.strip()) if piece.strip() else []
        ids, known = [*ids, *more], [*known, *([True] * len(more))]
    if len(ids) > tokenizer.limit:
        raise ConfigError(f"--given {tokenizer.modality}: {len(ids)} tokens, it can have {tokenizer.limit}")
    return Part(np.array(ids, np.uint16), np.array(known, bool))


def _caption(words: WordPiece, text: str) -> list[int]:
    return [int(t) for t in words.encode(text)]


def _palette(words: WordPiece, text: str) -> list[int]:
    colours = re.findall(r"#?([0-9a-fA-F]{6})\b", text)
    if not colours or len(colours) > 7 or len(colours) != len(text.replace(",", " ").split()):
        raise ConfigError(f"--given color_palette={text}: expected 1 to 7 colours like #ff8800")
    values = [int(c[i : i + 2], 16) for c in colours for i in (0, 2, 4)]
    return [coordinate(1, len(colours)), *(coordinate(0, v) for v in values)]


def _metadata(words: WordPiece, text: str) -> list[int]:
    values: dict[str, float] = {}
    for pair in text.replace(",", " ").split():
        name, equals, value = pair.partition("=")
        if name not in BY_NAME or not equals:
            raise ConfigError(f"--given metadata: {pair!r} is no field=value. Fields: {', '.join(BY_NAME)}.")
        number = _numbers([value], 1)
        if number is None:
            raise ConfigError(f"--given metadata: {name}={value!r} is no number")
        values[name] = number[0]
    return grammar.encode_metadata({"values": values})


def _boxes(words: WordPiece, text: str) -> list[int]:
    label = []
    for one in filter(None, (part.strip() for part in text.split(";"))):
        *name, x0, y0, x1, y1 = one.split() if len(one.split()) >= 5 else [*one.split(), "", "", "", ""]
        corners, kind = _numbers([x0, y0, x1, y1], 4), " ".join(name)
        if corners is None or kind not in COCO_CLASSES or not (
            0 <= corners[0] < corners[2] <= 1 and 0 <= corners[1] < corners[3] <= 1
        ):  # fmt: skip
            raise ConfigError(f"--given det: {one!r} is no COCO class with x0 y0 x1 y1 in 0..1")
        label.append({"box": np.array(corners, np.float32), "label": kind, "score": 1.0})
    return grammar_boxes.encode_boxes(label, View(0, 0, 1, 1), CLASS)


READERS: dict[str, Callable[[WordPiece, str], list[int]]] = {
    "caption": _caption, "color_palette": _palette, "metadata": _metadata, "det": _boxes,
}  # fmt: skip
