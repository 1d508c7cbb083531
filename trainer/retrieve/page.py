"""The page of `manymodal retrieve`: each query with what the model was given, and the photos it found."""

from __future__ import annotations

from labelers.core.show import Cell, Picture, Words
from pipeline.gallery.page import KeyFigure
from pipeline.gallery.sheet import Row, Section, Sheet
from trainer.generate.job import Job
from trainer.generate.order import pictures_of
from trainer.generate.page import facts, given_cells, stamp
from trainer.retrieve.index import VectorIndex
from trainer.retrieve.job import Retrieved

SHOWN = 30
GIVEN = "given"  # a query that is of no photo


def sheet_of(job: Job, index: VectorIndex, result: Retrieved, seed: int) -> Sheet:
    """The first queries, with their neighbours, nearest first."""
    spots = list(result.vectors.spots[:SHOWN])
    hits = [[index.spots[n] for n in row if n >= 0] for row in result.found.rows[: len(spots)]]
    pictures = pictures_of(job.ds, sorted({*spots, *(spot for row in hits for spot in row)}), 0, seed)
    asked = pictures_of(job.ds, spots, job.order.view, seed)
    given = given_cells(job, spots, asked)
    most = max((len(row) for row in hits), default=0)
    rows = []
    for i, (spot, row) in enumerate(zip(spots, hits, strict=True)):
        own = job.of_samples
        cells: list[Cell | None] = [Picture(asked[spot]) if own and spot in asked else None]
        cells += [cells_of[i] for cells_of in given.values()]
        for place, hit in enumerate(row):
            note = f"{result.found.cosine[i, place]:.3f}" + (", itself" if own and hit == spot else "")
            cells.append(Picture(pictures[hit], note) if hit in pictures else Words("removed", muted=True))
        rows.append(Row(job.ds.index(spot[0])[spot[1]].uri.rsplit("/", 1)[-1] if own else GIVEN, cells))
    names = [name.removeprefix("tok_") for name in given]
    columns = ["photo", *names, *(str(n + 1) for n in range(most))]
    marks = [f"view {job.order.view}", *("given" for _ in names), *("found" for _ in range(most))]
    figures = [KeyFigure(f"{v:.3g}", name.replace("_", " ")) for name, v in result.figures.items()]
    what = ", ".join(f"{name} {value}" for name, value in index.record.items())
    return Sheet(
        f"Nearest by {index.record['modality']}", [Section("Queries", columns, rows, marks=marks)],
        f"predicted from {', '.join(names) or 'nothing'}, among {len(index.ids)} samples", figures,
        [("index", what), *facts(job)], stamp(),
    )  # fmt: skip
