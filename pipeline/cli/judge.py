"""Commands that judge a trained model, and what it is good for elsewhere: evaluate, transfer."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from pipeline.cli.options import AsJson, Assign, Target, settings
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
    export: Annotated[str | None, typer.Option("--export", help="Write the encoder for transformers here, or to s3://.")] = None,
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
    folder = keep(ds, done, name or "-".join(words), chosen, predictor.record, settings_, export)
    title = f"{done.task}: {done.result.train} samples to learn from, {done.result.test} to judge by"
    table(title, ("score", "value"), [(n, f"{v:.4f}") for n, v in done.result.scores.items()])
    if export:
        err.print(f"  for transformers, after `import trainer.transfer.hub`: {export}", markup=False)
    return {
        "task": done.task, "from": sources, "frozen": frozen, "scratch": scratch, "train": done.result.train,
        "test": done.result.test, "scores": done.result.scores, "folder": folder, "export": export,
    }  # fmt: skip


def evaluate(
    target: Target, sources: From = None,
    to: Annotated[list[str] | None, typer.Option("--to", help="Modalities to evaluate; default: every one with tokens.")] = None,
    truth: Annotated[
        list[str] | None, typer.Option("--truth", help="MODALITY@RECIPE that is the ground truth; default: what was imported.")
    ] = None,
    classes: Annotated[str | None, typer.Option("--classes", help="CSV of `file name or id,class`, for kNN.")] = None,
    rows: Annotated[int, typer.Option("--rows", help="Samples that were held out; 0 for all of them.")] = 64,
    everything: Annotated[bool, typer.Option("--with-learned", help="Also samples the model learned from.")] = False,
    variants: Annotated[int, typer.Option("--variants", help="Predictions a sample, ensembled.")] = 1,
    steps: Annotated[int, typer.Option("--steps", help="Rounds of decoding.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token.")] = 0.0,
    guidance: Annotated[float, typer.Option("--guidance", help="Classifier-free guidance.")] = 1.0,
    view: Annotated[int, typer.Option("--view", help="The view everything is compared in.")] = 0,
    labels_only: Annotated[bool, typer.Option("--labels-only", help="Ask no model: labels, truth, tokenizers.")] = False,
    model: ModelName = None, out: Annotated[str | None, typer.Option("--out", help="Where to write the page.")] = None,
    assign: Assign = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """The table of published tasks: model against labels, labels against ground truth, tokenizer bound; a plot and JSON."""
    options = {"steps": steps, "temperature": temperature, "guidance": guidance}
    report = run_evaluate(
        settings(target, assign), listed(sources) or ["rgb"], listed(to), truth or [], classes, rows, everything, variants,
        options, view, labels_only, model, out, quiet=as_json,
    )  # fmt: skip
    if as_json:
        from pipeline.cli.console import print_json

        print_json(report)
    else:
        print(report["page"])


def run_evaluate(
    config: Any, sources: list[str], targets: list[str], truth: list[str] | None = None, classes: str | None = None,
    rows: int = 64, everything: bool = False, variants: int = 1, options: dict[str, Any] | None = None, view: int = 0,
    labels_only: bool = False, model: str | None = None, out: str | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate with progress; the JSON-ready table. Writes the page, the plot beside it (.png) and the table (.json)."""
    import json

    from PIL import Image

    from pipeline.cli.console import bars, table
    from pipeline.cli.pages import keep_page
    from pipeline.dataset import Dataset
    from pipeline.errors import ConfigError
    from pipeline.gallery.sheet import render_sheet
    from trainer.checkpoint import MODEL
    from trainer.evaluation.job import COLUMNS, Evaluation, truths_of
    from trainer.evaluation.page import plot, sheet_of
    from trainer.generate.decoding import Decoding
    from trainer.generate.order import held_share, pick_spots
    from trainer.transfer.tasks import Classify

    if labels_only:
        ds, predictor, about = Dataset.open(config.root), None, [("model", "none")]
    else:
        name, ds, predictor = model_of(config, model)
        about = [("model", f"{name}, step {predictor.record['step']}, sha256 {predictor.record['sha256'][MODEL]}")]
    how = Decoding(**(options or {}))
    judged = Evaluation(
        ds, predictor, sources, targets, config.tokens.seed, how=how, variants=variants, view=view,
        truths=truths_of(ds, truth or []), classes=Classify(classes, "--classes").by_name if classes else None,
    )  # fmt: skip
    held = held_share(config.tokens.holdout, predictor.record if predictor is not None else None)
    spots = pick_spots(ds, held, rows, [], learned=everything or predictor is None)
    if not spots:
        raise ConfigError(
            "evaluate: no photo was kept out of training; judge those it learned from with --with-learned"
        )
    with bars(f"Evaluate {config.root}", "modalities", quiet) as progress:
        found = judged.run(spots, progress)
    if predictor is not None:
        asked = {"predicted from": ", ".join(sources), "decoding": json.dumps(options or {}), "variants": str(variants)}
        about += asked.items()
    sheet, chart = sheet_of(found, about), plot(found)
    report = {**found.to_json(), "about": dict(about)}
    report["page"] = keep_page(ds, "evaluation.html", out, lambda path: render_sheet(sheet, path))
    beside = {end: f"{os.path.splitext(out)[0]}{end}" if out else None for end in (".png", ".json")}
    if chart is not None:
        picture = Image.fromarray(chart)
        report["plot"] = keep_page(ds, "evaluation.png", beside[".png"], lambda path: picture.save(path, "PNG"))
    text = json.dumps(report, indent=1) + "\n"
    keep_page(ds, "evaluation.json", beside[".json"], lambda path: path.write_text(text, encoding="utf-8"))
    lines = [
        (
            row["task"] or f"{row['modality']} {row['score']}",
            *("" if row[c] is None else f"{row[c]:.4g}" for c in COLUMNS),
        )
        for row in report["rows"]
    ]
    table(f"{found.samples} samples", ("score", *(c.replace("_", " ") for c in COLUMNS)), lines)
    return report
