"""Global embeddings of a data set's samples, unit length: as labelled, as tokenized, or as a model predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from labelers.core.modality import Null
from labelers.core.registry import all_modalities
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from trainer.generate.job import Job, Spot
from trainer.lexicon import Lexicon

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """rows: float32 (n, d), unit length. spots: (shard, row) of each. missing: samples that have none."""

    rows: Floats
    spots: tuple[Spot, ...]
    missing: int = 0

    def at(self) -> dict[Spot, int]:
        return {spot: i for i, spot in enumerate(self.spots)}


def unit(rows: npt.NDArray[np.floating]) -> Floats:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)


def of_pairs(pairs: Sequence[tuple[Spot, npt.NDArray[np.floating] | None]]) -> Vectors:
    """ConfigError where no sample has one."""
    some = [(spot, row) for spot, row in pairs if row is not None]
    if not some:
        raise ConfigError("no sample has such an embedding; label or tokenize it first")
    return Vectors(unit(np.stack([row for _, row in some])), tuple(spot for spot, _ in some), len(pairs) - len(some))


def global_modality(name: str) -> str:
    """The modality of that name. ConfigError where it is no vector."""
    modality = all_modalities().get(name.removeprefix("tok_"))
    if modality is None or modality.kind != "vector":
        known = ", ".join(n for n, m in all_modalities().items() if m.kind == "vector")
        raise ConfigError(f"{name}: is no embedding to search by. Known: {known}.")
    return modality.name


def labelled(ds: Dataset, modality: str) -> Vectors:
    """Of the whole image, as the current recipe's label shards have them."""
    pairs = []
    for k in ds.shards():
        for row, label in enumerate(ds.labels(all_modalities()[modality], k)):
            pairs.append(((k, row), None if isinstance(label, Null) else label))
    return of_pairs(pairs)


def tokenized(ds: Dataset, modality: str, view: int) -> Vectors:
    """Of one view, decoded from its tokens."""
    lexicon = Lexicon(ds)
    name, pairs = lexicon.name(modality), list[tuple[Spot, npt.NDArray[np.floating] | None]]()
    for k in ds.shards():
        shard = lexicon.shard(name, k)
        if not 0 <= view < shard.meta.views:
            raise ConfigError(f"view {view}: {name} has views 0..{shard.meta.views - 1}")
        decoded = lexicon.decode(name, [shard.row(i, view) for i in range(len(shard))])
        pairs += [((k, i), row if isinstance(row, np.ndarray) else None) for i, row in enumerate(decoded)]
    return of_pairs(pairs)


def predicted(job: Job, target: str, spots: Sequence[Spot]) -> Vectors:
    """What the model expects of each sample: the embedding of its probabilities, not of the likeliest tokens, which is
    nearer to the real one. One that was drawn, or the mean of the job's variants, where a part of the embedding is given
    or its tokenizer has no average. target: a token modality among the job's.
    """
    if job.averages(target):
        means = [(spot, [unit(label) for label in labels]) for spot, labels in job.expected(target, spots)]
        return of_pairs([(spot, np.mean(rows, axis=0) if rows else None) for spot, rows in means])
    return drawn(job, target, spots)


def drawn(job: Job, target: str, spots: Sequence[Spot]) -> Vectors:
    """Decoded from tokens as `generate` makes them, the mean over the job's variants."""
    pairs = []
    for result in job.run(spots):
        decoded = job.lexicon.decode(target, [tokens[target] for tokens in result.tokens])
        rows = [unit(row) for row in decoded if isinstance(row, np.ndarray)]
        pairs.append((result.spot, np.mean(rows, axis=0) if rows else None))
    return of_pairs(pairs)


def only(vectors: Vectors, spots: Sequence[Spot]) -> Vectors:
    """Those of some samples, in their order; samples without one are left out."""
    at = vectors.at()
    kept = [spot for spot in spots if spot in at]
    return replace(vectors, rows=vectors.rows[[at[spot] for spot in kept]], spots=tuple(kept))
