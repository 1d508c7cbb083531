"""Recipes: everything that decides a modality's bytes, written down, and their order in the graph of labelers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from labelers.core.labeler import Labeler
from labelers.core.modality import Modality
from pipeline.config import Config, make_labeler
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.licences import own_weights
from pipeline.records import SOURCE, recipe_id
from pipeline.storage import open_storage
from pipeline.weights import resolve_weights


@dataclass(frozen=True)
class Target:
    """One labeler as a run uses it: how to build it again in another process, what it reads, what it writes.

    files: weight slot -> sha256 in the data set's `_weights`. reads, outputs: (modality, recipe) pairs. batch: images a
    call.
    """

    labeler: str
    params: Mapping[str, Any]
    files: Mapping[str, str]
    reads: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    batch: int

    def build(self, ds: Dataset, files: Mapping[str, Path] | None = None) -> Labeler:
        """The labeler, its weights found by digest, its networks loaded. files: weights that are elsewhere, by sha256."""
        found = {s: (files or {}).get(sha) or ds.weights_path(sha) for s, sha in self.files.items()}
        labeler = make_labeler(self.labeler, self.params, found)
        labeler.setup()
        return labeler


def in_order(labelers: Mapping[str, Labeler], maker: Mapping[str, str] | None = None) -> list[str]:
    """Names so that each labeler comes after those whose modalities it reads. ConfigError for a circle.

    maker: whose modality is read, where several labelers produce it.
    """
    maker = maker or {m.name: name for name, labeler in labelers.items() for m in labeler.produces}
    graph = {name: {maker[r] for r in labeler.reads if r in maker} for name, labeler in labelers.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ConfigError(f"labelers read each other in a circle: {' -> '.join(error.args[1])}. Disable one.") from None


def recipe_of(
    labeler: Labeler, modality: Modality, weights: Mapping[str, Mapping[str, str]], reads: Mapping[str, str]
) -> dict[str, Any]:
    """The recipe of one modality a labeler makes. weights: slot -> {url, sha256}. reads: modality -> recipe id.

    A backend's name names its weights too; where the configuration put others in their place, the recipe says so.
    """
    urls = {slot: found["url"] for slot, found in weights.items() if slot not in labeler.sources}
    backend = labeler.backend if own_weights(type(labeler), urls) else f"{labeler.backend}; other weights"
    return {
        "modality": modality.name,
        "labeler": labeler.name,
        "version": labeler.version,
        "backend": backend,
        "params": labeler.params.model_dump(mode="json"),
        "weights": {slot: dict(found) for slot, found in weights.items()},
        "reads": dict(reads),
        **({"code": dict(labeler.code())} if labeler.code() else {}),
    }


def desired(
    config: Config, only: Sequence[str] = ()
) -> tuple[list[tuple[Target, list[dict[str, Any]]]], dict[str, Path]]:
    """What the configuration asks for: targets in graph order, each with its recipes, and weight files by sha256.

    Weights are resolved here, once, by the driver. only: modalities to keep (with what they read); all where empty.
    """
    settings_of, makers = config.enabled_labelers(), config.makers()
    labelers = {name: config.labeler(name) for name in settings_of}
    recipes: dict[str, str] = dict([SOURCE])
    files: dict[str, Path] = {}
    targets: list[tuple[Target, list[dict[str, Any]]]] = []
    for name in _needed(in_order(labelers, makers), labelers, makers, only):
        labeler, settings = labelers[name], settings_of[name]
        produces = [m for m in labeler.produces if makers[m.name] == name]
        urls = _named(name, labeler, settings.weights)
        found = resolve_weights(lambda: open_storage(config.root), urls)
        files |= {weight.sha256: weight.path for weight in found.values()}
        weights = {slot: {"url": weight.url, "sha256": weight.sha256} for slot, weight in found.items()}
        reads = {"rgb": recipes["rgb"], **{r: recipes[r] for r in labeler.reads if r in recipes}}
        made = [recipe_of(labeler, m, weights, reads) for m in produces]
        outputs = []
        for modality, recipe in zip(produces, made, strict=True):
            recipes[modality.name] = recipe_id(recipe)
            if modality.stored or settings.store:
                outputs.append((modality.name, recipe_id(recipe)))
        params = labeler.params.model_dump(mode="json")
        batch = settings.batch or labeler.resources.batch
        slots = {slot: weight.sha256 for slot, weight in found.items()}
        targets.append((Target(name, params, slots, tuple(reads.items()), tuple(outputs), batch), made))
    return targets, files


def _named(name: str, labeler: Labeler, named: Mapping[str, str]) -> dict[str, str]:
    """URLs of weights and sources by slot. ConfigError for a source that the configuration must name and does not."""
    missing = [slot for slot in labeler.sources if not named.get(slot)]
    if missing:
        raise ConfigError(
            f"labelers.{name}.weights.{missing[0]}: must be named, for example "
            f"--set labelers.{name}.weights.{missing[0]}=file:PATH (what it may hold: {labeler.backend})."
        )
    return {**labeler.weights, **named}


def _needed(
    order: Sequence[str], labelers: Mapping[str, Labeler], makers: Mapping[str, str], only: Sequence[str]
) -> list[str]:
    """The labelers that make `only` and, through the graph, what they read; all of them where `only` is empty."""
    if not only:
        return list(order)
    unknown = [name for name in only if name not in makers]
    if unknown:
        raise ConfigError(f"no enabled labeler makes {unknown[0]!r}. Made: {', '.join(sorted(makers))}.")
    wanted, keep = set(only), []
    for name in reversed(order):
        if wanted & {modality for modality, maker in makers.items() if maker == name}:
            wanted |= set(labelers[name].reads)
            keep.append(name)
    return keep[::-1]
