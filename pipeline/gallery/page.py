"""One static HTML file: what a run made, how long it took, and every photo as label, decoded tokens and prediction.

`Gallery` is plain data, gathered elsewhere; `render_page` turns it into a page that loads nothing and runs nothing:
no script, no font, no remote picture. Pictures are data URIs, every text is escaped, and the Content-Security-Policy
forbids the rest. Given up for that: zooming and sorting.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from labelers.core.show import Cell, Picture, Swatches
from pipeline.gallery import plots
from pipeline.gallery.cells import column_kind, count, duration, render_cell, render_chart, render_photo

# HTML and UTF-8 cannot carry these; a caption or a file name may hold them.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")

KINDS = (
    ("label", "label", "what the labeler made"),
    ("decoded", "decoded", "the label's tokens, decoded back"),
    ("predicted", "from RGB", "what the model predicts when it sees RGB alone"),
)


@dataclass(frozen=True)
class KeyFigure:
    """One large number of the header: value "17", label "photos", note "3 held out of training"."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """One stage of the run, in order. seconds: wall time. items: how many `unit`s ("photos") it worked through."""

    name: str
    seconds: float
    items: int = 0
    unit: str = ""


@dataclass(frozen=True)
class CoverageRow:
    """What made one modality, and how much of it exists.

    weights: sha256 of the weights file, "" where there are none; source: the URL it came from. committed: samples in
    committed shards, labels and nulls together, of `total`. nulls: reason -> how many samples. tokens: mean number in a
    view, None where the modality is not tokenized. vocab: codes a token can take. codebook_used: share 0..1 of codes in
    use. reconstruction: decoded tokens against labels of held-out photos, with its unit: "20.4 dB PSNR".
    """

    modality: str
    backend: str
    recipe: str
    committed: int
    total: int
    weights: str = ""
    source: str = ""
    licence: str = ""
    nulls: Mapping[str, int] = field(default_factory=dict)
    tokens: float | None = None
    vocab: int | None = None
    codebook_used: float | None = None
    reconstruction: str = ""


@dataclass(frozen=True)
class Ingest:
    """What became of the inputs. duplicates: inputs seen before, byte for byte. quarantined: (uri, reason) pairs."""

    samples: int
    duplicates: int = 0
    quarantined: Sequence[tuple[str, str]] = ()
    source: str = ""


@dataclass(frozen=True)
class FitCurve:
    """Fitting of one tokenizer: loss at evenly spaced steps, wall time, and the held-out result in words."""

    modality: str
    losses: Sequence[float]
    seconds: float
    result: str = ""


@dataclass(frozen=True)
class Loss:
    """Cross-entropy of a model, nats a token, and of the guess that sees nothing: codes as often as in training."""

    model: float
    unigram: float


@dataclass(frozen=True)
class StreamLoss:
    """Held-out cross-entropy of one token stream. views: on crops, never trained on, of the training photos; photos: on
    photos that were never trained on; None where nothing was held out. uniform: of every code equally likely. repeated:
    share of those crops that have the very tokens of another crop, as a caption does.
    """

    modality: str
    uniform: float
    views: Loss | None = None
    photos: Loss | None = None
    repeated: float = 0.0


@dataclass(frozen=True)
class TrainSummary:
    """The training run: loss at each of `steps`, held-out losses by stream, the model in words ("6.1 M parameters")."""

    steps: Sequence[int]
    losses: Sequence[float]
    streams: Sequence[StreamLoss] = ()
    held_out_steps: Sequence[int] = ()
    held_out_losses: Sequence[float] = ()
    model: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class CellTriple:
    """One photo in one modality. Words(reason, muted=True) explains an empty place; None says only that it is empty."""

    label: Cell | None = None
    decoded: Cell | None = None
    predicted: Cell | None = None


@dataclass(frozen=True)
class PhotoRow:
    """One photo. held_out: left out of tokenizer fitting and training. cells: by column; a column may be missing."""

    id: str
    photo: Picture
    cells: Mapping[str, CellTriple]
    uri: str = ""
    caption: str = ""
    held_out: bool = False


@dataclass(frozen=True)
class Gallery:
    """Everything the page shows. columns: modalities in order. warnings: what to know first. made: the footer.

    photos: heading of the table of photos, row: what one of its rows is. kinds: the cells of a triple that it has a line
    for: field, name, explanation; a kind that no photo has any cell of gets none, unless it is the first.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[PhotoRow]
    subtitle: str = ""
    figures: Sequence[KeyFigure] = ()
    stages: Sequence[Stage] = ()
    coverage: Sequence[CoverageRow] = ()
    ingest: Ingest | None = None
    fits: Sequence[FitCurve] = ()
    train: TrainSummary | None = None
    warnings: Sequence[str] = ()
    made: str = ""
    photos: str = "Every photo in every modality"
    row: str = "photo"
    kinds: Sequence[tuple[str, str, str]] = KINDS


def render_page(gallery: Gallery, out: Path) -> int:
    """Write the page to `out`, whole or not at all, and return its size in bytes. Held-out photos come first."""
    rows = sorted(gallery.rows, key=lambda row: not row.held_out)  # stable: the given order within each part
    html = environment().get_template("template.html.j2").render(
        g=gallery, rows=rows, kinds=_kinds(gallery), css=Markup(read_text("style.css")), hero=_hero(gallery, rows),
        column_kinds={c: column_kind(_cells_of(rows, c)) for c in gallery.columns},
        backends={row.modality: row for row in gallery.coverage}, plots=plots,
    )  # fmt: skip
    return write_whole(FORBIDDEN.sub("\ufffd", html).encode(), out)


def write_whole(data: bytes, out: Path) -> int:
    """Write a page to `out`, whole or not at all, and return its size in bytes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o644)  # mkstemp makes it private; a page is there to be shown
        os.replace(temporary, out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return len(data)


def _kinds(gallery: Gallery) -> list[tuple[str, str, str]]:
    """The lines of a photo: where nothing is tokenized or trained, three of four cells would say so again and again."""
    triples = [triple for row in gallery.rows for triple in row.cells.values()]
    return [k for i, k in enumerate(gallery.kinds) if i == 0 or any(getattr(t, k[0]) is not None for t in triples)]


def _cells_of(rows: Sequence[PhotoRow], column: str) -> list[Cell]:
    triples = [row.cells[column] for row in rows if column in row.cells]
    return [cell for t in triples for cell in (t.label, t.decoded, t.predicted) if cell is not None]


def _hero(gallery: Gallery, rows: Sequence[PhotoRow]) -> tuple[PhotoRow, list[tuple[str, Cell]]] | None:
    """The photo at the top and the labels that can be seen: the row with the most pictures, a held-out one if equal."""
    best: tuple[PhotoRow, list[tuple[str, Cell]]] | None = None
    for row in rows:
        labels = [(c, row.cells[c].label) for c in gallery.columns if c in row.cells and c != "rgb"]
        seen: list[tuple[str, Cell]] = [(c, cell) for c, cell in labels if isinstance(cell, Picture | Swatches)]
        if seen and (best is None or len(seen) > len(best[1])):
            best = row, seen
    return best


def read_text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates of this folder, with the filters that draw cells; every text is escaped."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters.update(cell=render_cell, photo=render_photo, chart=render_chart, count=count, duration=duration)
    return made
