"""What the trained models of a data set know, from their records alone: for `status` and the table that `train` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.dataset import Dataset
from pipeline.gallery.page import Loss, StreamLoss
from trainer.checkpoint import RECORD, read_record

LOSSES = ("tokens", "new views", "unigram", "new photos", "unigram", "uniform", "same in every view")
Losses = Mapping[str, Mapping[str, Any]]


def stream_losses(views: Losses, photos: Losses) -> dict[str, StreamLoss]:
    """By stream: its loss on held-out views and on held-out photos, and what the model saw."""
    found = {}
    for name in dict.fromkeys([*views, *photos]):
        known = views.get(name) or photos[name]
        seen, unseen = (Loss(of[name]["loss"], of[name]["unigram"]) if name in of else None for of in (views, photos))
        title = f"{name.removeprefix('tok_')} from {known['given']}"
        found[name] = StreamLoss(title, known["uniform"], seen, unseen, views.get(name, {}).get("repeated", 0.0))
    return found


def loss_rows(views: Losses, photos: Losses) -> list[tuple[str, ...]]:
    """A row a stream, columns LOSSES."""

    def cells(loss: Loss | None) -> tuple[str, str]:
        return (f"{loss.model:.3f}", f"{loss.unigram:.3f}") if loss else ("-", "-")

    return [
        (name, *cells(s.views), *cells(s.photos), f"{s.uniform:.3f}", f"{s.repeated:.0%}" if s.repeated else "")
        for name, s in stream_losses(views, photos).items()
    ]


def models(ds: Dataset) -> dict[str, dict[str, Any]]:
    """Name -> step, size, and losses on held-out views and photos. Of a bucket none: a record lies beside its weights."""
    found = {}
    for key in ds.storage.list("_models") if "://" not in ds.storage.url else ():
        folder = ds.storage.fetch_folder(key.rstrip("/"))
        if key.endswith("/") and not key.endswith((".run/", ".sweep/")) and (folder / RECORD).is_file():
            record = read_record(folder)
            found[folder.name] = {
                "step": record["step"], "size": record["config"]["size"], "manifest": record.get("manifest"),
                "heldout": record.get("heldout", {}), "heldout_views": record.get("heldout_views", {}),
            }  # fmt: skip
    return found
