"""Commands that make and inspect a data set: init, ingest, plan, label, status."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.options import AsJson, Assign, DryRun, Only, Run, Target, settings


def init(
    folder: Annotated[str, typer.Argument(help="Where to write manymodal.yaml: a folder or s3://bucket/prefix.")] = ".",
    profile: Annotated[str, typer.Option("--profile", help="offline (default), one-gpu or full.")] = "offline",
    show: Annotated[bool, typer.Option("--print", help="Print it instead of writing it.")] = False,
) -> None:
    """Write a commented configuration, with the backends of a profile."""
    from pipeline.cli.console import err
    from pipeline.config import CONFIG_NAME
    from pipeline.errors import ConfigError
    from pipeline.profiles import PROFILES
    from pipeline.storage import open_storage
    from pipeline.template import config_template

    if profile not in PROFILES:
        raise ConfigError(f"init: no profile is named {profile!r}. Known: {', '.join(PROFILES)}.")
    if show:
        print(config_template(profile), end="")
        return
    path = f"{folder.rstrip('/')}/{CONFIG_NAME}" if "://" in folder else str(Path(folder) / CONFIG_NAME)
    if not open_storage(folder).put_if_absent(CONFIG_NAME, config_template(profile).encode()):
        raise ConfigError(f"{path} exists; it is not overwritten. Delete it or choose another folder.")
    err.print(f"Wrote {path}. Set `sources`, then: manymodal ingest {path}", markup=False)


def ingest(
    target: Target,
    source: Annotated[
        list[str] | None, typer.Argument(help="Folders, WebDataset tars, or lists (.parquet .csv .txt).")
    ] = None,
    assign: Assign = None,
    as_json: AsJson = False,
) -> None:
    """Take images in: normalise, find duplicates, quarantine what cannot be used, and write the index and rgb shards."""
    config = settings(target, assign)
    report = run_ingest(config, source or config.sources, quiet=as_json)
    if as_json:
        from pipeline.cli.console import print_json

        print_json(report)


def run_ingest(config: Any, sources: list[str], quiet: bool = False) -> dict[str, Any]:
    """Ingest and print what came of it; the JSON-ready report."""
    from pipeline.cli.console import bars
    from pipeline.dataset import Dataset
    from pipeline.errors import ConfigError
    from pipeline.ingest.ingest import ingest as run
    from pipeline.ingest.sources import open_source
    from pipeline.run import record_run

    if not sources:
        raise ConfigError("ingest: no source is given. Name a folder, tar or list, or set `sources` in the config.")
    for source in sources:
        open_source(source)  # a mistyped one must not leave an empty data set behind
    ds = Dataset.create(config.root, config.name, config.shard_size)
    start = time.monotonic()
    with bars(f"Ingest into {config.root}", "images", quiet) as progress:
        report = run(ds, sources, progress)
    if report.new:
        record_run(
            ds, config, "ingest", seconds=round(time.monotonic() - start, 2), items=report.new,
            duplicates=report.duplicates, quarantined=report.quarantined,
        )  # fmt: skip
    return report_ingest(report)


def report_ingest(report: Any) -> dict[str, Any]:
    """The summary table, what was left out and why; the JSON-ready report."""
    from pipeline.cli.console import err, table

    row = [report.samples, report.new, len(report.duplicates), len(report.quarantined), report.shards]
    table("Ingest", ("samples", "new", "duplicates", "quarantined", "shards"), [row])
    for uri, reason, _ in report.quarantined[:20]:
        err.print(f"  quarantined {uri}: {reason}", markup=False)
    for uri, first in report.duplicates[:20]:
        err.print(f"  duplicate {uri} = {first}", markup=False)
    return {
        "samples": report.samples, "new": report.new, "shards": report.shards,
        "duplicates": [{"uri": a, "same_as": b} for a, b in report.duplicates],
        "quarantined": [{"uri": u, "reason": r, "error": e} for u, r, e in report.quarantined],
    }  # fmt: skip


def label(
    target: Target,
    only: Only = None,
    executor: Run = None,
    assign: Assign = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make every label that is missing or stale. Run it again to resume; a second run does nothing."""
    config = settings(target, assign, executor)
    if dry_run:
        from pipeline.cli.planning import show_plan

        show_plan(config, only or [], as_json, tokens=False)
        return
    finish(run_label(config, only or [], quiet=as_json), as_json)


def run_label(config: Any, only: list[str], quiet: bool = False) -> Any:
    """Label with progress bars; the report."""
    from pipeline.cli.console import bars, err
    from pipeline.dataset import Dataset
    from pipeline.label import label as run

    ds = Dataset.open(config.root)
    before = ds.manifest().version
    with bars(f"Label {config.root}", "shards", quiet) as progress:
        report = run(ds, config, only, progress, lambda sentence: err.print(f"  Licence: {sentence}", markup=False))
    return carded(ds, before, report)


def carded(ds: Any, before: int, report: Any) -> Any:
    """The report, after the data set's cards followed what the run made. before: the manifest's version then."""
    from pipeline.cards.data_card import write_cards

    if report.done or ds.manifest().version != before:
        write_cards(ds)
    return report


def finish(report: Any, as_json: bool) -> None:
    """The summary table, what went wrong, and the exit code."""
    from dataclasses import asdict

    from pipeline.cli.console import err, print_json, table
    from pipeline.errors import Incomplete

    rows = [
        (n, s["todo"], s["done"], s["failed"], s["samples"], s["nulls"], float(s["seconds"]))
        for n, s in report.steps.items()
    ]
    title = f"{report.command}: {report.todo} shards to do, {report.done} done, {report.failed} failed in {report.seconds:.1f} s"
    table(f"{title} ({report.executor})", ("step", "to do", "done", "failed", "samples", "nulls", "seconds"), rows)
    for line in (*report.notes, *report.errors[:10]):
        err.print(f"  {line}", markup=False)
    if as_json:
        print_json(asdict(report))
    if report.failed:
        raise Incomplete(
            f"{report.command}: {report.failed} of {report.todo} shards failed. Mend the cause above and run it again."
        )


def status(target: Target, as_json: AsJson = False) -> None:
    """Say what the data set holds: samples, shards, each modality's recipe, backend and coverage, and how good its models
    are on views and photos they have not seen.
    """
    from pipeline.cli.console import err, print_json, table
    from pipeline.dataset import Dataset
    from pipeline.errors import DamageError
    from pipeline.status import status as look

    ds = Dataset.open(settings(target, None).root)
    found = look(ds)
    if ds.storage.list("_models"):  # only then is the trainer needed, which takes a second to load
        from trainer.summary import LOSSES, loss_rows, models

        found["models"] = models(ds)
    if as_json:
        print_json(found)
    else:
        title = f"{found['name']}: {found['samples']} samples in {found['shards']} shards, manifest {found['manifest']}"
        rows = [
            (
                n,
                m["backend"],
                m["recipe"],
                m["committed"] if m["stored"] else "on view",
                m["nulls"],
                m["stale"],
                m["missing"],
            )
            for n, m in found["modalities"].items()
        ]
        table(title, ("modality", "backend", "recipe", "committed", "nulls", "stale", "missing"), rows)
        for name, m in found.get("models", {}).items():
            about = f"Model {name}, {m['size']}, {m['step']} steps: loss on what was not trained on, nats a token"
            table(about, LOSSES, loss_rows(m["heldout_views"], m["heldout"]))
    for sentence in found["damage"]:
        err.print(f"  {sentence}", markup=False)
    if found["damage"]:
        raise DamageError(
            f"{len(found['damage'])} committed shards are damaged. `manymodal repair` makes again what can be made again."
        )
