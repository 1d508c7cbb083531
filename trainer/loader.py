"""Batches of tokens from memory-mapped token shards: joined by position, shuffled deterministically, resumed from one
integer.

Shard k of every modality holds the samples of index shard k in that order, so joining is indexing. A batch touches a
few shards; in each of them all its samples of a stream are gathered at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, DamageError
from trainer.shuffle import Order, pick_view, take
from trainer.spans import ranges
from trainer.streams import EOS, SOS, Batch, Stream, Tokens, tables


@dataclass(frozen=True)
class Column:
    """One stream of one shard of n samples. valid: (n,) bool.

    Fixed: ids (n, views, T) uint16, offsets None. Ragged: ids (N,) uint16 and offsets (n * views + 1,) int64, view v of
    sample i at ids[offsets[i * views + v] : offsets[i * views + v + 1]], without [SOS] and [EOS].
    """

    ids: npt.NDArray[np.uint16]
    valid: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64] | None = None

    @property
    def views(self) -> int:
        if self.offsets is None:
            return int(self.ids.shape[1])
        return (len(self.offsets) - 1) // max(1, len(self.valid))

    def take(self, row: Order, view: Order, limit: int) -> Tokens:
        """The given samples; texts are cut to `limit` tokens."""
        valid = self.valid[row]
        if self.offsets is None:
            return Tokens(self.ids[row, view], np.where(valid, self.ids.shape[2], 0), valid)
        at = row * self.views + view
        start = self.offsets[at]
        length = np.where(valid, np.minimum(self.offsets[at + 1] - start, limit), 0)
        rows, cols = ranges(length)
        out = np.zeros((len(row), max(1, int(length.max(initial=0)))), np.uint16)
        out[rows, cols] = self.ids[start[rows] + cols]
        return Tokens(out, length, valid)


class Corpus:
    """The token shards of one data set at one manifest, and which of their samples are held out of training.

    recipes: recipe of each stream, for the checkpoint. manifest: its version (0 for arrays).
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        shards: Sequence[Mapping[str, Column]],
        held_out: Sequence[npt.NDArray[np.bool_]],
        manifest: int = 0,
        recipes: Mapping[str, str] | None = None,
    ) -> None:
        """ConfigError where there is nothing to train on, DamageError where shards do not fit the streams."""
        if not streams:
            raise ConfigError("there is no token modality to train on; run `manymodal tokenize` first")
        tables(streams)
        self.streams, self.shards = tuple(streams), tuple(shards)
        self.manifest, self.recipes = manifest, dict(recipes or {})
        self.views = max((column.views for shard in shards for column in shard.values()), default=1)
        self.train_rows = [np.flatnonzero(~held) for held in held_out]
        self.held_rows = [np.flatnonzero(held) for held in held_out]
        self.train_sizes = [len(rows) for rows in self.train_rows]
        for k, shard in enumerate(shards):
            for stream in streams:
                self._check(k, stream, shard[stream.name], len(held_out[k]))
        if not sum(self.train_sizes):
            raise ConfigError(
                "there is no sample to train on: every token shard is empty or held out; lower tokens.holdout"
            )

    def _check(self, k: int, stream: Stream, column: Column, samples: int) -> None:
        """One shard of one stream has as many samples as the others, the right width, and only tokens of the
        vocabulary.
        """
        where = f"{stream.name}, token shard {k}"
        if len(column.valid) != samples:
            raise DamageError(
                f"{where}: has {len(column.valid)} samples where others have {samples}; tokenize it again"
            )
        if samples and column.views not in (1, self.views):
            raise ConfigError(
                f"{where}: has {column.views} views where others have {self.views}; tokenize with one `views`"
            )
        if (stream.kind == "sequence") != (column.offsets is not None):
            raise DamageError(f"{where}: is of another kind than {stream.kind}; tokenize it again")
        if column.offsets is None and column.ids.shape[2] != stream.length:
            raise DamageError(
                f"{where}: has {column.ids.shape[2]} tokens a view, expected {stream.length}; tokenize it again"
            )
        top = int(column.ids.max(initial=0))
        if top >= stream.vocab:
            raise DamageError(
                f"{where}: holds token {top}, its vocabulary ends at {stream.vocab - 1}; tokenize it again"
            )

    def gather(self, shard: Order, row: Order, view: Order) -> Batch:
        """Any samples: (B,) numbers of shard, row in the shard (not only training rows), view. Modalities with one view
        use it.
        """
        parts = [(k, np.flatnonzero(shard == k)) for k in np.unique(shard)]
        batch: dict[str, Tokens] = {}
        for stream in self.streams:
            taken = []
            for k, at in parts:
                column = self.shards[k][stream.name]
                taken.append(column.take(row[at], view[at] % max(1, column.views), stream.length))
            batch[stream.name] = _join(taken, [at for _, at in parts], len(shard))
        return batch

    def held_out(self, samples: int) -> tuple[Order, Order, Order]:
        """(shard, row, view) of up to `samples` held-out samples: view 0 of each first, then view 1, and so on."""
        pairs = [(k, int(row)) for k, rows in enumerate(self.held_rows) for row in rows][:samples]
        if not pairs:
            empty = np.zeros(0, np.int64)
            return empty, empty, empty
        views = max(1, min(self.views, samples // len(pairs)))
        shard, row = np.tile(np.array(pairs, np.int64), (views, 1)).T
        return shard, row, np.repeat(np.arange(views, dtype=np.int64), len(pairs))


def _join(parts: Sequence[Tokens], at: Sequence[Order], batch: int) -> Tokens:
    """Samples of several shards, put back in the order of the batch."""
    if len(parts) == 1:
        return parts[0]
    width = max((part.ids.shape[1] for part in parts), default=1)  # a worker may get no part of a small batch
    ids = np.zeros((batch, width), np.uint16)
    length, valid = np.zeros(batch, np.int64), np.zeros(batch, np.bool_)
    for part, where in zip(parts, at, strict=True):
        ids[where, : part.ids.shape[1]] = part.ids
        length[where], valid[where] = part.length, part.valid
    return Tokens(ids, length, valid)


class Loader:
    """The endless stream of training batches; its whole state is the number of samples handed out.

    rank, world: this worker takes rows rank, rank + world, ... of each batch of `batch` samples, so that the stream of
    samples does not depend on the number of workers.
    """

    def __init__(self, corpus: Corpus, batch: int, seed: int, position: int = 0, rank: int = 0, world: int = 1) -> None:
        self.corpus, self.batch, self.seed, self.position = corpus, batch, seed, position
        self.rank, self.world = rank, world

    def next(self) -> Batch:
        """This worker's part of the next batch."""
        order = take(self.corpus.train_sizes, self.seed, self.position, self.batch)[self.rank :: self.world]
        self.position += self.batch
        epoch, shard, index = order.T
        row = np.array([self.corpus.train_rows[k][i] for k, i in zip(shard, index, strict=True)], np.int64)
        return self.corpus.gather(shard, row, pick_view(shard, row, epoch, self.seed, self.corpus.views))

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.position / sum(self.corpus.train_sizes)

    def state(self) -> dict[str, Any]:
        """What `restore` needs; well under 1 kB."""
        return {"position": self.position, "seed": self.seed, "samples": sum(self.corpus.train_sizes)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. ConfigError where it was taken on other data or with another seed."""
        mine = self.state()
        for key in ("seed", "samples"):
            if state[key] != mine[key]:
                raise ConfigError(
                    f"cannot resume: the checkpoint was made with {key} {state[key]}, now it is {mine[key]}; "
                    "train from the start, or restore the data set and settings it was made with"
                )
        self.position = int(state["position"])


def without_ends(
    ids: npt.NDArray[np.uint16], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    """Ragged texts without [SOS] and [EOS], for shards whose tokenizer writes them."""
    keep = (ids != SOS) & (ids != EOS)
    kept = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
    return ids[keep], kept[offsets]
