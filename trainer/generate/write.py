"""Generated labels as label shards: a recipe of their own that says which checkpoint, schedule and seed made them.

They are labels of a view, in its frame, and never become current by themselves: `promote` makes them so. A shard holds
its index's ids like any other; what was not generated is a null with the reason. Pictures, of which ingest makes the
only real ones, get a modality of their own.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from labelers.core.compare import psnr
from labelers.core.modality import Label, LabelError, Modality, Null, require
from labelers.core.registry import all_modalities
from labelers.core.show import Picture
from pipeline.dataset import Dataset
from pipeline.records import Commit
from pipeline.shard_task import replace
from pipeline.shards import label_file, verify_labels, write_labels

LABELER, VERSION = "generate", 2


def _encode(label: Label) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, "PNG")
    return buffer.getvalue()


def _decode(raw: bytes) -> Label:
    with Image.open(io.BytesIO(raw)) as image:
        return np.asarray(image.convert("RGB"))


def _check(label: Label) -> None:
    require(isinstance(label, np.ndarray) and label.dtype == np.uint8, "generated_rgb: expected a uint8 array")
    require(label.ndim == 3 and label.shape[2] == 3, f"generated_rgb: expected shape (H, W, 3), got {label.shape}")


GENERATED_RGB = Modality(
    "generated_rgb", "map", "tar", _encode, _decode, _check, show=lambda label, image: Picture(label), compare=psnr,
    ext="png", about="uint8 RGB (H, W, 3), a picture a model made, in the frame of a view",
)  # fmt: skip


def modality_of(name: str) -> Modality:
    """The modality generated labels of `name` are written as."""
    return GENERATED_RGB if name == "rgb" else all_modalities()[name]


def recipe_for(
    modality: str, backend: str, model: str, tokenizer: str, params: Mapping[str, Any], reads: Mapping[str, str]
) -> dict[str, Any]:
    """The recipe of one generated modality. model, tokenizer: sha256. reads: token modality -> recipe."""
    return {
        "modality": modality, "labeler": LABELER, "version": VERSION, "backend": backend, "params": dict(params),
        "weights": {"model": {"url": "trained", "sha256": model}, "tokenizer": {"url": "fitted", "sha256": tokenizer}},
        "reads": dict(reads),
    }  # fmt: skip


def checked(modality: Modality, label: Label | Null | None, reason: str) -> Label | Null:
    """The label, or a Null where there is none or what was generated is not one."""
    if label is None:
        return Null(reason or "not generated")
    if isinstance(label, Null):
        return label
    try:
        modality.check(label)
    except LabelError as error:
        return Null(f"what was generated is no label: {error}")
    return label


def write_shard(ds: Dataset, modality: Modality, recipe: str, k: int, labels: Sequence[Label | Null]) -> Commit:
    """Commit one shard of generated labels, made from the token shards the recipe reads as they are now."""
    inputs = {name: ds.open_shard(name, read, k)[1].sha256 for name, read in ds.recipe(recipe)["reads"].items()}
    file = label_file(modality, k)
    write = partial(write_labels, modality=modality, ids=ds.ids(k), labels=labels, inputs=inputs)
    draft = Commit(modality.name, recipe, k, file, 0, 0, "")
    return replace(ds, draft, write, partial(verify_labels, modality=modality), inputs=inputs)
