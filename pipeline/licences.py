"""Under which terms labels stand: the licences of the backend that made them, and of the weights it really used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from labelers.core.labeler import Labeler, Licence
from labelers.core.registry import all_labelers
from labelers.core.weights import parse
from pipeline.dataset import Dataset
from pipeline.records import recipe_id

OTHERS = "of the file that the configuration names"


def terms(cls: type[Labeler]) -> str:
    """'code MIT, weights CC-BY-NC-4.0, NOT for commercial use'"""
    return _words(cls.licence)


def _words(licence: Licence) -> str:
    found = f"code {licence.code}, weights {licence.weights}"
    return found if licence.commercial else f"{found}, NOT for commercial use"


def own_weights(cls: type[Labeler], weights: Mapping[str, str]) -> bool:
    """Whether URLs, by slot, name the weights whose licence the labeler states: the same package or repository."""
    return all(slot in cls.weights and _origin(url) == _origin(cls.weights[slot]) for slot, url in weights.items())


def _origin(url: str) -> tuple[str, str, str]:
    parsed = parse(url)
    return parsed.scheme, parsed.name, parsed.member


def licence_of(recipe: Mapping[str, Any]) -> Licence | None:
    """The licences of labels made by a recipe; None for a labeler that is not installed here.

    Weights that the configuration put in the place of the labeler's own are under terms that only their owner knows, and
    the answer says so.
    """
    cls = all_labelers().get(str(recipe["labeler"]))
    if cls is None:
        return None
    urls = {slot: str(weight["url"]) for slot, weight in recipe["weights"].items() if slot not in cls.sources}
    return cls.licence if own_weights(cls, urls) else dataclasses.replace(cls.licence, weights=OTHERS)


def terms_of(recipe: Mapping[str, Any]) -> str:
    """`licence_of` in words; '' where it is None."""
    licence = licence_of(recipe)
    return "" if licence is None else _words(licence)


def first_uses(ds: Dataset, recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each labeler whose licence forbids commercial use and of which the data set has no recipe yet."""
    known = all_labelers()
    names = dict.fromkeys(
        str(recipe["labeler"]) for recipe in recipes if not ds.storage.exists(f"_recipes/{recipe_id(recipe)}.json")
    )
    return [
        f"{name}: {known[name].backend} is under {terms(known[name])}. What it makes, and a model trained on it, may be bound by "
        f"that too; --set labelers.{name}.enabled=false leaves it out."
        for name in names
        if name in known and not known[name].licence.commercial
    ]
