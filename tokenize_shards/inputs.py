"""What tokenizers look at: the labels of a shard, cut by the views. Fitting and encoding go through here alike.

Labels made on the whole image (maps, boxes, keypoints) are cut by the view; network features are computed on the view
itself, by running their labeler on the cut pixels, once for all the modalities it makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, Modality, Null
from labelers.core.registry import all_modalities
from pipeline.dataset import Dataset
from tokenize_shards.table import TokenSpec
from tokenize_shards.views import View, cut_edges, cut_image, cut_map, cut_normals, cut_values, view_of

Cut = Any  # what a tokenizer encodes: an array, or for sequences (label, View, id, view number)
VIEW_BATCH = 32


def cut_content(content: str, label: Label, view: View, size: int) -> NDArray[Any]:
    """A map under a view, as its tokenizer takes it: classes and any other numbers by the nearest pixel, what is
    continuous averaged, float32 with NaN (depth) or zero vectors (normals) where unknown.
    """
    if content == "edges":
        return cut_edges(label, view, size)
    if content == "depth":
        return cut_values(label.values, view, size)
    if content == "normals":
        return cut_normals(label, view, size)
    return cut_map(label, view, size)


class ShardViews:
    """One shard under views number `numbers` of a seed; decodes and reads each thing at most once.

    rows: positions in the shard to look at (all where None). Results are one list a row, with one entry a view, or a
    Null for the row.
    """

    def __init__(
        self, ds: Dataset, k: int, numbers: Sequence[int], seed: int, rows: Sequence[int] | None = None
    ) -> None:
        self.ds, self.k, self.numbers, self.seed = ds, k, list(numbers), seed
        index = ds.index(k)
        self.rows = list(range(len(index))) if rows is None else list(rows)
        self.ids = [index[i].id for i in self.rows]
        self.views = [
            [view_of(index[i].id, seed, v, index[i].width, index[i].height) for v in self.numbers] for i in self.rows
        ]
        self._samples: list[Sample | Null] | None = None

    def samples(self) -> list[Sample | Null]:
        """The decoded samples; a Null for one that was removed."""
        if self._samples is None:
            everything = self.ds.samples(self.k)
            self._samples = [everything[i] for i in self.rows]
        return self._samples

    def labels(self, modality: Modality, recipe: str) -> list[Label | Null]:
        everything = self.ds.labels(modality, self.k, recipe)
        return [everything[i] for i in self.rows]

    def cut(self, spec: TokenSpec, recipe: str) -> list[list[Cut] | Null]:
        """The inputs of one tokenizer whose modality is stored."""
        modality = all_modalities().get(spec.modality)
        if spec.modality == "rgb":
            return [
                s if isinstance(s, Null) else [cut_image(s.image, v, spec.size) for v in views]
                for s, views in zip(self.samples(), self.views, strict=True)
            ]
        assert modality is not None, spec.modality
        found: list[list[Cut] | Null] = []
        for row, (label, views) in enumerate(zip(self.labels(modality, recipe), self.views, strict=True)):
            if isinstance(label, Null):
                found.append(label)
            else:
                found.append(
                    [
                        self._cut(spec, modality, label, row, v, view)
                        for v, view in zip(self.numbers, views, strict=True)
                    ]
                )
        return found

    def _cut(self, spec: TokenSpec, modality: Modality, label: Label, row: int, number: int, view: View) -> Cut:
        if spec.kind == "sequence":
            return label, view, self.ids[row], number
        if spec.kind == "vit_vq":
            return cut_content(spec.content, label, view, spec.size)
        return label  # a vector of the whole image

    def on_view(self, labeler: Labeler, specs: Sequence[TokenSpec]) -> dict[str, list[list[Cut] | Null]]:
        """The inputs of tokenizers whose modalities one labeler computes on the view, by token modality."""
        size = specs[0].size
        cut = [
            Sample(s.id, cut_image(s.image, view, size), s.sidecars)
            for s, views in zip(self.samples(), self.views, strict=True) if not isinstance(s, Null) for view in views
        ]  # fmt: skip
        labels: list[Mapping[str, Label | Null]] = []
        for i in range(0, len(cut), VIEW_BATCH):
            labels += labeler.label(cut[i : i + VIEW_BATCH])
        found: dict[str, list[list[Cut] | Null]] = {}
        for spec in specs:
            values = iter([label[spec.modality] for label in labels])
            rows = [s if isinstance(s, Null) else [next(values) for _ in self.numbers] for s in self.samples()]
            found[spec.name] = [
                row if isinstance(row, Null) else next((v for v in row if isinstance(v, Null)), row) for row in rows
            ]
        return found
