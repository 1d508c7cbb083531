"""Commands that find samples by what a model predicts: index, retrieve."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.options import AsJson, Assign, Target, settings
from pipeline.cli.use import From, Hand, ModelName, Out, Sample, listed, model_of, pairs

Index = Annotated[str | None, typer.Option("--index", help="Its name; default: the modality, and what it is from.")]
View = Annotated[int, typer.Option("--view", help="Whose tokens are read.")]
Rows = Annotated[int, typer.Option("--rows", help="Samples, held-out ones first; 0 for all.")]


def _job(config: Any, sources: list[str], modality: str, given: dict[str, str], view: int, model: str | None) -> Any:
    """A job that predicts one embedding."""
    from trainer.generate.job import Job
    from trainer.generate.order import make_order

    name, ds, predictor = model_of(config, model)
    return Job(ds, predictor, make_order(ds, sources, [modality], given, {}, [], True, False, 0, view, 1, name))


def index(
    target: Target,
    modality: Annotated[str, typer.Option("--modality", help="A global embedding.")] = "dinov2_global",
    source: Annotated[str, typer.Option("--of", help="labels (whole images), tokens (one view) or model.")] = "labels",
    sources: From = None, name: Index = None, view: View = 0, model: ModelName = None,
    assign: Assign = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Build a vector index of a global embedding, real or predicted by the model, for `retrieve`."""
    from pipeline.cli.console import err, print_json

    record = run_index(settings(target, assign), modality, source, listed(sources), name, view, model)
    if as_json:
        print_json(record)
    else:
        err.print(
            f"Indexed {record['count']} samples ({record['missing']} have none) as {record['name']}", markup=False
        )


def run_index(
    config: Any, modality: str, source: str, sources: list[str], name: str | None = None, view: int = 0, model: str | None = None
) -> dict[str, Any]:  # fmt: skip
    """Build and keep the index; what it is of."""
    from pipeline.dataset import Dataset
    from pipeline.errors import ConfigError
    from trainer.retrieve.job import build_index

    if source not in ("labels", "tokens", "model"):
        raise ConfigError(f"--of {source}: is not one of labels, tokens, model")
    if source == "model" and not sources:
        raise ConfigError("--of model: name what the model predicts from, e.g. --from rgb")
    ds = Dataset.open(config.root)
    job = _job(config, sources, modality, {}, view, model) if source == "model" else None
    built = build_index(ds, modality, source, view, job)
    chosen = name or "-".join(
        [modality.removeprefix("tok_"), *([source] if source != "labels" else []), *(sources if job else [])]
    )
    built.save(ds, chosen)
    return {"name": chosen, **built.record}


def retrieve(
    target: Target, sources: From = None, given: Hand = None, name: Index = "dinov2_global",
    k: Annotated[int, typer.Option("-k", help="Samples to find for each query.")] = 5,
    rows: Rows = 12, sample: Sample = None, view: View = 0,
    model: ModelName = None, out: Out = None, assign: Assign = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Predict an embedding from any modality or combination, and find the nearest samples of an index.

    The embedding is the one the model expects: the mean over its probabilities, not one draw.
    """
    report = run_retrieve(
        settings(target, assign), listed(sources), pairs(given, "--given"), name or "dinov2_global", k, rows, sample or [], view,
        model, out,
    )  # fmt: skip
    if as_json:
        from pipeline.cli.console import print_json

        print_json(report)
    else:
        print(report["page"])


def run_retrieve(
    config: Any, sources: list[str], given: dict[str, str], name: str, k: int = 5, rows: int = 12,
    samples: list[str] | None = None, view: int = 0, model: str | None = None, out: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Retrieve; the JSON-ready report: neighbours of each query, and figures."""
    from pipeline.cli.console import table
    from pipeline.cli.pages import keep_page
    from pipeline.dataset import Dataset
    from pipeline.errors import ConfigError
    from pipeline.gallery.sheet import render_sheet
    from trainer.generate.order import held_share, pick_spots
    from trainer.retrieve.index import VectorIndex
    from trainer.retrieve.job import retrieve as run
    from trainer.retrieve.page import GIVEN, sheet_of

    if k < 1:
        raise ConfigError(f"-k {k}: is less than 1")
    if not sources and not given:
        raise ConfigError("retrieve: name what to search from, e.g. --from rgb, or --given caption='a dog'")
    ds = Dataset.open(config.root)
    found = VectorIndex.load(ds, name)
    job = _job(config, sources, found.record["modality"], given, view, model)
    held = held_share(config.tokens.holdout, job.predictor.record)
    spots = pick_spots(ds, held, rows if job.of_samples else 1, samples or [])
    result = run(job, found, spots, k)
    sheet = sheet_of(job, found, result, config.tokens.seed)
    page = keep_page(ds, f"retrieved-{name}.html", out, lambda path: render_sheet(sheet, path))
    table(
        f"{len(result.vectors.spots)} queries",
        ("figure", "value"),
        [(n, f"{v:.3f}") for n, v in result.figures.items()],
    )
    neighbours = {
        ds.ids(spot[0])[spot[1]] if job.of_samples else GIVEN: [
            {"id": found.ids[n], "cosine": round(float(c), 4)} for n, c in zip(hits, cosines, strict=True) if n >= 0
        ]
        for spot, hits, cosines in zip(result.vectors.spots, result.found.rows, result.found.cosine, strict=True)
    }
    return {"figures": result.figures, "neighbours": neighbours, "page": page}
