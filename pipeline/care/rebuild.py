"""From recipes back to the worker that follows them: what they say is enough to make their shards again, current or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labelers.core.registry import all_labelers
from labelers.core.weights import WeightError, resolve
from pipeline.dataset import Dataset
from pipeline.plan import Ref
from pipeline.recipes import Target


def target_of(ds: Dataset, refs: Sequence[Ref]) -> Target | None:
    """The target that makes these (modality, recipe) pairs, which share a labeler; None where this program has no such
    labeler, or another version of it.
    """
    recipe = ds.recipe(refs[0][1])
    cls = all_labelers().get(recipe["labeler"])
    if cls is None or cls.version != recipe["version"]:
        return None
    files = {slot: weight["sha256"] for slot, weight in recipe["weights"].items()}
    reads = tuple((name, read) for name, read in recipe["reads"].items())
    return Target(recipe["labeler"], recipe["params"], files, reads, tuple(refs), cls.resources.batch)


def weights_at_hand(ds: Dataset, recipe: Mapping[str, Any]) -> bool:
    """Whether the data set keeps the weights of a recipe. Those it does not keep any more are fetched again from where
    they came from, if they still have their digest.
    """
    for weight in recipe["weights"].values():
        try:
            ds.weights_path(weight["sha256"])
        except FileNotFoundError:
            url = f"{weight['url'].partition('#')[0]}#sha256={weight['sha256']}"
            try:
                ds.put_weights(resolve(url).path, weight["sha256"])
            except WeightError:
                return False
    return True


def grouped(ds: Dataset, refs: Sequence[Ref]) -> list[list[Ref]]:
    """Refs that one run of one labeler makes, together."""
    groups: dict[str, list[Ref]] = {}
    for ref in refs:
        recipe = ds.recipe(ref[1])
        key = repr([recipe[part] for part in ("labeler", "version", "params", "weights", "reads")])
        groups.setdefault(key, []).append(ref)
    return list(groups.values())
