"""The table of an evaluation as a page, with a plot."""

from __future__ import annotations

import io
import math
import time
from typing import Any

import numpy as np
from PIL import Image

from labelers.core.compare import METRICS
from labelers.core.show import Picture, Words
from pipeline.gallery.page import KeyFigure
from pipeline.gallery.sheet import Row, Section, Sheet
from trainer.evaluation.job import COLUMNS, PUBLISHED, Table

LESS_IS_BETTER = {"mean_angle", "median_angle", "loss_l1", "abs_rel", "mpjpe_mm", "pa_mpjpe_mm"}
COLOURS = ("#2f5fd0", "#6d6a64", "#7a3fb5", "#c2621b")
HEADS = ("model against labels", "labels against ground truth", "model against ground truth", "tokenizer bound")


EMPTY = "Empty: the labels, the truth or the prediction are missing."


def less_is_better(score: str) -> bool:
    return score in LESS_IS_BETTER or (score in METRICS and not METRICS[score].more_is_better)


def plot(table: Table, columns: int = 3) -> np.ndarray | None:
    """A small chart for each score that has a value, a bar for each column that has one: uint8 RGB. None without any."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = [(m, s) for m, s, _ in PUBLISHED if (m, s) in table.rows]
    keys = [*order, *(key for key in table.rows if key not in order)]
    if not keys:
        return None
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(4.2 * columns, 1.6 * rows), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for place, (modality, score) in enumerate(keys):
        axes = figure.add_subplot(rows, columns, place + 1)
        values = table.rows[modality, score]
        used = [(i, column) for i, column in enumerate(COLUMNS) if column in values]
        bars = axes.barh([HEADS[i] for i, _ in used], [values[c] for _, c in used], color=[COLOURS[i] for i, _ in used])
        axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
        axes.set_ylim(max(len(used), 3) - 0.5, -0.5)  # first on top; bars of one thickness, however many there are
        axes.margins(x=0.25)
        arrow = "less is better" if less_is_better(score) else "more is better"
        axes.set_title(f"{modality} {score} ({arrow})", fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))


def sheet_of(table: Table, about: list[tuple[str, str]]) -> Sheet:
    """The page: published tasks first, empty cells where nothing was measured."""
    found, whole = table.to_json(), table.samples
    published = [row for row in found["rows"] if row["task"]]
    others = [row for row in found["rows"] if not row["task"]]

    def line(row: dict[str, object]) -> Row:
        cells = [None if row[c] is None else Words(f"{row[c]:.4g}") for c in COLUMNS]
        head = str(row["task"] or f"{row['modality']} {str(row['score']).replace('_', ' ')}")
        counts = table.pairs.get(str(row["modality"]), {})
        titles = zip(COLUMNS, HEADS, strict=True)
        over = ", ".join(f"{title}: {counts[c]}" for c, title in titles if counts.get(c, whole) != whole)
        notes = [table.notes.get(str(row["modality"])), over and f"samples of {over}"]
        return Row(head, cells, "; ".join(filter(None, notes)))

    sections = [
        Section("Published tasks", HEADS, [line(row) for row in published], EMPTY),
        Section("Other scores", HEADS, [line(row) for row in others]),
    ]  # fmt: skip
    for what, losses in (("New views of known photos", table.heldout_views), ("New photos", table.heldout)):
        if losses:
            rows = [Row(name.removeprefix("tok_"), _losses(h)) for name, h in losses.items()]
            sections.append(Section(f"{what}: nats a token", ("model", "unigram", "uniform", "perplexity"), rows))
    chart = plot(table)
    figures = [KeyFigure(f"{table.samples:,}", "samples")]
    made = f"manymodal, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
    return Sheet(
        "Evaluation",
        sections,
        "model, labels and ground truth, in the frame of one view",
        figures,
        about,
        made,
        None if chart is None else Picture(chart),
    )


def _losses(found: dict[str, Any]) -> list[Words]:
    """The cells of one stream's held-out loss."""
    values = [found["loss"], found["unigram"], found["uniform"], math.exp(found["loss"])]
    return [Words(f"{value:.3f}") for value in values[:3]] + [Words(f"{values[3]:.1f}")]
