"""`manymodal generate --tour`: one page that shows what steers a model, on photos of the data set.

Guidance, chaining, palettes, metadata and inpainting, each as far as the data set has the modalities for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from labelers.core.show import Cell, Picture, Words
from pipeline.dataset import Dataset
from pipeline.gallery.sheet import Row, Section, Sheet
from trainer.checkpoint import MODEL
from trainer.generate.job import Job, Spot
from trainer.generate.order import make_order, pictures_of
from trainer.generate.page import given_cells, label_cell, stamp
from trainer.lexicon import Lexicon
from trainer.predict import Predictor

TARGET = "rgb"
STEPS = 12
PALETTES = {"reds": "#c01818 #ff7a5c #3a0505", "blues": "#0b2f8a #58a6ff #041028", "greens": "#1f7a1f #9be07a #06240a"}
REGIONS = ("left", "right", "centre", "border")


@dataclass(frozen=True)
class Column:
    """One way to make the target. head: in words; sources, given, common: see make_order; before: made first, chained."""

    head: str
    sources: tuple[str, ...] = ()
    given: tuple[tuple[str, str], ...] = ()
    common: tuple[tuple[str, Any], ...] = ()
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stop:
    """One section of the page."""

    title: str
    note: str
    columns: tuple[Column, ...]


def stops(have: set[str]) -> Iterator[Stop]:
    """The sections a data set with these modalities can show."""
    columns: tuple[Column, ...]
    says = next((n for n in ("caption", "minilm_caption", "clip_global", "dinov2_global") if n in have), None)
    shape = next((n for n in ("canny_edge", "sam_edge", "depth", "normal") if n in have), None)
    if says:
        heads = tuple(Column(f"guidance {g:g}", (says,), common=(("guidance", g),)) for g in (0.0, 1.0, 2.0, 4.0))
        yield Stop(
            f"Guidance: rgb from {says}",
            "0 sees nothing, 1 is the model as it is, more follows the condition further.",
            heads,
        )
    if says and shape and "dinov2_global" in have and says != "dinov2_global":
        ways = (
            Column("directly", (says,)), Column("by way of dinov2_global", (says,), before=("dinov2_global",)),
            Column(f"by way of dinov2_global and {shape}", (says,), before=("dinov2_global", shape)),
        )  # fmt: skip
        yield Stop(f"Chaining: rgb from {says}", "Each finished modality conditions the next; rgb comes last.", ways)
    if shape and "color_palette" in have:
        columns = tuple(
            Column(name, (shape,), (("color_palette", text),), (("guidance", 2.0),)) for name, text in PALETTES.items()
        )
        yield Stop(
            f"Palettes: rgb from {shape} and three colours",
            "The same edges, another palette.",
            (Column("none", (shape,)), *columns),
        )
    if shape and "metadata" in have:
        columns = tuple(
            Column(f"brightness {b}", (shape,), (("metadata", f"brightness={b}"),), (("guidance", 3.0),))
            for b in (30, 120, 220)
        )
        yield Stop(
            f"Metadata: rgb from {shape} and a brightness", "One field is given, the rest is left open.", columns
        )
    columns = tuple(Column(f"{region} given", given=((TARGET, region),)) for region in REGIONS)
    yield Stop("Inpainting: rgb from a part of itself", "What was given stays; the rest is filled in.", columns)


def tour(ds: Dataset, predictor: Predictor, model: str, spots: Sequence[Spot], seed: int, view_seed: int) -> Sheet:
    """The page. ConfigError where the model does not predict rgb."""
    predictor.stream(f"tok_{TARGET}")
    have = {n.removeprefix("tok_") for n in Lexicon(ds).recipes if n in predictor.streams}
    pictures = pictures_of(ds, spots, 0, view_seed)
    sections = []
    for stop in stops(have):
        heads, marks = ["photo"], [""]
        table: list[list[Cell | None]] = [[Picture(pictures[s]) if s in pictures else None] for s in spots]
        for column in stop.columns:
            common = {"steps": STEPS, "temperature": 1.0, "top_p": 0.9, "seed": seed, **dict(column.common)}
            targets = [*column.before, TARGET]
            order = make_order(ds, column.sources, targets, dict(column.given), common, [], True, True, 0, 0, 1, model)
            job = Job(ds, predictor, order)
            results = list(job.run(spots))
            made = job.lexicon.decode(f"tok_{TARGET}", [r.tokens[0][f"tok_{TARGET}"] for r in results])
            shown = given_cells(job, spots, pictures)
            own = column is stop.columns[0] or bool(column.given)
            for name, cells in shown.items() if own else ():
                if name.removeprefix("tok_") in column.sources and column is not stop.columns[0]:
                    continue
                heads.append(name.removeprefix("tok_"))
                marks.append("given")
                for row, cell in zip(table, cells, strict=True):
                    row.append(cell)
            heads.append(column.head)
            marks.append("generated")
            for row, label, result in zip(table, made, results, strict=True):
                cell = label_cell(job.lexicon, f"tok_{TARGET}", label)
                row.append(cell if cell is not None else Words(result.reasons[f"tok_{TARGET}"], muted=True))
        rows = [Row(ds.index(k)[i].uri.rsplit("/", 1)[-1], cells) for (k, i), cells in zip(spots, table, strict=True)]
        sections.append(Section(stop.title, heads, rows, stop.note, marks))
    record = predictor.record
    facts = [
        ("checkpoint", f"{model}, step {record['step']}, sha256 {record['sha256'][MODEL]}"),
        ("decoding", f"{STEPS} rounds, cosine, temperature 1, top-p 0.9, seed {seed}; what differs is in the heads"),
    ]
    return Sheet(
        "What steers the model",
        sections,
        f"rgb, made in {sum(len(s.columns) for s in stops(have))} ways",
        facts=facts,
        made=stamp(),
    )
