"""Curves as inline SVG, drawn by matplotlib and coloured by the page, so that they follow its light and dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

# Colours that occur nowhere else: each is replaced in the finished SVG by a variable of the style sheet.
LINE, DOTS, INK, GRID = "#010203", "#040506", "#070809", "#0a0b0c"
VARIABLES = {LINE: "var(--accent)", DOTS: "var(--second)", INK: "var(--muted)", GRID: "var(--rule)"}


def training_curve(
    steps: Sequence[int], losses: Sequence[float], held_out_steps: Sequence[int], held_out_losses: Sequence[float]
) -> Markup:
    """Training loss over steps, each step faint and their running mean strong, with held-out losses as dots."""
    with _style():
        figure = Figure(figsize=(7.6, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, losses, color=LINE, linewidth=0.8, alpha=0.3)
        axes.plot(steps, running_mean(losses, max(1, len(losses) // 40)), color=LINE, linewidth=2)
        if held_out_steps:
            axes.plot(
                held_out_steps, held_out_losses, "o-", color=DOTS, markersize=4.5, linewidth=1.2, label="held out"
            )
            axes.legend(frameon=False, labelcolor=INK)
        axes.set_xlabel("step")
        axes.set_ylabel("loss, nats a token")
        _finish(axes)
        return _svg(figure, "train", "Training loss over steps")


def scaling_curve(sizes: Sequence[float], losses: Sequence[float], names: Sequence[str], title: str) -> Markup:
    """Loss over size or compute, both logarithmic, a named dot for each model."""
    with _style():
        figure = Figure(figsize=(7.6, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(sizes, losses, "o-", color=LINE, markersize=5, linewidth=1.4)
        for x, y, name in zip(sizes, losses, names, strict=True):
            axes.annotate(name, (x, y), (0, 7), textcoords="offset points", ha="center", color=INK)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks([*sizes])
        if losses and min(losses) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylabel("loss, nats a token")
        _finish(axes)
        axes.margins(0.12, 0.2)
        return _svg(figure, title, title)


def fit_curve(losses: Sequence[float], name: str) -> Markup:
    """A small curve of one tokenizer's loss; logarithmic where the loss falls more than tenfold and stays positive."""
    with _style():
        figure = Figure(figsize=(2.9, 1.15), layout="constrained")
        axes = figure.subplots()
        axes.plot(np.arange(len(losses)), losses, color=LINE, linewidth=1.6)
        positive = [x for x in losses if math.isfinite(x)]
        if positive and min(positive) > 0 and max(positive) > 10 * min(positive):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(3))
        _finish(axes)
        axes.set_xticks([])
        return _svg(figure, f"fit-{name}", f"Loss while fitting the tokenizer of {name}")


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Mean of the last `width` values at each place, of fewer at the start; float64, same length."""
    total = np.cumsum(np.insert(np.asarray(values, np.float64), 0, 0.0))
    last = np.arange(1, len(total))
    first = np.maximum(0, last - width)
    return (total[last] - total[first]) / (last - first)


def _style() -> AbstractContextManager[None]:
    return rc_context({
        "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.5, "text.parse_math": False,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRID, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
        "xtick.major.size": 0, "ytick.major.size": 0, "ytick.minor.size": 0, "axes.formatter.useoffset": False,
    })  # fmt: skip


def _finish(axes: Axes) -> None:
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)


def _svg(figure: Figure, salt: str, title: str) -> Markup:
    """The figure as an <svg> element: colours by variable, ids of its own, no metadata, the same bytes every time."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": ascii(salt)}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", svg)
    # Ids must differ within a page. Those that something refers to are salted hashes; the others (axes_1 ...) go.
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    label = Markup("{}").format(title)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
