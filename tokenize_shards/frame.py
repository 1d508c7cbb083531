"""Comparing decoded labels with what they came from: the other side is brought into the same view, as the tokenizer saw
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from labelers.core.labeler import Labeler
from labelers.core.modality import Label, Null
from labelers.core.registry import all_modalities
from pipeline.care.diff import Column
from pipeline.care.rebuild import target_of as labeler_of
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.plan import Ref
from tokenize_shards import grammar, grammar_boxes, grammar_masks, grammar_people
from tokenize_shards.decode import as_label, is_decoded, modality_of
from tokenize_shards.inputs import Cut, ShardViews
from tokenize_shards.rebuild import spec_of
from tokenize_shards.sequence import SIDE
from tokenize_shards.table import TokenSpec
from tokenize_shards.views import cut_image

_KEPT = 8  # shards whose labels stay in memory while the worst cases are shown


def framed_column(ds: Dataset, a: Ref, b: Ref) -> Column:
    """How two recipes of a modality are read where at least one is decoded from tokens: both in the frame of its view."""
    recipe = ds.recipe((a if is_decoded(ds, a) else b)[1])
    frame = _Frame(ds, recipe)
    modality = modality_of(a[0])

    @lru_cache(_KEPT)
    def read(name: str, k: int) -> Sequence[Label | Null]:
        return ds.labels(modality, k, name) if is_decoded(ds, (a[0], name)) else frame.labels(name, k)

    return Column(read, modality.compare, modality.show, modality.scores, frame.shards, frame.picture)


class _Frame:
    """One view of every sample, as the tokenizer of a decoded recipe looks at it."""

    def __init__(self, ds: Dataset, recipe: dict[str, Any]) -> None:
        self.ds, self.spec = ds, spec_of(recipe)
        self.view, self.seed = int(recipe["params"]["view"]), int(recipe["params"]["seed"])
        self._labelers: dict[str, Labeler] = {}

    def _views(self, k: int, rows: Sequence[int] | None = None) -> ShardViews:
        return ShardViews(self.ds, k, [self.view], self.seed, rows)

    def labels(self, recipe: str, k: int) -> list[Label | Null]:
        """The labels of a recipe that was not decoded, in this frame."""
        modality = all_modalities().get(self.spec.modality)
        views = self._views(k)
        if modality is not None and modality.on_view:
            rows = views.on_view(self._labeler(recipe), [self.spec])[self.spec.name]
        else:
            rows = views.cut(self.spec, recipe)
        units = iter(views.labels(modality, recipe)) if self.spec.content == "depth" and modality else None
        found: list[Label | Null] = []
        for row in rows:
            unit = getattr(next(units), "unit", "relative") if units else "relative"
            found.append(row if isinstance(row, Null) else as_seen(self.spec, row[0], self.seed, unit))
        return found

    def _labeler(self, recipe: str) -> Labeler:
        if recipe not in self._labelers:
            target = labeler_of(self.ds, [(self.spec.modality, recipe)])
            if target is None:
                raise ConfigError(
                    f"{self.spec.modality}@{recipe}: this program has no such labeler, or another version."
                )
            self._labelers[recipe] = target.build(self.ds)
        return self._labelers[recipe]

    def shards(self, recipe: str) -> set[int]:
        """The shards of which there are labels: of what is computed on the view, all."""
        modality = all_modalities().get(self.spec.modality)
        if modality is not None and modality.on_view and not is_decoded(self.ds, (modality.name, recipe)):
            return set(self.ds.shards())
        return set(self.ds.commits(self.spec.modality, recipe))

    def picture(self, k: int, place: int, image: Any) -> Any:
        """The photo under the view, in the frame of the labels."""
        return cut_image(image, self._views(k, [place]).views[0][0], self.spec.size or int(SIDE))


def as_seen(spec: TokenSpec, cut: Cut, seed: int, unit: str = "relative") -> Label:
    """What a tokenizer is given of one view, as a label in the frame of what it decodes to."""
    if spec.kind != "sequence":
        return as_label(spec, cut, unit)
    label, view, sample, number = cut
    side = int(SIDE)
    made: dict[str, Callable[[], Label]] = {
        "color_palette": lambda: [grammar.drawn_palette(label, (sample, seed, number))],
        "det": partial(grammar_boxes.cut_detections, label, view, SIDE),
        "human_poses": partial(grammar_people.cut_people, label, view, SIDE),
        "sam_instance": lambda: grammar_masks.picture_of(grammar_masks.cut_instances(label, view), side),
    }
    return made[spec.content]() if spec.content in made else label
