"""Arguments and options that several commands share, and the configuration they lead to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Target = Annotated[str, typer.Argument(help="A data set's root, or a YAML config.", show_default=False)]
Assign = Annotated[list[str] | None, typer.Option("--set", help="Override one setting, e.g. --set tokens.views=8.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Run = Annotated[str | None, typer.Option("--executor", help="ray (default) or local.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="Only this modality and what it reads; repeatable.")]


def settings(target: str, assign: list[str] | None, executor: str | None = None) -> Any:
    """The configuration a command works with."""
    from pipeline.config import load_config

    return load_config(target, [*(assign or []), *([f"executor={executor}"] if executor else [])])
