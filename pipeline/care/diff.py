"""Two recipes of one modality, sample by sample, with the metric that fits; imported ground truth is a recipe like any
other, so this scores labels too.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labelers.core.compare import METRICS, Compare
from labelers.core.modality import Label, Null
from labelers.core.registry import all_modalities
from labelers.core.scores import Scores, ScoresByClass
from labelers.core.show import Cell, Words
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.plan import Ref


@dataclass(frozen=True)
class Column:
    """How a modality is read and compared. read: (recipe, shard) -> labels in index order. scores: makes what pools all
    pairs, where the field has such scores (B is the reference). shards: those a recipe can be read of, the committed
    ones where None. picture: (shard, place, photo) -> what the labels lie on, the photo itself where None.
    """

    read: Callable[[str, int], Sequence[Label | Null]]
    compare: Compare
    show: Callable[[Label, Any], Cell]
    scores: Callable[[], Scores] | None = None
    shards: Callable[[str], set[int]] | None = None
    picture: Callable[[int, int, Any], Any] | None = None


@dataclass
class Diff:
    """a, b: the recipes. samples: compared. equal: with every metric perfect. only_a, only_b: labels the other side has a
    null for, or not the shard. both_null. metrics: name -> mean, median, worst 5 % of its distribution. pooled: scores over
    all boxes, pixels or masks together, B being the reference; by_class: the same for each class of B, where there are
    classes (IoU of class maps, AP of boxes). worst: (score, shard, place, id, metrics), worst first, by the first metric.
    """

    a: Ref
    b: Ref
    samples: int = 0
    equal: int = 0
    only_a: int = 0
    only_b: int = 0
    both_null: int = 0
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    pooled: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, float] = field(default_factory=dict)
    worst: list[tuple[float, int, int, str, dict[str, float]]] = field(default_factory=list)


def label_column(ds: Dataset, name: str) -> Column:
    """Labels of the registry's modalities. ConfigError where there is none of that name."""
    modality = all_modalities().get(name)
    if modality is None:
        raise ConfigError(f"{name}: no labeler here makes it, so nothing here can read it.")
    return Column(lambda recipe, k: ds.labels(modality, k, recipe), modality.compare, modality.show, modality.scores)


def diff(ds: Dataset, a: Ref, b: Ref, column: Column, keep: int = 24) -> Diff:
    """Compare every shard both have, and count what one alone has. ConfigError where they are of different modalities or
    share no shard.
    """
    if a[0] != b[0]:
        raise ConfigError(f"diff compares recipes of one modality, not {a[0]} with {b[0]}.")
    have = column.shards or (lambda recipe: set(ds.commits(a[0], recipe)))
    of_a, of_b = have(a[1]), have(b[1])
    shards = sorted(of_a & of_b)
    if not shards:
        raise ConfigError(f"{a[0]}@{a[1]} and {b[0]}@{b[1]} have no shard in common. Label both first.")
    result = Diff(a, b, only_a=_labels_in(ds, a, of_a - of_b), only_b=_labels_in(ds, b, of_b - of_a))
    values: dict[str, list[float]] = {}
    heap: list[tuple[float, int, int, str, dict[str, float]]] = []
    scores = column.scores() if column.scores else None
    for k in shards:
        for place, (sample, x, y) in enumerate(zip(ds.ids(k), column.read(a[1], k), column.read(b[1], k), strict=True)):
            if isinstance(x, Null) or isinstance(y, Null):
                result.both_null += isinstance(x, Null) and isinstance(y, Null)
                result.only_a += not isinstance(x, Null)
                result.only_b += not isinstance(y, Null)
                continue
            metrics = column.compare(x, y)
            if scores is not None:
                scores.add(x, y)
            result.samples += 1
            result.equal += all(METRICS[m].equal == v for m, v in metrics.items())
            for name, value in metrics.items():
                values.setdefault(name, []).append(value)
            if metrics:
                first, value = next(iter(metrics.items()))
                badness = -value if METRICS[first].more_is_better else value
                heapq.heappush(heap, (badness, k, place, sample, metrics))
                if len(heap) > keep:
                    heapq.heappop(heap)
    result.pooled = scores.result() if scores is not None else {}
    result.by_class = scores.by_class() if isinstance(scores, ScoresByClass) else {}
    result.metrics = {name: _summary(name, found) for name, found in values.items()}
    result.worst = sorted(heap, key=lambda case: (-case[0], case[1], case[2]))
    return result


def _labels_in(ds: Dataset, ref: Ref, shards: set[int]) -> int:
    """How many labels of these shards are no null, by their commits: what is computed for a look is no label one has."""
    commits = ds.commits(*ref)
    return sum(commits[k].count - len(commits[k].nulls) for k in shards & set(commits))


def _summary(name: str, values: list[float]) -> dict[str, float]:
    worst = 5 if METRICS[name].more_is_better else 95
    return {
        "mean": float(np.mean(values)), "median": float(np.median(values)),
        "worst_5_percent": float(np.percentile(values, worst)), "samples": len(values),
    }  # fmt: skip


def cells(ds: Dataset, result: Diff, column: Column) -> list[tuple[Cell, Cell, Any]]:
    """For each worst case: the label of A and of B as a person sees them, and the photo (uint8 RGB) or None."""
    shown = []
    for _, k, place, _, _ in result.worst:
        sample = ds.samples(k)[place]
        image = None if isinstance(sample, Null) else sample.image
        if image is not None and column.picture is not None:
            image = column.picture(k, place, image)
        pair = [column.read(recipe, k)[place] for recipe in (result.a[1], result.b[1])]
        made = [Words(x.reason, muted=True) if isinstance(x, Null) else column.show(x, image) for x in pair]
        shown.append((made[0], made[1], image))
    return shown
