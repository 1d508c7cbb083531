"""Commands that learn: fit tokenizers, turn labels into tokens, train the model."""

from __future__ import annotations

import os
import time
from typing import Annotated, Any

import typer

from pipeline.cli.data import carded, finish
from pipeline.cli.options import AsJson, Assign, Run, Target, settings

Tokens = Annotated[
    list[str] | None, typer.Option("--only", help="Only this token modality (tok_rgb), or pattern; fit: also text.")
]
Workers = Annotated[int | None, typer.Option("--workers", help="Processes that fit together, under Ray Train.", min=1)]
Refit = Annotated[bool, typer.Option("--again", help="Fit anew even where the manifest has a tokenizer.")]


def fit(
    target: Target,
    names: Annotated[list[str] | None, typer.Argument(help="As --only: rgb, tok_depth, text; everything if none.")] = None,
    only: Tokens = None, again: Refit = False, workers: Workers = None, assign: Assign = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Fit the tokenizers that are missing, on the data set's own labels. A fit that was killed goes on."""
    config = settings(target, assign)
    if workers:
        config.tokens.fit_workers = workers
    named = [name if name == "text" or name.startswith("tok_") else f"tok_{name}" for name in names or ()]
    fits = run_fit(config, [*named, *(only or [])], again, quiet=as_json)
    if as_json:
        from pipeline.cli.console import print_json

        print_json({"fits": fits})


def run_fit(config: Any, only: list[str], again: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Fit with progress; token modality -> report."""
    from pipeline.cli.console import bars, table
    from pipeline.dataset import Dataset
    from pipeline.run import record_run
    from tokenize_shards.fit import fit_all, fit_together

    ds, start = Dataset.open(config.root), time.monotonic()
    if config.tokens.fit_workers > 1:
        fits = fit_together(ds, config, only, again)
    else:
        with bars(f"Fit tokenizers of {config.root}", "%", quiet) as progress:
            fits = fit_all(ds, config, only, again, progress)
    if fits:
        record_run(ds, config, "fit", seconds=round(time.monotonic() - start, 2), items=len(fits))
    rows = [
        (
            n,
            f["kind"],
            f["steps"],
            float(f["seconds"]),
            f"{f['codebook_used']:.0%}",
            ", ".join(f"{k} {v:.3g}" for k, v in f["metrics"].items()),
        )
        for n, f in fits.items()
    ]
    table(f"fit: {len(fits)} tokenizers fitted", ("tokens", "kind", "steps", "seconds", "codes used", "held-out"), rows)
    return fits


def tokenize(
    target: Target,
    only: Tokens = None,
    executor: Run = None,
    assign: Assign = None,
    back: Annotated[bool, typer.Option("--decode", help="The other way: tokens back into labels, for `diff`.")] = False,
    view: Annotated[int, typer.Option("--view", help="With --decode: the view to decode.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Encode every view into token shards. Run it again to resume; a second run does nothing."""
    if back:
        finish(run_decode(settings(target, assign, executor), only or [], view, quiet=as_json), as_json)
        return
    finish(run_tokenize(settings(target, assign, executor), only or [], quiet=as_json), as_json)


def run_tokenize(config: Any, only: list[str], quiet: bool = False) -> Any:
    """Tokenize with progress bars; the report."""
    from pipeline.cli.console import bars
    from pipeline.dataset import Dataset
    from tokenize_shards.tokenize import tokenize as run

    ds = Dataset.open(config.root)
    before = ds.manifest().version
    with bars(f"Tokenize {config.root}", "shards", quiet) as progress:
        report = run(ds, config, only, progress)
    return carded(ds, before, report)


def run_decode(config: Any, only: list[str], view: int = 0, quiet: bool = False) -> Any:
    """Decode with progress bars, and say how to compare; the report."""
    from pipeline.cli.console import bars, err
    from pipeline.dataset import Dataset
    from tokenize_shards.decode import decode

    ds = Dataset.open(config.root)
    with bars(f"Decode {config.root}", "shards", quiet) as progress:
        report, made = decode(ds, config, only, view, progress)
    for name, recipe in made:
        err.print(f"  {name}@{recipe}: manymodal diff {config.root} {name}@{recipe} {name}", markup=False)
    return report


def train(
    target: Target,
    assign: Assign = None,
    again: Annotated[
        bool, typer.Option("--again", help="Start anew, even where there is something to go on from.")
    ] = False,
    sweep: Annotated[
        str, typer.Option(help="Train several sizes for equal tokens and plot them: --sweep tiny,S,B.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what it would take.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train the any-to-any model on the token shards. Run it again to resume; a second run does nothing.

    Settings: --set train.steps=400 and so on; several processes: --set train.workers=2.
    """
    from pipeline.cli.console import print_json

    config = settings(target, assign)
    if sweep:
        report = run_sweep(config, sweep.split(","), again, quiet=as_json, dry=dry_run)
    else:
        report = run_train(config, again, quiet=as_json, dry=dry_run)
    if as_json and _first():
        print_json(report)


def _first() -> bool:
    """Whether this is the process that reports, of those that torchrun starts."""
    return os.environ.get("RANK", "0") == "0"


def train_settings(config: Any) -> Any:
    """The trainer's settings of a data set's configuration, checked."""
    from pipeline.config import validate
    from trainer.config import TrainConfig

    return validate(TrainConfig, {"holdout": config.tokens.holdout, **config.train}, "train")


def run_train(config: Any, again: bool = False, quiet: bool = False, dry: bool = False) -> dict[str, Any]:
    """Train with progress; the JSON-ready report."""
    from dataclasses import asdict

    from pipeline.cli.console import bars, err, table
    from pipeline.dataset import Dataset
    from pipeline.run import record_run
    from trainer.launch import start
    from trainer.summary import LOSSES, loss_rows

    chosen, ds = train_settings(config), Dataset.open(config.root)
    with bars(f"Train on {config.root}", "steps", quiet or not _first()) as progress:
        report = start(ds, chosen, progress, again=again, dry=dry)
    if dry or not _first():
        return asdict(report)
    if not report.already:
        record_run(ds, config, "train", seconds=report.seconds, items=report.steps)
    table("Loss on what was not trained on, nats a token", LOSSES, loss_rows(report.heldout_views, report.heldout))
    err.print(f"  model {report.path}; {_speed(report)}", markup=False)
    return asdict(report)


def _speed(report: Any) -> str:
    if report.already:
        return "trained before, nothing to do"
    skipped = f", {report.skipped} steps skipped" if report.skipped else ""
    return (
        f"{report.tokens_per_second:,.0f} tokens/s, MFU {report.mfu:.0%}, waiting for data {report.loader_wait:.1%}, "
        f"{report.memory_bytes / 2**30:.1f} GiB, {report.seconds:.0f} s{skipped}; page {report.page}"
    )


def run_sweep(config: Any, sizes: list[str], again: bool, quiet: bool = False, dry: bool = False) -> dict[str, Any]:
    """Train several sizes; the JSON-ready figures of all."""
    from pipeline.cli.console import bars, err, table
    from pipeline.dataset import Dataset
    from trainer.sweep import sweep

    with bars(f"Sweep {', '.join(sizes)} on {config.root}", "steps", quiet) as progress:
        found = sweep(Dataset.open(config.root), train_settings(config), sizes, progress, again=again, dry=dry)
    if dry:
        return found
    rows = [
        (p["size"], f"{p['trunk'] / 1e6:.1f} M", f"{p['flops']:.3g}", f"{p['heldout_mean']:.3f}")
        for p in found["points"]
    ]
    table(f"{found['tokens']:,} tokens each", ("size", "trunk", "FLOPs", "held-out nats a token"), rows)
    err.print(f"  page {found['page']}", markup=False)
    return found
