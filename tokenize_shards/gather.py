"""Where fits get their views: read from the shards evenly over all photos, or, where that is too much for memory,
streamed shard by shard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelers.core.labeler import Labeler
from labelers.core.modality import Null
from pipeline.config import Config
from pipeline.dataset import Dataset
from tokenize_shards.holdout import held_out
from tokenize_shards.inputs import Cut, ShardViews
from tokenize_shards.source import InMemory, Source, Streamed
from tokenize_shards.table import TokenSpec
from tokenize_shards.tokenize import view_labeler

FIT_SEED = 0x5EED  # added to the seed of the views, so that a fit sees other crops than are tokenized
MAX_VIEWS = {"cut": 1600, "on_view": 240}  # views held in memory, held-out ones included; networks on views are slow


@dataclass
class FitData:
    """Inputs of one tokenizer: views of photos to learn from, and of held-out ones. read: for a tokenizer that is
    streamed, block number -> views (see source.Streamed); None where `train` is all there is.
    """

    train: list[Cut]
    heldout: list[Cut]
    read: Callable[[int], np.ndarray] | None = None

    def source(self) -> Source:
        """The views of an array modality to learn from."""
        train = np.stack(self.train) if self.train else np.zeros((0,))
        return InMemory(train) if self.read is None else Streamed(self.read, train)

    def heldout_array(self) -> np.ndarray:
        """The held-out views of an array modality; empty, with the shape of the others, where there are none."""
        return np.stack(self.heldout) if self.heldout else np.stack(self.train[:1])[:0]


class Gatherer:
    """Reads inputs for fits. A data set of more photos than `MAX_VIEWS` (or `tokens.fit_buffer`) is streamed: blocks of
    whole shards, in another order and with another crop of every photo in each pass. What a network computes on the
    view is streamed only where there is a GPU; without one it is fitted on a sample, or the network would run all the
    time.
    """

    def __init__(self, ds: Dataset, config: Config) -> None:
        self.ds, self.seed = ds, config.tokens.seed + FIT_SEED
        self.buffer = config.tokens.fit_buffer
        self.held = {k: held_out(ds.ids(k), config.tokens.holdout) for k in ds.shards()}
        self.samples = sum(len(held) for held in self.held.values())

    def _rows(self, limit: int) -> tuple[dict[int, list[int]], int]:
        """Rows of each shard to look at, and views a row, so that at most `limit` views are made."""
        stride, first = max(1, -(-self.samples // limit)), 0
        rows = {}
        for k, held in self.held.items():  # every stride-th sample of the data set, not of each shard
            rows[k] = list(range(-first % stride, len(held), stride))
            first += len(held)
        return rows, int(np.clip(limit // max(1, sum(map(len, rows.values()))), 1, 8))

    def _heldout_rows(self, rows: dict[int, list[int]], views: int, limit: int) -> dict[int, list[int]]:
        """The held-out rows to measure on: those among `rows`, or where these have none, a few from all over."""
        chosen = {k: [row for row in some if self.held[k][row]] for k, some in rows.items()}
        if not any(chosen.values()):
            places = [(k, int(row)) for k, held in self.held.items() for row in np.flatnonzero(held)]
            for k, row in places[:: max(1, len(places) * views * 5 // limit)]:
                chosen[k].append(row)
        return chosen

    def gather(self, members: Sequence[TokenSpec]) -> dict[str, FitData]:
        """The inputs of one group of token modalities, by name."""
        target = view_labeler(self.ds, members)
        labeler = target.build(self.ds) if target else None
        limit = self.buffer or MAX_VIEWS["on_view" if labeler else "cut"]
        rows, views = self._rows(limit)
        apart = self._heldout_rows(rows, views, limit)
        # Of now to the end of the fit, though labels may be replaced meanwhile.
        reads = {spec.modality: self.ds.current(spec.modality) for spec in members}
        data = {spec.name: FitData([], []) for spec in members}
        trained = [_training(spec) for spec in members]
        for k, chosen in rows.items():
            learned, held = [row for row in chosen if not self.held[k][row]], apart[k]
            looks = (
                [(sorted([*learned, *held]), members)]
                if trained == list(members)
                else [(learned, trained), (held, members)]
            )
            for some, sized in looks:  # two, where held-out views have another size: a shard is read as often
                found = self._look(k, some, range(views), labeler, sized, reads) if some else {}
                for name, cuts in found.items():
                    for row, views_of_row in zip(some, cuts, strict=True):
                        if not isinstance(views_of_row, Null):
                            (data[name].heldout if self.held[k][row] else data[name].train).extend(views_of_row)
        if self.samples > limit and (labeler is None or _has_gpu()):
            for spec in members:
                if spec.kind != "sequence":
                    data[spec.name].read = self._blocks(_training(spec), labeler, limit, reads)
        return data

    def _look(
        self, k: int, rows: Sequence[int], numbers: Sequence[int], labeler: Labeler | None,
        members: Sequence[TokenSpec], reads: Mapping[str, str],
    ) -> dict[str, list[list[Cut] | Null]]:  # fmt: skip
        shard = ShardViews(self.ds, k, numbers, self.seed, rows)
        if labeler is not None:
            return shard.on_view(labeler, members)
        return {spec.name: shard.cut(spec, reads[spec.modality]) for spec in members}

    def _blocks(
        self, spec: TokenSpec, labeler: Labeler | None, limit: int, reads: Mapping[str, str]
    ) -> Callable[[int], np.ndarray]:
        """Reads a block: so many whole shards that about `limit` views are held; view number p of each photo in pass p."""
        shards = [k for k, held in self.held.items() if not held.all()]
        together = max(1, limit // max(len(held) for held in self.held.values()))
        blocks = -(-len(shards) // together)

        def read(number: int) -> np.ndarray:
            turn, part = divmod(number, blocks)
            order = np.random.default_rng([self.seed, turn]).permutation(len(shards))
            found: list[Any] = []
            for i in order[part * together : (part + 1) * together]:
                k = shards[int(i)]
                rows = np.flatnonzero(~self.held[k]).tolist()
                cuts = self._look(k, rows, [turn], labeler, [spec], reads)[spec.name]
                found += [view for views in cuts if not isinstance(views, Null) for view in views]
            return np.stack(found) if found else np.zeros((0,))

        return read


def _training(spec: TokenSpec) -> TokenSpec:
    """The row at the largest resolution its tokenizer is fitted at: smaller ones are made of it."""
    largest = max([spec.size, *spec.params.get("resolutions", ())])
    if spec.kind != "vit_vq" or largest == spec.size or spec.content == "features":
        return spec
    return dataclasses.replace(spec, size=largest, tokens=(largest // spec.patch) ** 2)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
