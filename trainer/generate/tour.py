"""`manymodal generate --tour`: one page that shows what steers a model, on photos of the data set.

Guidance, chaining, palettes, metadata and inpainting, each as far as the data set has the modalities for it, beside the
same generation without it, and with numbers that say how far the result follows (see stops.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from labelers.core.modality import Label, Null
from labelers.core.show import Cell, Picture, Words
from pipeline.dataset import Dataset
from pipeline.gallery.page import KeyFigure
from pipeline.gallery.sheet import Row, Section, Sheet
from trainer.checkpoint import MODEL
from trainer.generate.contrast import contrasting
from trainer.generate.decoding import Part
from trainer.generate.given import region
from trainer.generate.job import Job, Result, Spot
from trainer.generate.order import make_order, pictures_of
from trainer.generate.page import given_cells, label_cell, stamp
from trainer.generate.stops import Made, Numbers, Stop, Way, stops
from trainer.lexicon import Lexicon
from trainer.predict import Predictor, trained_targets

STEPS = 12
USUAL = {"steps": STEPS, "temperature": 1.0, "top_p": 0.9}


class Tour:
    """The page in the making. seed: of the noise, the same for every way of a sample."""

    def __init__(self, ds: Dataset, predictor: Predictor, model: str, spots: Sequence[Spot], seed: int) -> None:
        self.ds, self.predictor, self.model, self.spots, self.seed = ds, predictor, model, list(spots), seed
        self.lexicon = Lexicon(ds)

    def have(self) -> set[str]:
        """The modalities that data set and model share, and that the model learned to predict."""
        names = list(self.predictor.streams)
        asked = trained_targets(self.predictor.record, names)
        return {n.removeprefix("tok_") for n in self.lexicon.recipes if n in names and (asked is None or n in asked)}

    def job(self, way: Way, target: str) -> Job:
        common = {**USUAL, "seed": self.seed, **dict(way.common)}
        targets = [*way.before, target]
        order = make_order(
            self.ds, way.sources, targets, dict(way.given), common, way.special, way.chain, True, 0, 0, 1, self.model
        )
        return Job(self.ds, self.predictor, order)

    def make(self, job: Job, way: Way, target: str) -> tuple[list[Result], list[Made]]:
        """What a way makes of every sample."""
        results = list(job.run(self.spots))
        name = f"tok_{target}"
        own_ids = [job.own(name, spot) for spot in self.spots]
        parts = [self._part(name, way, target, ids, r.id) for ids, r in zip(own_ids, results, strict=True)]
        for result, part in zip(results, parts, strict=True):
            tokens = result.tokens[0][name]
            if way.pasted and part is not None and tokens is not None:
                result.tokens[0][name] = np.where(part.known, part.ids, tokens)
        names = [f"tok_{n}" for n in (*way.before, target)]
        decoded = {n: self.lexicon.decode(n, [r.tokens[0][n] for r in results]) for n in names}
        own = self.lexicon.decode(name, own_ids)
        made: list[Made] = []
        for i, part in enumerate(parts):
            labels = {n.removeprefix("tok_"): label for n in names if (label := _real(decoded[n][i])) is not None}
            if part is None and (way.pasted or way.given_of(target)):
                labels = {}  # the sample has nothing to be given
            made.append(Made(labels, _real(own[i]), part, self.lexicon.spec(name).grid))
        return results, made

    def _part(self, name: str, way: Way, target: str, own: np.ndarray | None, id: str) -> Part | None:
        text = way.pasted or way.given_of(target)
        return None if own is None or not text else Part(own, region(self.lexicon.spec(name), text, id))

    # -- the page

    def section(self, stop: Stop, pictures: dict[Spot, np.ndarray]) -> tuple[Section, list[KeyFigure]]:
        """One stop as a table, and what it comes to."""
        heads: list[str] = []
        marks: list[str] = []
        above: list[Cell | None] = []  # what all photos are given alike
        table: list[list[Cell | None]] = [[] for _ in self.spots]
        numbers: dict[str, list[Numbers]] = {}
        seen: set[str] = {"tok_rgb"}

        def column(head: str, mark: str, cells: Sequence[Cell | None], top: Cell | None = None) -> None:
            heads.append(head)
            marks.append(mark)
            above.append(top)
            for row, cell in zip(table, cells, strict=True):
                row.append(cell)

        if stop.of_photos:
            column("photo", "", [Picture(pictures[s]) if s in pictures else None for s in self.spots])
        for way in stop.ways:
            job = self.job(way, stop.target)
            results, made = self.make(job, way, stop.target)
            found = [stop.measure(way, one) if len(one.labels) > len(way.before) else {} for one in made]
            numbers[way.head] = found
            top: Cell | None = None
            for name, cells in given_cells(job, self.spots, pictures).items():
                text, short = dict(way.given).get(name.removeprefix("tok_"), ""), name.removeprefix("tok_")
                if text and short != stop.target:
                    top = cells[0]
                elif f"{name}{text}" not in seen:
                    column(short, "given", cells)
                seen.add(f"{name}{text}")
            for name in way.before:
                if name not in seen:
                    column(name, "generated first", [self._cell(name, one, {}) for one in made])
                seen.add(name)
            why = [r.reasons[f"tok_{stop.target}"] for r in results]
            cells = [
                self._cell(stop.target, one, _written(stop, own))
                or Words(reason or "none, or no whole one was drawn", muted=True)
                for one, own, reason in zip(made, found, why, strict=True)
            ]
            column(way.head, "generated", cells, top)
            if any(found) and not any(isinstance(cell, Picture) for cell in cells):
                column(way.head, "measured", [Words(_words(_written(stop, one))) if one else None for one in found])
        names = [
            self.ds.index(k)[i].uri.rsplit("/", 1)[-1] if stop.of_photos else f"noise {n}"
            for n, (k, i) in enumerate(self.spots, 1)
        ]
        rows = [Row(name, cells) for name, cells in zip(names, table, strict=True)]
        if any(above):
            rows.insert(0, Row("given to all", above))
        return Section(stop.title, heads, rows, stop.note, marks), _figures(stop, numbers)

    def _cell(self, target: str, made: Made, numbers: Numbers) -> Cell | None:
        if target not in made.labels:
            return None
        cell = label_cell(self.lexicon, f"tok_{target}", made.labels[target])
        return replace(cell, caption=_words(numbers)) if isinstance(cell, Picture) else cell


def tour(ds: Dataset, predictor: Predictor, model: str, spots: Sequence[Spot], seed: int, view_seed: int) -> Sheet:
    """The page. ConfigError where the model does not predict rgb."""
    predictor.require_target("tok_rgb")
    made = Tour(ds, predictor, model, spots, seed)
    pictures = pictures_of(ds, spots, 0, view_seed)
    record = predictor.record
    have = made.have()
    holdout = record.get("config", {}).get("holdout", 0.0)
    palettes = contrasting(ds, holdout) if "color_palette" in have else {}
    done = [made.section(stop, pictures) for stop in stops(have, palettes)]
    facts = [
        ("checkpoint", f"{model}, step {record['step']}, sha256 {record['sha256'][MODEL]}"),
        (
            "decoding",
            f"{STEPS} rounds, cosine, temperature 1, top-p 0.9, seed {seed}; what differs is in the heads and notes",
        ),
    ]
    return Sheet(
        "What steers the model", [section for section, _ in done],
        f"the same generation with and without, means over {len(made.spots)} photos",
        [figure for _, figures in done for figure in figures], facts, stamp(),
    )  # fmt: skip


def _written(stop: Stop, numbers: Numbers) -> Numbers:
    """What is written under a picture."""
    return {name: value for name, value in numbers.items() if name != stop.hits}


def _words(numbers: Numbers) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in numbers.items())


def _real(label: Label | Null | None) -> Label | None:
    return None if isinstance(label, Null) else label


def _figures(stop: Stop, numbers: dict[str, list[Numbers]]) -> list[KeyFigure]:
    """Means without and with, over the samples that have both."""
    found = []
    kind = stop.title.partition(":")[0].lower()
    if stop.hits:
        hits = [one[stop.hits] for made in numbers.values() for one in made if stop.hits in one]
        asked = len(stop.ways) - 1
        label = f"{kind}: the palette asked for is the {stop.hits} of the {asked}"
        found.append(KeyFigure(f"{sum(hits):.0f} of {len(hits)}", label, f"by chance {len(hits) / asked:.0f}"))
    for number, without, steered in stop.pairs:
        name = number or next((n for one in numbers[steered] for n in one), "")
        both = [
            (a[name], b[name])
            for a, b in zip(numbers[without], numbers[steered], strict=True)
            if name in a and name in b
        ]
        value = " → ".join(f"{mean:.3g}" for mean in np.mean(both, axis=0)) if both else "-"
        label = f"{kind}: {name.replace('_', ' ')}, {without} → {steered}"
        found.append(KeyFigure(value, label, f"{len(both)} of {len(numbers[steered])} photos"))
    return found
