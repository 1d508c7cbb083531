"""From words of the command line to an Order: names, settings, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import yaml

from labelers.core.modality import Null
from pipeline.care.why import find_sample
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tokenize_shards.holdout import held_out
from tokenize_shards.inputs import ShardViews
from tokenize_shards.views import cut_image
from trainer.generate.chain import Request, in_order
from trainer.generate.decoding import Decoding
from trainer.generate.decoding import Order as Way
from trainer.generate.job import Order, Spot, settings_of
from trainer.generate.schedule import Cooling, Counts
from trainer.lexicon import Lexicon

PAGE_SIDE = 224
CHOICES: Mapping[str, tuple[str, ...]] = {
    "order": get_args(Way), "counts": get_args(Counts), "cooling": get_args(Cooling)
}  # fmt: skip
NUMBERS: Mapping[str, type] = {
    "steps": int, "top_k": int, "seed": int, "temperature": float, "top_p": float, "guidance": float
}  # fmt: skip


def make_order(
    ds: Dataset, sources: Sequence[str], targets: Sequence[str], given: Mapping[str, str], common: Mapping[str, Any],
    special: Sequence[str], chain: bool, as_written: bool, dense: int, view: int, variants: int, model: str,
) -> Order:  # fmt: skip
    """ConfigError for names the data set does not know and settings that do not exist."""
    lexicon = Lexicon(ds)
    if not targets:
        raise ConfigError("generate: name what to generate with --to, e.g. --from rgb --to canny_edge,caption")
    if variants < 1 or dense < 0:
        raise ConfigError(f"--variants {variants} must be at least 1, and --dense {dense} at least 0")
    named = [lexicon.name(t) for t in targets]
    named = named if as_written else in_order(named)
    weights = {lexicon.name(n): _number(n, v) for n, v in common.get("weights", {}).items()}
    usual = Decoding(**_checked({**common, "weights": weights}))
    own = {}
    for text in special:
        name, colon, values = text.partition(":")
        if not colon or lexicon.name(name) not in named:
            raise ConfigError(f"--for {text}: expected TARGET:setting=value,..., TARGET one of {', '.join(targets)}")
        pairs = [pair.partition("=") for pair in values.split(",")]
        own[lexicon.name(name)] = _checked({key.strip(): _value(text, value) for key, _, value in pairs})
    how = settings_of(named, usual, own, [n for n in named if lexicon.spec(n).stream == "sequence"])
    by_hand = {lexicon.name(n): text for n, text in given.items()}
    shown = tuple(lexicon.name(n) for n in sources)
    return Order(shown, Request(tuple(named), how, chain, dense), by_hand, view, variants, model)


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"--weight {name}={value}: is no number") from None


def _value(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--for {text}: {value!r} is no value") from None


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    for name, choices in CHOICES.items():
        if name in values and values[name] not in choices:
            raise ConfigError(f"{name}: {values[name]!r} is not one of {', '.join(choices)}")
    for name, kind in NUMBERS.items():
        value = values.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
            raise ConfigError(f"{name}: {value!r} is no {'number' if kind is float else 'whole number'}")
    return dict(values)


def held_share(holdout: float, record: Mapping[str, Any] | None) -> float:
    """The share of photos that neither tokenizers (holdout) nor a model (its record) learned from: each keeps out the first
    photos of one order.
    """
    return min(holdout, float((record or {}).get("config", {}).get("holdout", holdout)))


def pick_spots(ds: Dataset, holdout: float, rows: int, samples: Sequence[str], learned: bool = True) -> list[Spot]:
    """The samples of a run: those named, or `rows` spread over the data set, two thirds of them held out of training; all
    where rows is 0. learned: whether photos that were learned from are among them. In index order.
    """
    if samples:
        return sorted({find_sample(ds, text)[:2] for text in samples})
    marked = [(k, i, bool(h)) for k in ds.shards() for i, h in enumerate(held_out(ds.ids(k), holdout))]
    out, others = [m for m in marked if m[2]], [m for m in marked if learned and not m[2]]
    rows = len(marked) if rows <= 0 else rows
    first = _spread(out, max(rows * 2 // 3, rows - len(others)))
    return sorted((k, i) for k, i, _ in [*first, *_spread(others, rows - len(first))])


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    if count <= 0 or not items:
        return []
    step = max(1.0, len(items) / count)
    return [items[int(i * step)] for i in range(min(count, len(items)))]


def pictures_of(ds: Dataset, spots: Sequence[Spot], view: int, seed: int) -> dict[Spot, np.ndarray]:
    """The view of each sample as a page shows it: uint8 (224, 224, 3)."""
    found: dict[Spot, np.ndarray] = {}
    for k in sorted({k for k, _ in spots}):
        rows = [row for shard, row in spots if shard == k]
        views = ShardViews(ds, k, [view], seed, rows)
        for row, sample, boxes in zip(rows, views.samples(), views.views, strict=True):
            if not isinstance(sample, Null):
                found[k, row] = cut_image(sample.image, boxes[0], PAGE_SIDE)
    return found
