"""From token recipes back to the target that follows them, and a check that stored tokens are those of their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from labelers.core.compare import tokens
from labelers.core.labeler import Labeler
from labelers.core.modality import Null
from labelers.core.show import Cell, Words
from pipeline.care.diff import Column
from pipeline.care.forget import REMOVED, Rewrite
from pipeline.care.rebuild import target_of
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.execution.work import Pool
from pipeline.plan import Ref, Step
from pipeline.recipes import Target
from tokenize_shards.encode import encode_rows
from tokenize_shards.grammar import VERSIONS
from tokenize_shards.inputs import ShardViews
from tokenize_shards.shards import Row, open_tokens, verify_tokens, write_tokens
from tokenize_shards.table import TokenSpec
from tokenize_shards.tokenize import MakeTokenWorker, TokenTarget
from tokenize_shards.tokenizer import Tokenizer


def spec_of(recipe: dict[str, Any]) -> TokenSpec:
    """The row of the token table a recipe was made with."""
    return TokenSpec(**recipe["params"]["spec"])


def token_target_of(ds: Dataset, ref: Ref) -> TokenTarget | None:
    """The target that makes one token recipe again; None where its labeler is not this program's, or the program writes
    such sequences another way by now.
    """
    recipe = ds.recipe(ref[1])
    spec = spec_of(recipe) if recipe["labeler"] == "tokenize" else None
    if spec is None or recipe["params"].get("grammar", 1) != VERSIONS.get(spec.content, 1):
        return None
    labeler: Target | None = None
    for name, computed in recipe["params"]["computed"].items():
        labeler = target_of(ds, [(name, computed)])
        if labeler is None:
            return None
    digest = recipe["weights"].get("tokenizer", {}).get("sha256")
    return TokenTarget(
        f"{ref[0]}@{ref[1]}", (spec,), labeler, {ref[0]: digest} if digest else {},
        {ref[0]: ref[1]}, tuple(recipe["reads"].items()), recipe["params"]["views"], recipe["params"]["seed"],
    )  # fmt: skip


def token_steps_of(ds: Dataset, config: Config, refs: Sequence[Ref]) -> list[tuple[Step, Pool]]:
    """Steps and pools that make these token recipes again."""
    targets = [target for ref in refs if (target := token_target_of(ds, ref)) is not None]
    return [(target.step(), Pool(MakeTokenWorker(config.root, target))) for target in targets]


class TokenCheck:
    """Callable (ds, ref, shard) -> '' or what is wrong: tokens of a few samples, made again, must be the stored ones.

    samples: how many a shard. At least nine tenths of their tokens must agree: networks round differently elsewhere.
    """

    def __init__(self, samples: int = 2) -> None:
        self.samples = samples
        self._made: dict[Ref, tuple[TokenTarget, Tokenizer, Labeler | None] | None] = {}

    def __call__(self, ds: Dataset, ref: Ref, k: int) -> str:
        made = self._load(ds, ref)
        shard = open_tokens(ds.open_shard(*ref, k)[0])
        if shard.ids != ds.ids(k):
            return "its ids are not those of the index, in order"
        rows = [int(i) for i in np.flatnonzero(shard.valid)]
        chosen = [rows[int(j * len(rows) / self.samples)] for j in range(min(self.samples, len(rows)))]
        if made is None or not chosen:
            return ""
        target, tokenizer, labeler = made
        views = ShardViews(ds, k, [0], target.seed, chosen)
        spec = target.specs[0]
        inputs = views.on_view(labeler, [spec])[spec.name] if labeler else views.cut(spec, target.reads[0][1])
        for i, row in zip(chosen, encode_rows(tokenizer, inputs), strict=True):
            stored = shard.row(i, 0)
            if isinstance(row, Null) or stored is None or not _close(np.asarray(row[0]), stored):
                return f"the tokens of sample {i} of the shard are not those of its label"
        return ""

    def _load(self, ds: Dataset, ref: Ref) -> tuple[TokenTarget, Tokenizer, Labeler | None] | None:
        if ref not in self._made:
            target = token_target_of(ds, ref)
            self._made[ref] = None
            if target is not None:
                self._made[ref] = (
                    target,
                    target.encoders(ds)[ref[0]],
                    target.labeler.build(ds) if target.labeler else None,
                )
        return self._made[ref]


def _close(again: np.ndarray, stored: np.ndarray) -> bool:
    return again.shape == stored.shape and (not again.size or float((again == stored).mean()) >= 0.9)


def token_rewrite(name: str) -> Rewrite | None:
    """How a token shard is written again with some samples removed; None for what are no tokens."""
    return Rewrite(_write_without, verify_tokens) if name.startswith("tok_") else None


def _write_without(source: Path, target: Path, ids: set[str], inputs: Mapping[str, str]) -> None:
    shard = open_tokens(source)
    rows: list[Row] = []
    for i, sample in enumerate(shard.ids):
        views = [shard.row(i, v) for v in range(shard.meta.views)]
        whole = [view for view in views if view is not None]
        if sample in ids or len(whole) != len(views):
            rows.append(Null(REMOVED if sample in ids else shard.reasons[sample]))
        else:
            rows.append(list(whole))
    write_tokens(target, replace(shard.meta, inputs=dict(inputs)), shard.ids, rows)


def token_column(ds: Dataset, name: str) -> Column:
    """How tokens are compared and shown: views of a sample one after another, by the share of equal tokens."""

    def read(recipe: str, k: int) -> list[np.ndarray | Null]:
        shard = open_tokens(ds.open_shard(name, recipe, k)[0])
        rows: list[np.ndarray | Null] = []
        for i, sample in enumerate(shard.ids):
            views = [shard.row(i, v) for v in range(shard.meta.views)]
            whole = [view for view in views if view is not None]
            rows.append(Null(shard.reasons[sample]) if len(whole) != len(views) else np.concatenate(whole))
        return rows

    def show(label: np.ndarray, image: Any) -> Cell:
        if label.ndim == 2:
            return Words(f"{len(label)} vectors of {label.shape[1]} numbers")
        return Words(" ".join(map(str, label[:64].tolist())) + (" ..." if len(label) > 64 else ""))

    return Column(read, tokens, show)
