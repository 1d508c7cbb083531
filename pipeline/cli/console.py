"""What the command line prints: progress bars on a terminal, plain lines elsewhere, a summary table always."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

# Piped output has no width of its own; 120 columns keep the tables in one piece.
err = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else 120)
out = Console(highlight=False, soft_wrap=True)
LINE_EVERY_S = 3.0


class Bars:
    """Progress of named steps: `bars(step, done, total, note)`, total 0 while it is unknown. On a terminal a bar each;
    elsewhere a line every few seconds.
    """

    def __init__(self, live: Progress | None, unit: str) -> None:
        self.live, self.unit, self.tasks = live, unit, dict[str, Any]()
        self.started: dict[str, float] = {}
        self.said: dict[str, float] = {}

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        start = self.started.setdefault(step, now)
        if self.live is not None:
            task = self.tasks.get(step)
            if task is None:
                task = self.tasks[step] = self.live.add_task(step, total=total or None, note="")
            self.live.update(task, completed=done, total=total or None, note=note[:60])
            return
        if note or done >= total > 0 or now - self.said.get(step, start) >= LINE_EVERY_S:
            self.said[step] = now
            rate = f", {done / (now - start):.1f} {self.unit}/s" if now - start > 0.5 else ""
            err.print(
                f"  {step}: {done}{f'/{total}' if total else ''} {self.unit}{rate}{' - ' + note if note else ''}",
                markup=False,
            )


@contextlib.contextmanager
def bars(title: str, unit: str = "shards", quiet: bool = False) -> Iterator[Bars]:
    """Bars under a title line, on stderr."""
    err.print(title, style="bold", markup=False)
    if quiet or not sys.stderr.isatty():
        yield Bars(None, unit)
        return
    columns = (
        TextColumn("  {task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=False) as live:
        yield Bars(live, unit)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A summary table on stderr; stdout is left to what a program reads."""
    grid = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    for name, right in zip(columns, numeric, strict=True):
        grid.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        grid.add_row(
            *(f"{v:,.1f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else escape(str(v)) for v in row)
        )
    err.print(grid)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str))
