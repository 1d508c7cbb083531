"""`manymodal index` and `manymodal retrieve`: vectors into an index, and the nearest samples of what a model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from trainer.checkpoint import MODEL
from trainer.generate.job import Job, Spot
from trainer.lexicon import Lexicon
from trainer.retrieve.index import Found, VectorIndex
from trainer.retrieve.vectors import Vectors, global_modality, labelled, only, predicted, tokenized


def build_index(ds: Dataset, modality: str, source: str, view: int, job: Job | None = None) -> VectorIndex:
    """source: "labels" (whole images), "tokens" (one view), or "model" (what the job predicts)."""
    name = global_modality(modality)
    record: dict[str, Any] = {"modality": name, "source": source}
    if source == "labels":
        return VectorIndex.build(ds, labelled(ds, name), {**record, "recipe": ds.current(name)})
    token = Lexicon(ds).name(name)
    recipe = Lexicon(ds).recipes[token]
    if source == "tokens":
        return VectorIndex.build(ds, tokenized(ds, name, view), {**record, "recipe": recipe, "view": view})
    assert job is not None, "an index of predictions needs a model"
    spots = [(k, row) for k in ds.shards() for row in range(len(ds.ids(k)))]
    record |= {
        "recipe": recipe,
        "view": view,
        "from": list(job.order.sources),
        "model": job.predictor.record["sha256"][MODEL],
    }
    return VectorIndex.build(ds, predicted(job, token, spots), record)


@dataclass
class Retrieved:
    """Queries and what was found. vectors: of the queries; found: see Found; figures: see `score`."""

    vectors: Vectors
    found: Found
    figures: dict[str, float] = field(default_factory=dict)


def retrieve(job: Job, index: VectorIndex, spots: Sequence[Spot], k: int) -> Retrieved:
    """The k samples of the index nearest to what the job predicts of each sample, and how that compares with the real
    embeddings of the same samples, where they are.
    """
    token = job.lexicon.name(index.record["modality"])
    if token not in job.order.request.targets:
        raise ConfigError(
            f"the index is of {index.record['modality']}, the model was asked for {job.order.request.targets}"
        )
    queries = predicted(job, token, spots)
    found = index.search(queries.rows, k + 1)
    figures = score(job, index, queries, found, k) if job.of_samples else {}
    return Retrieved(queries, Found(found.rows[:, :k], found.cosine[:, :k]), figures)


def score(job: Job, index: VectorIndex, queries: Vectors, found: Found, k: int) -> dict[str, float]:
    """self@k: share of queries whose own sample is among the first k. recall@k: share of the k nearest others of the real
    embedding that are among the k nearest others of the predicted one. real_self@k: what the real embedding's own tokens
    reach. cosine: of predicted and real embedding. All over the queries that have a real embedding; none where none has.
    """
    token = job.lexicon.name(index.record["modality"])
    try:
        real = only(tokenized(job.ds, token, job.order.view), queries.spots)
    except ConfigError:  # nobody has one: captions can be searched in a data set of embeddings alone
        return {}
    if not len(real.rows):
        return {}
    at = queries.at()
    mine = [at[spot] for spot in real.spots]
    theirs = index.search(real.rows, k + 1).rows
    names = {spot: i for i, spot in enumerate(index.spots)}
    hit, real_hit, recall = [], [], []
    for i, spot, row in zip(mine, real.spots, theirs, strict=True):
        own = names.get(spot, -1)
        hit.append(own in found.rows[i, :k])
        real_hit.append(own in row[:k])
        wanted = [n for n in row if n not in (own, -1)][:k]
        got = [n for n in found.rows[i] if n not in (own, -1)][:k]
        recall.append(len(set(wanted) & set(got)) / max(1, len(wanted)))
    cosine = float(np.mean(np.sum(real.rows * queries.rows[mine], axis=1)))
    return {
        f"self@{k}": float(np.mean(hit)), f"real_self@{k}": float(np.mean(real_hit)), f"recall@{k}": float(np.mean(recall)),
        "cosine": cosine, "queries": float(len(mine)),
    }  # fmt: skip
