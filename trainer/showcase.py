"""Gathers what the page shows: photos, coverage, how tokenizers and model learned, and how long everything took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from labelers.core.modality import Null
from labelers.core.registry import all_modalities
from labelers.core.show import Picture
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.gallery.page import (
    CoverageRow,
    FitCurve,
    Gallery,
    Ingest,
    KeyFigure,
    PhotoRow,
    Stage,
    TrainSummary,
)  # fmt: skip
from pipeline.ingest.quarantine import read_quarantine
from pipeline.licences import terms_of
from pipeline.run import last_reports
from pipeline.status import status
from tokenize_shards.fit import fit_report
from tokenize_shards.holdout import held_out
from tokenize_shards.inputs import ShardViews
from tokenize_shards.shards import open_tokens
from tokenize_shards.tokenizer import UNITS
from trainer.checkpoint import RECORD
from trainer.generate.order import held_share, pick_spots
from trainer.predict import Predictor
from trainer.show_columns import Columns, Photo, view_pixels
from trainer.summary import stream_losses
from trainer.train import model_folder, thin

Progress = Callable[[str, int, int, str], None]


def collect(ds: Dataset, config: Config, rows: int, progress: Progress) -> Gallery:
    """Everything the page shows of a data set; parts that were not made are left out, with the reason where a cell
    would be.
    """
    found = status(ds)
    predictor = _predictor(ds, config)
    photos = choose(ds, config, rows, predictor.record if predictor is not None else None)
    columns = Columns(ds, photos, config.tokens.seed, predictor)
    names = in_order(found["modalities"])
    for done, name in enumerate(names):
        progress("gallery", done, len(names), name)
        columns.fill(name)
    progress("gallery", len(names), len(names), "")
    reports = last_reports(ds)
    return Gallery(
        title=ds.name, columns=names, subtitle=_subtitle(columns),
        rows=[_row(photo, ds, bool(columns.specs)) for photo in photos],
        figures=_figures(found, photos, reports), stages=_stages(reports, found),
        coverage=_coverage(ds, found), ingest=_ingest(ds, found, reports), fits=_fits(ds, found),
        train=_training(predictor, reports), warnings=list(found["damage"]),
        made=f"manymodal, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, manifest {found['manifest']}",
    )  # fmt: skip


def in_order(names: Iterable[str]) -> list[str]:
    """Label modalities as a person wants to see them: pictures and maps, then people, colours, words, vectors."""
    kinds = ("rgb", "map", "features", "people", "record", "text", "embeddings", "vector")
    known = all_modalities()

    def place(name: str) -> tuple[int, str]:
        kind = name if name == "rgb" else known[name].kind if name in known else "record"
        return kinds.index("people" if name == "human_poses" else kind), name

    return sorted((name for name in names if not name.startswith("tok_")), key=place)


def _predictor(ds: Dataset, config: Config) -> Predictor | None:
    folder = model_folder(ds, str(config.train.get("name", "model")))
    return Predictor.load(folder) if (folder / RECORD).is_file() else None


def choose(ds: Dataset, config: Config, rows: int, record: Mapping[str, Any] | None = None) -> list[Photo]:
    """At most `rows` photos, two thirds of them held out of all learning where there are as many. record: of the model."""
    share = held_share(config.tokens.holdout, record)
    chosen = pick_spots(ds, share, rows, []) if rows > 0 else []
    photos = []
    for k in sorted({k for k, _ in chosen}):
        members, held = [i for shard, i in chosen if shard == k], held_out(ds.ids(k), share)
        shard = ShardViews(ds, k, [0], config.tokens.seed, members)
        for at, (i, sample) in enumerate(zip(members, shard.samples(), strict=True)):
            if isinstance(sample, Null):
                continue  # removed on request
            uri, pixels = ds.index(k)[i].uri, view_pixels(sample.image, shard, at)
            photos.append(Photo((k, i), sample.id, uri, bool(held[i]), sample.image, pixels))
    return photos


def _subtitle(columns: Columns) -> str:
    """What the page has of each photo."""
    if columns.predictor is not None:
        return "every modality, its tokens decoded, and what the model sees in RGB alone"
    return "every modality, and its tokens decoded" if columns.specs else "every modality"


def _row(photo: Photo, ds: Dataset, learned: bool) -> PhotoRow:
    """learned: whether anything was fitted, for photos to be held out of."""
    caption = photo.cells.get("caption")
    text = getattr(caption.label, "text", "") if caption and not getattr(caption.label, "muted", True) else ""
    name = photo.uri.rsplit("/", 1)[-1]
    return PhotoRow(photo.id, Picture(photo.image), photo.cells, name, text, photo.held_out and learned)


def _figures(found: dict[str, Any], photos: Sequence[Photo], reports: dict[str, dict[str, Any]]) -> list[KeyFigure]:
    names = [n for n in found["modalities"] if not n.startswith("tok_")]
    minutes = sum(float(r.get("seconds", 0)) for r in reports.values()) / 60
    held, tokens = sum(photo.held_out for photo in photos), len(found["modalities"]) - len(names)
    return [
        KeyFigure(f"{found['samples']:,}", "photos", f"{held} shown were held out of all learning" if tokens else ""),
        KeyFigure(str(len(names)), "modalities", f"{tokens} of them as tokens"),
        KeyFigure(f"{minutes:.1f}", "minutes", "from files to all this, without this page"),
    ]


def _stages(reports: dict[str, dict[str, Any]], found: dict[str, Any]) -> list[Stage]:
    units = {"ingest": "photos", "label": "labels", "fit": "tokenizers", "tokenize": "token rows", "train": "steps"}
    return [
        Stage(name, float(reports[name].get("seconds", 0)), int(reports[name].get("items", 0)), unit)
        for name, unit in units.items()
        if name in reports
    ]


def _coverage(ds: Dataset, found: dict[str, Any]) -> list[CoverageRow]:
    rows = []
    known = all_modalities()
    for name in in_order(found["modalities"]):
        m = found["modalities"][name]
        weight = next(iter(m["weights"].values()), {"sha256": "", "url": ""})
        licence = terms_of(m)
        tokens = found["modalities"].get(f"tok_{name}")
        fit = fit_report(ds, f"tok_{name}") or {}
        metrics = fit.get("metrics", {}).items()
        stored = m["stored"] or m["committed"] or name not in known  # network features are stored on request
        rows.append(
            CoverageRow(
                modality=name, backend=m["backend"], recipe=m["recipe"],
                total=found["samples"] if stored or tokens else 0,  # 0: it is computed on the views, when those are due
                committed=m["samples"] if stored else (tokens or {}).get("samples", 0), weights=weight["sha256"],
                source=weight["url"].split("#")[0], licence=licence, nulls=m["null_reasons"],
                tokens=_mean_tokens(ds, f"tok_{name}", tokens), vocab=fit.get("vocab"), codebook_used=fit.get("codebook_used"),
                reconstruction=", ".join(f"{v:.3g} {UNITS.get(k, k)}" for k, v in metrics if k != "mean_tokens"),
            )
        )  # fmt: skip
    return rows


def _mean_tokens(ds: Dataset, name: str, tokens: dict[str, Any] | None) -> float | None:
    """Mean number of tokens in a view, over the first shard."""
    if tokens is None or not tokens["committed"]:
        return None
    shard = open_tokens(ds.open_shard(name, tokens["recipe"], 0)[0])
    if shard.fixed is not None:
        return float(shard.fixed.shape[2])
    return (
        float(len(shard.values)) / max(1, int(shard.valid.sum()) * shard.meta.views)
        if shard.values is not None
        else None
    )


def _ingest(ds: Dataset, found: dict[str, Any], reports: dict[str, dict[str, Any]]) -> Ingest:
    report = reports.get("ingest", {})
    quarantined = [(uri, reason) for uri, reason, _ in read_quarantine(ds)]
    return Ingest(
        found["samples"], len(report.get("duplicates", ())), quarantined, ", ".join(report.get("sources", ()))
    )


def _fits(ds: Dataset, found: dict[str, Any]) -> list[FitCurve]:
    curves = []
    for name in found["modalities"]:
        fit = fit_report(ds, name) if name.startswith("tok_") else None
        if fit and len(fit["losses"]) > 1:
            result = ", ".join(f"{v:.3g} {UNITS.get(k, k)}" for k, v in fit["metrics"].items())
            curves.append(
                FitCurve(name.removeprefix("tok_"), [loss for _, loss in fit["losses"]], fit["seconds"], result)
            )
    return curves


def _training(predictor: Predictor | None, reports: dict[str, dict[str, Any]]) -> TrainSummary | None:
    if predictor is None:
        return None
    record = predictor.record
    curve = thin([(int(s), float(v)) for s, v in record["curve"]])
    losses = stream_losses(record.get("heldout_views", {}), record["heldout"]).values()
    millions = sum(p.numel() for p in predictor.model.parameters()) / 1e6
    return TrainSummary(
        [s for s, _ in curve], [v for _, v in curve], list(losses),
        model=f"{record['config']['size']}, {millions:.1f} M parameters",
        seconds=float(reports.get("train", {}).get("seconds", 0)),
    )  # fmt: skip
