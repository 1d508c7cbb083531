"""Checkpoints: a folder of safetensors and one JSON, written aside and renamed whole, so that there is never half of
one.

model.safetensors      the weights
optimizer.safetensors  AdamW's moments by parameter name, for resuming
train.json             step, loader state, streams, size, token recipes, manifest, config, curve, held-out losses
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import ConfigError, DamageError
from pipeline.records import canonical_json, file_sha256
from trainer.model import SIZES, Model
from trainer.streams import Stream

MODEL, OPTIMIZER, RECORD = "model.safetensors", "optimizer.safetensors", "train.json"
REMEDY = "Restore the folder from a copy, or delete it and train again."


def moments(model: Model, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by parameter name: `<name>.exp_avg`, `.exp_avg_sq`, `.step`."""
    found = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}.{key}"] = value.detach().cpu().contiguous()
    return found


def restore_moments(model: Model, optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """The inverse of `moments`."""
    for name, parameter in model.named_parameters():
        state = {key: saved[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{key}" in saved}
        if state:
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}


def save(folder: Path, model: Model, optimizer: torch.optim.Optimizer | None, record: Mapping[str, Any]) -> None:
    """Write a checkpoint folder, replacing one of the same name, and read its weights' digests back."""
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    aside.mkdir(parents=True)
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, aside / MODEL)
        if optimizer is not None:
            save_file(moments(model, optimizer), aside / OPTIMIZER)
        digests = {p.name: file_sha256(p) for p in sorted(aside.iterdir())}
        (aside / RECORD).write_bytes(canonical_json({**record, "sha256": digests}))
        if folder.exists():
            old = folder.parent / f".{folder.name}.old-{uuid.uuid4().hex[:8]}"
            os.rename(folder, old)
            os.rename(aside, folder)
            shutil.rmtree(old)
        else:
            os.rename(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def read_record(folder: Path) -> dict[str, Any]:
    """The JSON of a checkpoint. ConfigError where there is none, DamageError where it is not one."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{folder}: holds no checkpoint. Run `manymodal train` first.") from None
    except ValueError as error:
        raise DamageError(f"{folder / RECORD}: is not JSON ({error}). {REMEDY}") from error
    if not isinstance(record, dict) or not {"step", "config", "streams", "sha256"} <= record.keys():
        raise DamageError(f"{folder / RECORD}: is no record of a checkpoint. {REMEDY}")
    return record


def _tensors(folder: Path, name: str, record: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / name
    if not path.is_file() or file_sha256(path) != record["sha256"].get(name):
        raise DamageError(f"{path}: is missing or is not the file that was saved. {REMEDY}")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise DamageError(f"{path}: cannot be read ({error}). {REMEDY}") from error
    return tensors


def build(record: Mapping[str, Any]) -> Model:
    """An untrained model of a checkpoint's shape."""
    streams = [Stream.from_json(s) for s in record["streams"]]
    return Model(streams, SIZES[record["config"]["size"]], record["config"]["tied"])


def load_model(folder: Path) -> tuple[Model, dict[str, Any]]:
    """The model and the record of a checkpoint, digests checked."""
    record = read_record(folder)
    tensors = _tensors(folder, MODEL, record)
    if "published" in record:  # its tensors have the published names, and its own tables
        from trainer.fourm.load import build as build_published

        return build_published(record["published"], tensors, rename=True), record
    model = build(record)
    model.load_state_dict(tensors)
    return model, record


def load_optimizer(folder: Path, model: Model, optimizer: torch.optim.Optimizer) -> None:
    """AdamW's moments of a checkpoint into an optimizer over the same model."""
    restore_moments(model, optimizer, _tensors(folder, OPTIMIZER, read_record(folder)))
