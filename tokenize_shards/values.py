"""The "tokenizers" of vectors that are shown as they are: nothing is fitted, and nothing is lost but their end."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.pixels import IMAGENET_MEAN, IMAGENET_STD
from pipeline.dataset import Dataset
from pipeline.records import canonical_json
from tokenize_shards.table import TokenSpec
from tokenize_shards.tokenizer import FitReport, Progress, Tokenizer

Vectors = NDArray[np.float16]
MEAN, DEVIATION = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)


class Values(Tokenizer):
    """Labels (T, width) <-> the first `limit` of their vectors, float16."""

    kind = "values"
    vocab = 0
    tokens = None

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def fit(
        self, train: Any, heldout: Any, *, seconds: float | None = None, steps: int | None = None, seed: int = 0,
        progress: Progress | None = None, state: Any = None,
    ) -> FitReport:  # fmt: skip
        """There is nothing to learn."""
        return FitReport(self.kind, 0, 0.0)

    def encode(self, batch: Sequence[Vectors]) -> list[Vectors]:
        """ValueError for what are no rows of float16 numbers."""
        for label in batch:
            if label.ndim != 2 or label.dtype != np.float16:
                raise ValueError(f"expected float16 (tokens, width), got {label.dtype} {label.shape}")
        return [label[: self.limit] for label in batch]

    def decode(self, tokens: Sequence[Vectors]) -> list[Vectors]:
        return list(tokens)

    def config(self) -> dict[str, Any]:
        return {"limit": self.limit}

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        return {}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Values:
        return cls(config["limit"])


class Patches(Values):
    """Pictures uint8 (size, size, 3) <-> their patches, float16 (patches, 3 patch^2): numbers in the order channel, row,
    column, less the mean of ImageNet over its deviation, as the published models are shown them.
    """

    kind = "patches"

    def __init__(self, size: int, patch: int) -> None:
        super().__init__((size // patch) ** 2)
        self.size, self.patch = size, patch

    def encode(self, batch: Sequence[NDArray[np.uint8]]) -> list[Vectors]:  # type: ignore[override]
        """ValueError for other than pictures of that size."""
        side, patch = self.size // self.patch, self.patch
        found = []
        for image in batch:
            if image.shape != (self.size, self.size, 3) or image.dtype != np.uint8:
                raise ValueError(f"expected uint8 ({self.size}, {self.size}, 3), got {image.dtype} {image.shape}")
            scaled = (image.astype(np.float32) / 255 - MEAN) / DEVIATION
            cells = scaled.reshape(side, patch, side, patch, 3).transpose(0, 2, 4, 1, 3)
            found.append(cells.reshape(self.limit, -1).astype(np.float16))
        return found

    def decode(self, tokens: Sequence[Vectors]) -> list[NDArray[np.uint8]]:  # type: ignore[override]
        side, patch = self.size // self.patch, self.patch
        found = []
        for row in tokens:
            cells = row.astype(np.float32).reshape(side, side, 3, patch, patch).transpose(0, 3, 1, 4, 2)
            image = (cells.reshape(self.size, self.size, 3) * DEVIATION + MEAN) * 255
            found.append(image.round().clip(0, 255).astype(np.uint8))
        return found

    def config(self) -> dict[str, Any]:
        return {"size": self.size, "patch": self.patch}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Patches:
        return cls(config["size"], config["patch"])


def width_of(rows: Sequence[object]) -> int:
    """Numbers in each vector of some encoded rows (lists of views, or Nulls); 1 where none has any."""
    return next((int(row[0].shape[1]) for row in rows if isinstance(row, list)), 1)


def without_tokenizer(specs: Sequence[TokenSpec]) -> dict[str, Values]:
    """Of token modalities those that need no fitted tokenizer, with what encodes them."""
    return {
        spec.name: Patches(spec.size, spec.patch) if spec.patch else Values(spec.length)
        for spec in specs
        if spec.kind == "values"
    }


def maker_of(ds: Dataset, recipe: Mapping[str, Any]) -> str:
    """What decides what tokens mean: the digest of their tokenizer, or of what made the vectors. "" where the recipe names
    neither. Imported tokens have the digest that came with them, or are taken to be of one tokenizer that nobody named.
    """
    if recipe["weights"]:
        return str(recipe["weights"].get("tokenizer", {}).get("sha256", ""))
    spec = recipe["params"]["spec"]
    if spec["kind"] != "values":
        return str(recipe["params"].get("tokenizer", "imported without a tokenizer's name"))
    if spec["patch"]:  # the same pixels, however the photos were taken in
        return f"patches of {spec['patch']} of {spec['size']} pixels"
    read = [ds.recipe(source) for source in recipe["reads"].values()]
    made = [{key: one[key] for key in ("labeler", "version", "params", "weights")} for one in read]
    return hashlib.sha256(canonical_json(made)).hexdigest() if made else ""
