"""What the trained models of a data set know, from their records alone: for `status` and the table that `train` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.dataset import Dataset
from trainer.checkpoint import RECORD, read_record

LOSSES = ("tokens", "new views", "unigram", "new photos", "unigram", "uniform", "same in every view")
Losses = Mapping[str, Mapping[str, Any]]


def loss_rows(views: Losses, photos: Losses) -> list[tuple[str, ...]]:
    """A row a stream, columns LOSSES: loss on held-out views and on held-out photos, each beside its unigram."""
    rows = []
    for name in dict.fromkeys([*views, *photos]):
        cells = [f"{f[name][key]:.3f}" if name in f else "-" for f in (views, photos) for key in ("loss", "unigram")]
        same = float(views.get(name, {}).get("repeated", 0.0))
        uniform = (views.get(name) or photos[name])["uniform"]
        rows.append((name, *cells, f"{uniform:.3f}", f"{same:.0%}" if same else ""))
    return rows


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
