"""The "tokenizer" of vectors that are shown as they are: nothing is fitted, and nothing is lost but their end."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset import Dataset
from pipeline.records import canonical_json
from tokenize_shards.table import TokenSpec
from tokenize_shards.tokenizer import FitReport, Progress, Tokenizer

Vectors = NDArray[np.float16]


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


def width_of(rows: Sequence[object]) -> int:
    """Numbers in each vector of some encoded rows (lists of views, or Nulls); 1 where none has any."""
    return next((int(row[0].shape[1]) for row in rows if isinstance(row, list)), 1)


def without_tokenizer(specs: Sequence[TokenSpec]) -> dict[str, Values]:
    """Of token modalities those that need no fitted tokenizer, with what encodes them."""
    return {spec.name: Values(spec.length) for spec in specs if spec.kind == "values"}


def maker_of(ds: Dataset, recipe: Mapping[str, Any]) -> str:
    """What decides what tokens mean: the digest of their tokenizer, or of what made the vectors. "" where the recipe names
    neither.
    """
    if recipe["weights"]:
        return str(recipe["weights"].get("tokenizer", {}).get("sha256", ""))
    read = [ds.recipe(source) for source in recipe["reads"].values()]
    made = [{key: one[key] for key in ("labeler", "version", "params", "weights")} for one in read]
    return hashlib.sha256(canonical_json(made)).hexdigest() if made else ""
