"""depth: how far away every pixel is. The one definition; networks and imports produce it.

Larger is always farther. What a network calls depth has three kinds, and a label says which it is:

    metre     distance along the optical axis, in metres
    relative  the same up to an unknown scale and shift (DPT trained on depth, Omnidata)
    inverse   minus a scaled and shifted 1 / distance: the disparity that MiDaS, DPT-large and Depth Anything give, with
              its sign turned, so that larger is farther here too

Networks of the last two kinds stretch their map to 0..1 (`stretched`). A reader that needs order or shape only (tokens
after standardising a crop, edges of depth, pictures) may ignore the unit; one that compares aligns scale and shift.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from labelers.core.compare import depths
from labelers.core.modality import Label, LabelError, Modality, require
from labelers.core.overlays import small_copy
from labelers.core.scores import DepthScores
from labelers.core.show import Cell, Picture

Unit = Literal["metre", "relative", "inverse"]
STEPS = 65534  # codes 1..65535 span the map's own range; code 0 is missing
_KEY = "manymodal-depth"  # the PNG's text chunk: {"unit", "low", "high"}


@dataclass(frozen=True, eq=False)
class DepthMap:
    """values: float32 (H, W), larger is farther, NaN where unknown. unit: see the module."""

    values: NDArray[np.float32]
    unit: Unit


def stretched(values: NDArray[Any], unit: Unit) -> DepthMap:
    """A map of unknown scale and shift, larger = farther, to 0..1 (a flat one to 0). Not finite becomes missing."""
    values = np.where(np.isfinite(values), values, np.nan).astype(np.float32)
    known = values[np.isfinite(values)]
    if known.size == 0:
        return DepthMap(values, unit)
    low, span = float(known.min()), float(known.max()) - float(known.min())
    return DepthMap(np.clip((values - np.float32(low)) / np.float32(span or 1.0), 0, 1).astype(np.float32), unit)


def _encode(label: DepthMap) -> bytes:
    """16-bit grey PNG over the map's own range. Exact to half a step: the range / 131,068."""
    values = label.values.astype(np.float64)
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    share = (np.where(known, values, low) - low) / ((high - low) or 1.0)
    codes = np.where(known, np.rint(share * STEPS) + 1, 0).astype(np.uint16)
    text = PngImagePlugin.PngInfo()
    text.add_text(_KEY, json.dumps({"unit": label.unit, "low": low, "high": high}))
    buffer = io.BytesIO()
    Image.fromarray(codes).save(buffer, "PNG", compress_level=6, pnginfo=text)
    return buffer.getvalue()


def _decode(data: bytes) -> DepthMap:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        codes = np.array(image)
        said = getattr(image, "text", {}).get(_KEY)
    if said is None or codes.ndim != 2:
        raise LabelError(f"depth: expected a 16-bit grey PNG with the text {_KEY!r}")
    about = json.loads(said)
    share = (codes.astype(np.float64) - 1) / STEPS
    values = about["low"] + share * (about["high"] - about["low"])
    return DepthMap(np.where(codes > 0, values, np.nan).astype(np.float32), about["unit"])


def _check(label: Label) -> None:
    require(isinstance(label, DepthMap), f"depth: expected a DepthMap, got {type(label).__name__}")
    values = label.values
    require(isinstance(values, np.ndarray) and values.dtype == np.float32, "depth: expected float32 values")
    require(values.ndim == 2 and values.size > 0, f"depth: expected shape (H, W), got {values.shape}")
    require(label.unit in get_args(Unit), f"depth: unit {label.unit!r} is not one of {', '.join(get_args(Unit))}")
    require(not bool(np.isinf(values).any()), "depth: not finite; a missing value is NaN")
    require(bool(np.isfinite(values).any()), "depth: every pixel is missing; that is a Null")
    if label.unit == "metre":
        require(float(np.nanmin(values)) >= 0, "depth: a distance below 0 metres")


def colours(label: DepthMap) -> NDArray[np.uint8]:
    """Near is yellow, far is dark blue, over the middle 96 % of the map; missing is grey. uint8 RGB (H, W, 3)."""
    values = label.values
    known = np.isfinite(values)
    shown = np.full((*values.shape, 3), 128, np.uint8)
    if known.any():
        # A scene in metres has few far pixels that would take the whole range: its inverse is shown.
        near = 1 / np.maximum(values, 1e-3) if label.unit == "metre" else -values
        low, high = np.percentile(near[known], (2, 98))
        share = np.clip((np.where(known, near, low) - low) / max(float(high - low), 1e-9), 0, 1)
        table = cv2.applyColorMap((share * 255).round().astype(np.uint8), cv2.COLORMAP_PLASMA)[:, :, ::-1]
        shown[known] = table[known]
    return shown


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    picture, _ = small_copy(colours(label))
    known = label.values[np.isfinite(label.values)]
    missing = f", {100 * (1 - known.size / label.values.size):.0f} % missing" if known.size < label.values.size else ""
    low, high = np.percentile(known, (2, 98)) if known.size else (np.nan, np.nan)
    words = f"{low:.2g} to {high:.2g} m" if label.unit == "metre" else f"{label.unit}; yellow is near"
    return Picture(picture, words + missing)


DEPTH = Modality(
    name="depth", kind="map", container="tar", ext="png", encode=_encode, decode=_decode, check=_check, show=_show,
    compare=lambda a, b: depths(a.values, b.values, a.unit, b.unit), scores=DepthScores,
    about="DepthMap: values float32 (H, W) on the pixels of the upright image, larger is farther, NaN missing; unit metre "
    "(along the optical axis), relative (unknown scale and shift) or inverse (-1 / distance, unknown scale and shift); PNG "
    "of 16-bit grey over the map's own range, 0 missing, range and unit in its text chunk: exact to range / 131,068",
)  # fmt: skip
