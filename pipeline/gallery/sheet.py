"""A static HTML page of cells in tables: what was generated, what was found, how something was scored.

Like the gallery it loads nothing and runs nothing; pictures are data URIs, every text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from labelers.core.show import Cell, Picture
from pipeline.gallery.page import FORBIDDEN, KeyFigure, environment, read_text, write_whole


@dataclass(frozen=True)
class Row:
    """One line of a table: its head in words, a note under it, and a cell (or None) a column."""

    head: str
    cells: Sequence[Cell | None]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One table. columns: their heads; marks: a word under a head, "given" or "generated"."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    note: str = ""
    marks: Sequence[str] = ()


@dataclass(frozen=True)
class Sheet:
    """A page. facts: lines of what made it: model, digest, schedule, seed. chart: a plot above the tables."""

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
    figures: Sequence[KeyFigure] = ()
    facts: Sequence[tuple[str, str]] = ()
    made: str = ""
    chart: Picture | None = None


def render_sheet(sheet: Sheet, out: Path) -> int:
    """Write the page to `out`, whole or not at all, and return its size in bytes."""
    html = environment().get_template("sheet.html.j2").render(s=sheet, css=Markup(read_text("style.css")))
    return write_whole(FORBIDDEN.sub("\ufffd", html).encode(), out)
