"""Commands that judge a trained model, and what it is good for elsewhere: transfer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.data import AsJson, Assign, Target, settings
from pipeline.cli.use import From, ModelName, listed, model_of

Task = Annotated[str, typer.Option("--task", help="classify, segment or depth.")]
Labels = Annotated[
    str,
    typer.Option("--labels", help="classify: a CSV of `file name or id,class`, or det (classes shown), det:person."),
]
Setting = Annotated[
    list[str] | None, typer.Option("--with", help="Of the fit: steps=400, lr=0.0005, batch=32, test=0.3.")
]


def transfer(
    target: Target, task: Task = "classify", labels: Labels = "det", sources: From = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Only the head learns.")] = False,
    scratch: Annotated[bool, typer.Option("--scratch", help="The same encoder from nothing, to compare with.")] = False,
    setting: Setting = None,
    name: Annotated[str | None, typer.Option("--name", help="Kept under _transfers/NAME.")] = None,
    export: Annotated[str | None, typer.Option("--export", help="Write the encoder for transformers here.")] = None,
    model: ModelName = None, assign: Assign = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Fit a head on the encoder, from RGB alone or with other modalities, for a task of your own; export the encoder."""
    report = run_transfer(
        settings(target, assign), task, labels, listed(sources) or ["rgb"], frozen, scratch, setting or [], name, export, model,
        quiet=as_json,
    )  # fmt: skip
    if as_json:
        from pipeline.cli.console import print_json

        print_json(report)
    else:
        print(report["folder"])


def run_transfer(
    config: Any, task: str, labels: str, sources: list[str], frozen: bool = False, scratch: bool = False,
    options: list[str] | None = None, name: str | None = None, export: str | None = None, model: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Fit with progress; the JSON-ready report."""
    import yaml

    from pipeline.cli.console import bars, err, table
    from pipeline.cli.use import pairs
    from pipeline.config import validate
    from trainer.transfer.fit import TransferConfig
    from trainer.transfer.job import keep, run

    chosen, ds, predictor = model_of(config, model)
    values = {key: yaml.safe_load(value) for key, value in pairs(options, "--with").items()}
    settings_ = validate(TransferConfig, {**values, "frozen": frozen, "scratch": scratch}, "--with")
    with bars(f"Transfer from {chosen} to {task}", "steps", quiet) as progress:
        done = run(ds, config.tokens.seed, predictor, task, labels, sources, settings_, progress)
    words = [task, *sources, *(["scratch"] if scratch else []), *(["frozen"] if frozen else [])]
    folder = keep(
        ds, done, name or "-".join(words), chosen, predictor.record, settings_, Path(export) if export else None
    )
    title = f"{done.task}: {done.result.train} samples to learn from, {done.result.test} to judge by"
    table(title, ("score", "value"), [(n, f"{v:.4f}") for n, v in done.result.scores.items()])
    if export:
        err.print(f"  for transformers: {export}", markup=False)
    return {
        "task": done.task, "from": sources, "frozen": frozen, "scratch": scratch, "train": done.result.train,
        "test": done.result.test, "scores": done.result.scores, "folder": str(folder), "export": export,
    }  # fmt: skip
