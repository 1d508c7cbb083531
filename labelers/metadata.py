"""Twenty-one numbers about an image, from its pixels and its other labels; those whose inputs do not exist are missing.

It reads whatever of caption, human_poses, sam_instance, det, semseg, normal and depth a run makes, by whichever backend.
Watermark and aesthetic scores have no labeler here: one of yours that makes a modality of that name, a vector of one
number, is read too.

Field ids, ranges and bins are those of 4M-21. Two flaws of the published code are not followed: objectness there
counted a superset of the walkability list, which holds stuff classes only, and its decoder divided by the number of
bins where its encoder multiplied by one less, so that a value did not come back as itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labelers.core.compare import fields
from labelers.core.labeler import Labeler, Resources, Sample
from labelers.core.modality import Label, Modality, Null, require
from labelers.core.scene_numbers import Numbers, Reasons, from_boxes, from_classes, from_depth, from_normals
from labelers.core.show import Cell, Chips

BINS = 50
MAX_CODE = 999  # the largest value a coordinate token can carry


@dataclass(frozen=True)
class Field:
    """One number of the metadata, and how a token carries it.

    kind: "count" (whole numbers, taken as they are after division by `unit`), "bins" (BINS uniform bins over low..high)
    or "threshold" (how many of `thresholds` the value reaches; low..high is where values lie). needs: what it is
    computed from, "pixels" or a modality.
    """

    id: int
    name: str
    kind: Literal["count", "bins", "threshold"]
    needs: str
    low: float = 0.0
    high: float = 0.0
    unit: int = 1
    thresholds: tuple[float, ...] = ()


FIELDS: tuple[Field, ...] = (
    Field(0, "original_width", "count", "pixels", unit=32),
    Field(1, "original_height", "count", "pixels", unit=32),
    Field(2, "caption_chars", "count", "caption"),
    Field(3, "caption_words", "count", "caption"),
    Field(4, "caption_sentences", "count", "caption"),
    Field(5, "human_count", "count", "human_poses"),
    Field(6, "sam_count", "count", "sam_instance"),
    Field(7, "coco_count", "count", "det"),
    Field(8, "coco_diversity", "count", "det"),
    Field(9, "colorfulness", "bins", "pixels", 0, 150),
    Field(10, "brightness", "bins", "pixels", 0, 255),
    Field(11, "contrast", "bins", "pixels", 0, 127),
    Field(12, "saturation", "bins", "pixels", 0, 255),
    Field(13, "entropy", "bins", "pixels", 0, 10),
    Field(14, "walkability", "bins", "semseg", 0, 1),
    Field(15, "objectness", "bins", "semseg", 0, 1),
    Field(16, "semantic_diversity", "count", "semseg"),
    Field(17, "geometric_complexity", "bins", "normal", 0, 0.75),
    Field(18, "occlusion", "bins", "depth", 0, 0.25),
    Field(19, "watermark", "threshold", "watermark", 0, 1, thresholds=(0.5,)),
    Field(20, "aesthetic", "threshold", "aesthetic", 0, 10, thresholds=(4.5, 5.5)),
)
BY_NAME = {field.name: field for field in FIELDS}
BY_ID = {field.id: field for field in FIELDS}


def encode_field(field: Field, value: float) -> int:
    """The whole number 0..999 a token carries for a value. The top of a range is in the top bin; beyond is clipped."""
    if field.kind == "count":
        return int(min(max(value, 0) // field.unit, MAX_CODE))
    if field.kind == "threshold":
        return sum(value >= threshold for threshold in field.thresholds)
    share = (value - field.low) / (field.high - field.low)
    return int(min(max(np.floor(share * BINS), 0), BINS - 1))


def decode_field(field: Field, code: int) -> float:
    """The value a code stands for: the least such count, or the middle of the bin or of the stretch between thresholds.

    encode_field takes it back to the same code. Codes above the last one, which a model may say, count as the last.
    """
    if field.kind == "count":
        return float(code * field.unit)
    if field.kind == "threshold":
        edges = (field.low, *field.thresholds, field.high)
        code = min(code, len(field.thresholds))
        return (edges[code] + edges[code + 1]) / 2
    return field.low + (min(code, BINS - 1) + 0.5) / BINS * (field.high - field.low)


# -- values


def colour_statistics(image: NDArray[np.uint8]) -> dict[str, float]:
    """Statistics of uint8 RGB (H, W, 3), in whole numbers as far as they go: exact, and small in memory.

    colorfulness (Hasler and Suesstrunk 2003, M3), brightness and contrast (mean and standard deviation of the grey
    value, 0..255 and 0..127.5), saturation (mean of HSV's S, 0..255), entropy of the grey histogram (bits, 0..8).
    """
    # The opponent channels R - G and, doubled to stay whole, R + G - 2B.
    opponent = cv2.transform(image.astype(np.int16), np.array([[1, -1, 0], [1, 1, -2]], np.float32))
    mean, std = (np.asarray(moment).reshape(2) * (1, 0.5) for moment in cv2.meanStdDev(opponent))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    counts, levels = np.bincount(grey.reshape(-1), minlength=256), np.arange(256)
    first, second = int(counts @ levels), int(counts @ levels**2)
    share = counts[counts > 0] / grey.size
    return {
        "colorfulness": float(np.hypot(*std) + 0.3 * np.hypot(*mean)),
        "brightness": first / grey.size,
        "contrast": math.sqrt(grey.size * second - first**2) / grey.size,
        "saturation": float(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))[1]),
        "entropy": float(-(share * np.log2(share)).sum()) + 0.0,
    }


def _from_pixels(sample: Sample) -> dict[str, float]:
    height, width = sample.image.shape[:2]
    return {"original_width": width, "original_height": height, **colour_statistics(sample.image)}


def caption_statistics(text: str) -> dict[str, float]:
    """Characters, words (runs of anything but blanks), sentences (ends of . ! ? or the end of the text)."""
    sentences = [part for part in re.split(r"[.!?\u3002\uff01\uff1f]+", text) if part.strip()]
    return {"caption_chars": len(text), "caption_words": len(text.split()), "caption_sentences": max(1, len(sentences))}


def _only_number(name: str) -> Callable[[Any], tuple[Numbers, Reasons]]:
    return lambda vector: ({name: float(vector[0])}, {})


# What each modality tells: label -> the numbers, and reasons for those that this label does not tell.
_FROM_LABEL: dict[str, Callable[[Any], tuple[Numbers, Reasons]]] = {
    "caption": lambda text: (caption_statistics(text), {}),
    "human_poses": lambda people: ({"human_count": len(people)}, {}),
    "sam_instance": lambda masks: ({"sam_count": len(masks)}, {}),
    "det": from_boxes,
    "semseg": from_classes,
    "normal": from_normals,
    "depth": from_depth,
    "watermark": _only_number("watermark"),
    "aesthetic": _only_number("aesthetic"),
}


# -- the modality


def _check(label: Label) -> None:
    require(isinstance(label, dict) and set(label) == {"values", "reasons"}, "metadata: expected values and reasons")
    values, reasons = label["values"], label["reasons"]
    require(set(values) == set(BY_NAME), "metadata: expected every field of FIELDS")
    for name, value in values.items():
        if value is None:
            require(bool(reasons.get(name)), f"metadata: {name} is missing without a reason")
        else:
            require(isinstance(value, int | float) and 0 <= value < np.inf, f"metadata: {name} is {value!r}")
            require(name not in reasons, f"metadata: {name} has a value and a reason why it has none")


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    shown = [(f.name.replace("_", " "), label["values"].get(f.name)) for f in FIELDS]
    return Chips(tuple((name, f"{value:.4g}") for name, value in shown if value is not None))


METADATA = Modality(
    name="metadata", kind="record", container="parquet",
    arrow=pa.struct([
        ("values", pa.struct([(f.name, pa.float64()) for f in FIELDS])), ("reasons", pa.map_(pa.string(), pa.string())),
    ]),
    encode=lambda label: {"values": label["values"], "reasons": sorted(label["reasons"].items())},
    decode=lambda raw: {"values": dict(raw["values"]), "reasons": dict(raw["reasons"])},
    check=_check, show=_show, compare=lambda a, b: fields(a["values"], b["values"]),
    about="values: 21 numbers by name, each in the unit FIELDS gives, or missing; reasons: why, for the missing ones",
)  # fmt: skip


class Metadata(Labeler):
    """Every field whose inputs are there; the others are missing, each with its reason."""

    name = "metadata"
    version = 2
    backend = "pixels and labels (OpenCV)"
    produces = (METADATA,)
    reads = tuple(_FROM_LABEL)
    resources = Resources(cpu=1.0, batch=32)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [{"metadata": describe(sample)} for sample in samples]


def describe(sample: Sample) -> dict[str, Any]:
    """The metadata of one sample: values by name, and reasons for the missing ones."""
    known: Numbers = _from_pixels(sample)
    absent: dict[str, str] = {}
    why: Reasons = {}
    for modality, compute in _FROM_LABEL.items():
        label = sample.labels.get(modality, Null("not labelled"))
        if isinstance(label, Null):
            absent[modality] = f"no {modality}: {label.reason}"
        else:
            numbers, reasons = compute(label)
            known |= numbers
            why |= reasons
    values = {f.name: known.get(f.name) for f in FIELDS}
    missing = [f for f in FIELDS if values[f.name] is None]
    return {"values": values, "reasons": {f.name: why.get(f.name) or absent[f.needs] for f in missing}}
