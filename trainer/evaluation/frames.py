"""Labels of any recipe in the frame of a view, as decoded tokens are: what predictions are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from labelers.core.modality import Label, Null
from labelers.core.registry import all_modalities
from pipeline.dataset import Dataset
from tokenize_shards.decode import as_label
from tokenize_shards.grammar import drawn_palette
from tokenize_shards.grammar_boxes import cut_detections
from tokenize_shards.grammar_masks import cut_instances, picture_of
from tokenize_shards.grammar_people import cut_people
from tokenize_shards.inputs import ShardViews
from tokenize_shards.sequence import SIDE, SequenceTokenizer
from tokenize_shards.table import TokenSpec
from tokenize_shards.views import View
from trainer.generate.job import Spot
from trainer.lexicon import Lexicon


def labels_in_view(
    lexicon: Lexicon, spec: TokenSpec, recipe: str, spots: Sequence[Spot], view: int, seed: int
) -> list[Label | Null]:
    """One label or Null a sample, of that recipe of the row's modality. Network features, which are computed on the view,
    have none: their own tokens stand for them, and where there are none, the stored vectors of the whole image.
    """
    ds = lexicon.ds
    modality = all_modalities().get(spec.modality)
    tokens = spec.name in lexicon.recipes
    if modality is not None and (not modality.stored or (modality.on_view and tokens)):
        return [Null("computed on the view")] * len(spots)
    found: dict[Spot, Label | Null] = {}
    for k in sorted({k for k, _ in spots}):
        rows = [row for shard, row in spots if shard == k]
        if modality is not None and recipe not in _recipes_with(ds, spec.modality, recipe, k):
            found |= {(k, row): Null("not labelled") for row in rows}
            continue
        views = ShardViews(ds, k, [view], seed, rows)
        for row, cut, id, boxes in zip(rows, views.stream(spec, recipe), views.ids, views.views, strict=True):
            found[k, row] = cut if isinstance(cut, Null) else _one(lexicon, spec, cut[0], id, boxes[0], view)
    return [found[spot] for spot in spots]


def _recipes_with(ds: Dataset, modality: str, recipe: str, k: int) -> list[str]:
    return [recipe] if ds.sound_commit(modality, recipe, k) is not None else []


def _one(lexicon: Lexicon, spec: TokenSpec, cut: Any, id: str, box: View, view: int) -> Label | Null:
    """One cut input of a tokenizer as a label of the view."""
    if spec.kind != "sequence":
        return as_label(spec, cut)
    label = cut[0]
    if spec.content == "det":
        return cut_detections(label, box, SIDE)
    if spec.content == "sam_instance":
        return picture_of(cut_instances(label, box), int(SIDE))
    if spec.content == "human_poses":
        return cut_people(label, box, SIDE)
    if spec.content == "color_palette" and spec.name in lexicon.recipes:
        tokenizer = lexicon.tokenizer(spec.name)
        assert isinstance(tokenizer, SequenceTokenizer)
        return [np.asarray(drawn_palette(label, (id, tokenizer.seed, view)))]
    return label
