"""Checkpoints: a folder of safetensors and one JSON, written aside and renamed whole, so that there is never half of
one.

model.safetensors      the weights
optimizer.safetensors  AdamW's moments by parameter name, for resuming
average.safetensors    the averaged weights, where there are any
train.json             step, loader state, streams, size, token recipes, manifest, config, curve, held-out losses

A run keeps them by step, in a folder of its own; where the model is divided over processes each writes its own part
(see sharded.py). What others read is published at the end: model.safetensors and train.json.
"""

from __future__ import annotations

import json
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
from pipeline.records import file_sha256
from trainer import sharded
from trainer.atomic import RECORD, finish
from trainer.model import SIZES, Model
from trainer.parallel import Divided, own, whole
from trainer.streams import Stream

MODEL, OPTIMIZER, AVERAGE = "model.safetensors", "optimizer.safetensors", "average.safetensors"
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
    """Write a checkpoint folder of one process, replacing one of the same name."""
    files = {MODEL: {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}}
    if optimizer is not None:
        files[OPTIMIZER] = moments(model, optimizer)
    write_folder(folder, files, record)


def write_folder(folder: Path, files: Mapping[str, Mapping[str, Tensor]], record: Mapping[str, Any]) -> None:
    """Files of tensors and the record with their digests, written aside, flushed to the disk, and renamed whole."""
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    aside.mkdir(parents=True)
    try:
        for name, values in files.items():
            save_file(dict(values), aside / name)
        finish(aside, folder, record, {name: file_sha256(aside / name) for name in files})
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


# -- checkpoints of a run: one folder a step


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def steps(folder: Path) -> list[Path]:
    """The checkpoints of a run that were finished, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{RECORD}"))


def prune(folder: Path, keep: int, keep_every: int) -> None:
    """Delete all but the newest `keep` checkpoints, those of each `keep_every`-th step, and what attempts left."""
    for path in steps(folder)[:-keep]:
        if not keep_every or int(path.name.removeprefix("step-")) % keep_every:
            shutil.rmtree(path)
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def save_run(
    folder: Path, divided: Divided, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write what a run goes on from. Every process must call it; it is there when it returns."""
    if divided.strategy == "fsdp":
        sharded.save(folder, divided, optimizer, average, record)
    elif divided.group.first:
        files = {MODEL: divided.model.state_dict(), OPTIMIZER: moments(divided.model, optimizer)}
        if average:
            files[AVERAGE] = dict(average)
        packed = {name: {k: v.detach().cpu().contiguous() for k, v in values.items()} for name, values in files.items()}
        write_folder(folder, packed, record)
    divided.group.wait()


def load_run(folder: Path, divided: Divided, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> None:
    """The inverse of `save_run`, on any number of processes and whichever strategy wrote it."""
    stored = sharded.Stored(folder, read_record(folder))
    with torch.no_grad():
        for name, parameter in divided.model.named_parameters():
            lo, hi = sharded.rows_here(parameter)
            mine = own(parameter)
            mine.copy_(stored.read("model", name, lo, hi))
            state: dict[str, Tensor] = {}
            for key in ("exp_avg", "exp_avg_sq"):
                if stored.has(key, name):
                    part = torch.empty_like(mine).copy_(stored.read(key, name, lo, hi))
                    state[key] = sharded.like(part, parameter)
            if state:
                state["step"] = stored.read("step", name, 0, 0).to(parameter.device)
                optimizer.state[parameter] = state
            if name in average and stored.has("average", name):
                average[name].copy_(stored.read("average", name, lo, hi))


def publish(folder: Path, divided: Divided, record: Mapping[str, Any]) -> None:
    """Write the whole model as everybody reads it. Every process must call it."""
    tensors = {}
    for name, value in divided.model.state_dict().items():
        full = whole(value)
        if divided.group.first:
            tensors[name] = full
    if divided.group.first:
        write_folder(folder, {MODEL: tensors}, record)
    divided.group.wait()


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
