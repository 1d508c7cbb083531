"""A published model as a checkpoint of a data set, so that generation and evaluation use it like one trained here."""

from __future__ import annotations

import json
import shutil
import uuid
from typing import Any

from labelers.core.weights import Weight
from pipeline.dataset import Dataset
from pipeline.records import canonical_json, file_sha256
from trainer import checkpoint
from trainer.fourm.load import load
from trainer.train import keep_model, model_folder


def adopt_model(ds: Dataset, weights: Weight, name: str) -> dict[str, Any]:
    """Write root/_models/<name>; its record. ConfigError for what is no 4M model that we compute."""
    model = load(weights.path, rename=True)
    record = {
        "step": 0, "config": {"size": "published", "name": name}, "streams": [s.to_json() for s in model.streams],
        "published": json.loads((weights.path / "config.json").read_text(encoding="utf-8")),
        "recipes": {}, "manifest": ds.manifest().version, "weights": {"url": weights.url, "sha256": weights.sha256},
        "curve": [], "heldout": {}, "skipped": 0,
    }  # fmt: skip
    folder = model_folder(ds, name)
    aside = folder.with_name(f".{name}.{uuid.uuid4().hex[:8]}")
    aside.mkdir(parents=True)
    shutil.copyfile(weights.path / checkpoint.MODEL, aside / checkpoint.MODEL)
    digests = {checkpoint.MODEL: file_sha256(aside / checkpoint.MODEL)}
    (aside / checkpoint.RECORD).write_bytes(canonical_json({**record, "sha256": digests}))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    keep_model(ds, name, folder)
    return record
