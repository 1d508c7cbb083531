"""Batches of tokens from one or several data sets: shuffled deterministically, mixed by weight, resumed from a few
integers.

Which data set a sample comes from follows from its number in the endless stream; each data set hands out its own
samples in its own endless order (see shuffle.py). So the stream of samples is the same however many workers share it,
and the state of a loader is how many samples each data set has handed out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from trainer.corpus import Column, Corpus, LazyShards, join
from trainer.shuffle import Order, mix, pick_view, take, upcoming
from trainer.streams import Batch, Stream, Tokens, tables

__all__ = ["Blend", "Column", "Corpus", "Loader", "Picks", "part_of"]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: its multiples spread evenly


@dataclass(frozen=True)
class Picks:
    """The samples of a batch, (B,) int64 each: which data set, shard of it, row of the shard, and view."""

    source: Order
    shard: Order
    row: Order
    view: Order

    def __getitem__(self, part: slice) -> Picks:
        return Picks(self.source[part], self.shard[part], self.row[part], self.view[part])

    def __len__(self) -> int:
        return len(self.source)


class Blend:
    """Several data sets as one. weights: how often a sample comes from each, relative to the others.

    streams: those of all, in order of first use; a sample lacks what its data set does not have.
    """

    def __init__(self, corpora: Sequence[Corpus], weights: Sequence[float] | None = None) -> None:
        """ConfigError for a weight that is not positive, or where tokens of one name mean different things."""
        self.corpora = tuple(corpora)
        given = np.array(weights if weights is not None else [1.0] * len(corpora), float)
        if not len(given) or len(given) != len(corpora) or not (np.isfinite(given) & (given > 0)).all():
            raise ConfigError(f"train: the weights of data sets are {given.tolist()}; each must be above 0")
        self.weights = given / given.sum()
        streams: dict[str, Stream] = {}
        for corpus in corpora:
            for stream in corpus.streams:
                self._agree(streams.setdefault(stream.name, stream), stream, corpus)
        self.streams = tuple(streams.values())
        tables(self.streams)
        self._bounds = (np.cumsum(self.weights)[:-1] * 2.0**64).astype(np.uint64)

    def _agree(self, mine: Stream, other: Stream, corpus: Corpus) -> None:
        makers = [c.makers[mine.name] for c in self.corpora if mine.name in c.makers]
        if mine != other or len(set(makers)) > 1:
            raise ConfigError(
                f"{mine.name}: two data sets have it by different tokenizers (or of another length or vocabulary); "
                "tokenize them with the same tokenizer, or leave it out of one by `modalities`"
            )

    @property
    def samples(self) -> int:
        return sum(corpus.samples for corpus in self.corpora)

    def has(self) -> np.ndarray:
        """(data sets, streams) bool: which has which."""
        names = [{s.name for s in corpus.streams} for corpus in self.corpora]
        return np.array([[s.name in mine for s in self.streams] for mine in names])

    def sources(self, position: int, count: int, seed: int) -> Order:
        """Which data set samples position..position+count-1 come from: evenly spread, in proportion to the weights."""
        number = np.arange(position, position + count, dtype=np.uint64)
        with np.errstate(over="ignore"):
            place = number * GOLDEN + mix(np.array([seed], np.uint64))
        return np.searchsorted(self._bounds, place, side="right").astype(np.int64)

    def gather(self, picks: Picks) -> Batch:
        """The tokens of every stream of the picked samples."""
        if len(self.corpora) == 1:
            return self.corpora[0].gather(picks.shard, picks.row, picks.view)
        found: dict[str, tuple[list[Tokens], list[Order]]] = {s.name: ([], []) for s in self.streams}
        for c in np.unique(picks.source):
            at = np.flatnonzero(picks.source == c)
            batch = self.corpora[c].gather(picks.shard[at], picks.row[at], picks.view[at])
            for name, tokens in batch.items():
                found[name][0].append(tokens)
                found[name][1].append(at)
        return {name: join(parts, at, len(picks)) for name, (parts, at) in found.items()}


def part_of(count: int, rank: int, world: int) -> slice:
    """The rows of a batch that one of `world` workers takes: neighbours, as evenly divided as can be."""
    return slice(count * rank // world, count * (rank + 1) // world)


class Loader:
    """The endless stream of training batches; its state is the number of samples each data set has handed out."""

    def __init__(
        self, data: Corpus | Blend, batch: int, seed: int, position: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.data = Blend([data]) if isinstance(data, Corpus) else data
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world
        self.position, self.taken = 0, [0] * len(self.data.corpora)
        if position:
            self._skip(position)

    def _skip(self, position: int) -> None:
        """Go to a position without state, by counting whose samples come before it."""
        for at in range(0, position, 1 << 20):
            source = self.data.sources(at, min(1 << 20, position - at), self.seed)
            self.taken = [
                t + int(n) for t, n in zip(self.taken, np.bincount(source, minlength=len(self.taken)), strict=True)
            ]
        self.position = position

    def plan(self) -> Picks:
        """The samples of the next batch, for all workers; moves on."""
        source = self.data.sources(self.position, self.batch, self.seed)
        shard, row, view = (np.zeros(self.batch, np.int64) for _ in range(3))
        for c, corpus in enumerate(self.data.corpora):
            at = np.flatnonzero(source == c)
            if not len(at):
                continue
            epoch, which, index = take(corpus.train_sizes, self.seed + c, self.taken[c], len(at), corpus.window).T
            shard[at], row[at] = which, corpus.rows(which, index)
            view[at] = pick_view(which, row[at], epoch, self.seed, corpus.train_views)
            self._fetch_ahead(corpus, self.seed + c, self.taken[c])
            self.taken[c] += len(at)
        self.position += self.batch
        return Picks(source, shard, row, view)

    def _fetch_ahead(self, corpus: Corpus, seed: int, position: int) -> None:
        """Where shards are far away, have those of this and the next window brought near."""
        if isinstance(corpus.shards, LazyShards) and corpus.shards.fetch is not None:
            for k in upcoming(corpus.train_sizes, seed, position, corpus.window):
                corpus.shards.fetch(int(k))

    def next(self) -> Batch:
        """This worker's part of the next batch."""
        return self.data.gather(self.plan()[part_of(self.batch, self.rank, self.world)])

    @property
    def epoch(self) -> float:
        """Epochs done of the first data set."""
        return self.taken[0] / self.data.corpora[0].samples

    def state(self) -> dict[str, Any]:
        """What `restore` needs; well under 1 kB."""
        samples = [corpus.samples for corpus in self.data.corpora]
        return {"position": self.position, "taken": list(self.taken), "seed": self.seed, "samples": samples}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. ConfigError where it was taken on other data or with another seed."""
        mine = self.state()
        for key in ("seed", "samples"):
            if state[key] != mine[key]:
                raise ConfigError(
                    f"cannot resume: the checkpoint was made with {key} {state[key]}, now it is {mine[key]}; "
                    "train from the start, or restore the data set and settings it was made with"
                )
        self.position, self.taken = int(state["position"]), [int(n) for n in state["taken"]]
