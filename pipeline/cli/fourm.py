"""Commands that speak 4M's formats: export, import, adopt."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.options import AsJson, Assign, Target, settings


def export(
    target: Target,
    out: Annotated[str, typer.Argument(help="Where to write the folders of tars: a folder or s3://bucket/prefix.")],
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this modality, and rgb; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write images, tokens and sequence labels in the shard layout 4M trains from: one folder of tars a modality."""
    from dataclasses import asdict

    from pipeline.cli.console import bars, err, print_json, table
    from pipeline.dataset import Dataset
    from tokenize_shards.fourm.layout import export as run

    ds = Dataset.open(settings(target, None).root)
    with bars(f"Export {ds.storage.url}", "shards", as_json) as progress:
        report = run(ds, out, only or [], progress)
    lacking: dict[str, int] = {}
    for name in report.left_out.values():
        lacking[name] = lacking.get(name, 0) + 1
    row = (report.samples, len(report.left_out), ", ".join(report.modalities))
    table(f"Exported to {out}", ("samples", "left out", "folders"), [row])
    for name, count in lacking.items():
        err.print(f"  {count} samples left out of every folder, because they lack {name}", markup=False)
    if as_json:
        print_json(asdict(report))


def import_(
    target: Target,
    folder: Annotated[
        str, typer.Argument(help="A data set in 4M's layout: rgb/*.tar, tok_*/*.tar, crop_settings/*.tar.")
    ],
    assign: Assign = None,
    as_json: AsJson = False,
) -> None:
    """Take in a data set in 4M's layout: its images by ingest, its tokens and captions as they are."""
    from dataclasses import asdict

    from pipeline.cli.console import bars, print_json, table
    from pipeline.dataset import Dataset
    from tokenize_shards.fourm.read import read_layout

    config = settings(target, assign)
    ds = Dataset.create(config.root, config.name, config.shard_size)
    with bars(f"Import {folder}", "modalities", as_json) as progress:
        report = read_layout(ds, folder, progress)
    rows = [*report.tokens.items(), *report.labels.items()]
    table(f"Imported {folder}: {report.samples} samples", ("modality", "samples"), rows)
    if as_json:
        print_json(asdict(report))


def adopt(
    target: Target,
    what: Annotated[str, typer.Argument(help="A token modality (tok_rgb), or `model`.")],
    weights: Annotated[
        str, typer.Argument(help="The published checkpoint: hf:org/name@revision, file:FOLDER or s3://bucket/prefix.")
    ],
    name: Annotated[str, typer.Option("--name", help="What to call a model.")] = "published",
    assign: Assign = None,
    as_json: AsJson = False,
) -> None:
    """Use a published 4M tokenizer for a token modality, or a published 4M model, in place of one fitted here."""
    from pipeline.cli.console import err, print_json
    from pipeline.dataset import Dataset
    from pipeline.weights import resolve_weights
    from tokenize_shards.fourm.adopt import adopt_tokenizer
    from trainer.fourm.adopt import adopt_model

    config = settings(target, assign)
    ds = Dataset.open(config.root)
    found = resolve_weights(lambda: ds.storage, {"": weights})[""]
    if what == "model":
        record = adopt_model(ds, found, name)
    else:
        record = adopt_tokenizer(ds, config, what, found)
    err.print(f"  {what}: {found.url} (sha256 {found.sha256[:16]})", markup=False)
    if as_json:
        print_json(record)
