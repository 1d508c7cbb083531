"""The page of one fit: figures, the loss curve, how often codes are used, and held-out views beside what came back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.show import Picture
from pipeline.gallery.page import CellTriple, FitCurve, Gallery, KeyFigure, PhotoRow, render_page
from tokenize_shards.gather import FitData
from tokenize_shards.sequence import SequenceTokenizer, codec_items
from tokenize_shards.table import TokenSpec
from tokenize_shards.tokenizer import UNITS, FitReport, Tokenizer

_SHOWN = 12  # views
_LINES = (("label", "view", "what the tokenizer saw"), ("decoded", "decoded", "its tokens, decoded back"))


def render_fit(spec: TokenSpec, tokenizer: Tokenizer, report: FitReport, data: FitData, out: Path) -> bool:
    """Write the page. False, and nothing written, where nothing was fitted (sequences without a codec)."""
    held, content = bool(data.heldout), spec.content
    cuts = data.heldout if held else data.train
    if isinstance(tokenizer, SequenceTokenizer):
        if tokenizer.codec is None:
            return False
        tokenizer, side = tokenizer.codec, int(spec.params.get("mask_size", 0))
        views = codec_items(content, cuts, side)[:_SHOWN]
    else:
        views = np.stack(cuts[:_SHOWN])
        if content not in ("", "features") and views.shape[1] != spec.size:
            return False  # nothing was held out, and what was learned from has another resolution
    tokens = tokenizer.encode(views)
    rows = []
    for view, back, row in zip(views, tokenizer.decode(tokens), tokens, strict=True):
        seen, drawn = (Picture(picture_of(content, x)) for x in (view, back))
        codes = f"{len(np.unique(row))} different codes of {len(row)}"
        name = hashlib.sha256(np.ascontiguousarray(view).tobytes()).hexdigest()
        cells = {spec.modality: CellTriple(seen, Picture(drawn.pixels, codes))}
        rows.append(PhotoRow(name, seen, cells, held_out=held))
    figures = [KeyFigure(f"{value:.4g}", UNITS.get(name, name), name) for name, value in report.metrics.items()]
    perplexity = f"perplexity {report.perplexity:,.0f} of {tokenizer.vocab:,}"
    figures.append(KeyFigure(f"{report.codebook_used:.0%}", "of the codes in use", perplexity))
    figures.append(KeyFigure(f"{report.seconds:,.0f} s", "of fitting", f"{report.steps:,} steps"))
    result = ", ".join(f"{value:.4g} {UNITS.get(name, name)}" for name, value in report.metrics.items())
    into = f"{tokenizer.tokens} tokens of {tokenizer.vocab:,} codes, {spec.kind}"
    page = Gallery(
        title=f"{spec.name}: a fit", subtitle=f"{spec.modality} to {into}",
        columns=[spec.modality], rows=rows, figures=figures,
        fits=[FitCurve(spec.modality, [loss for _, loss in report.losses], report.seconds, result)],
        photos="Views and what their tokens give back", row="view", kinds=_LINES,
        made="Views that took no part in fitting." if held else "Nothing was held out: these views were learned from.",
    )  # fmt: skip
    render_page(page, out)
    return True


def picture_of(content: str, view: NDArray[Any]) -> NDArray[np.uint8]:
    """What a tokenizer sees or gives back, as a picture (H, W, 3) of uint8.

    Depth from dark (near) to light over its own range, normals and features as colours, classes in colours far apart,
    masks white, landmarks as dots seen from the front, other vectors as a square of grey values.
    """
    if content == "sam_instance":
        return np.repeat(view[:, :, None].astype(np.uint8) * 255, 3, axis=2)
    if content == "human_poses":
        return _dots(view.reshape(-1, 3))
    if content in ("pixels", "edges"):
        return view if view.ndim == 3 else np.repeat(view[:, :, None], 3, axis=2)
    values = np.nan_to_num(np.asarray(view, np.float32))
    if content == "normals":
        return ((values + 1) * 127.5).clip(0, 255).astype(np.uint8) if view.dtype != np.uint8 else view
    if content == "classes":
        golden = np.arange(int(values.max()) + 1)[:, None] * np.array([0.618034, 0.41421, 0.73205]) % 1
        return (golden * 255).astype(np.uint8)[values.astype(np.int64)]
    if values.ndim == 1:
        side = int(np.ceil(np.sqrt(len(values))))
        values = np.pad(values, (0, side * side - len(values))).reshape(side, side)
    if values.ndim == 3:  # features: three fixed mixtures of the channels
        mix = np.random.default_rng(0).normal(size=(values.shape[-1], 3)) / np.sqrt(values.shape[-1])
        values = values @ mix.astype(np.float32)
    low, high = (float(np.percentile(values, share)) for share in (1, 99))
    grey = ((values - low) / max(1e-9, high - low)).clip(0, 1) * 255
    big = np.kron(grey, np.ones((8, 8, 1) if grey.ndim == 3 else (8, 8))) if len(grey) < 64 else grey
    picture = big.astype(np.uint8)
    return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)


def _dots(points: NDArray[np.floating], side: int = 128, reach: float = 1.0) -> NDArray[np.uint8]:
    """Landmarks (k, 3) in metres around the hips, x to the right and y down, within `reach` of the centre."""
    picture = np.zeros((side, side, 3), np.uint8)
    places = ((points[:, :2] / reach + 1) / 2 * side).round().astype(int).clip(2, side - 3)
    for x, y in places:
        picture[y - 1 : y + 2, x - 1 : x + 2] = 255
    return picture
