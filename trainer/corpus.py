"""The token shards of one data set, memory-mapped and joined by position, and the samples of them by number.

Two things are never trained on, so that what was learned can be judged: some photos, and of every other photo its last
views. The first says what carries over to other photos, the second whether these were learned or only their crops.

Shard k of every modality holds the samples of index shard k in that order, so joining is indexing. Shards may be opened
as they are needed, so that a data set can be larger than the disk it is read through.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, DamageError
from trainer.shuffle import Order
from trainer.spans import ranges
from trainer.streams import Batch, Stream, Tokens, tables


@dataclass(frozen=True)
class Column:
    """One stream of one shard of n samples. valid: (n,) bool.

    Fixed: ids (n, views, T) uint16, offsets None. Ragged: ids (N,) uint16 and offsets (n * views + 1,) int64, view v of
    sample i at ids[offsets[i * views + v] : offsets[i * views + v + 1]], without [SOS] and [EOS]. Of value streams ids
    are the vectors, float16 (N, width).
    """

    ids: npt.NDArray[np.uint16] | npt.NDArray[np.float16]
    valid: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64] | None = None

    @property
    def views(self) -> int:
        if self.offsets is None:
            return int(self.ids.shape[1])
        return (len(self.offsets) - 1) // max(1, len(self.valid))

    def take(self, row: Order, view: Order, limit: int) -> Tokens:
        """The given samples; texts are cut to `limit` tokens."""
        if self.offsets is None:
            valid = self.valid[row]
            return Tokens(
                self.ids[row, view].astype(np.uint16, copy=False), np.where(valid, self.ids.shape[2], 0), valid
            )
        at = row * self.views + view
        return self._ragged(row, self.offsets[at], np.minimum(self.offsets[at + 1] - self.offsets[at], limit))

    def _ragged(self, row: Order, start: Order, length: Order) -> Tokens:
        valid = self.valid[row]
        length = np.where(valid, length, 0)
        rows, cols = ranges(length)
        width = max(1, int(length.max(initial=0)))
        out = np.zeros((len(row), width, *self.ids.shape[1:]), self.ids.dtype)
        out[rows, cols] = self.ids[start[rows] + cols]
        if out.ndim == 2:
            return Tokens(out, length, valid)
        return Tokens(_places(len(row), width), length, valid, out)


def _places(batch: int, width: int) -> npt.NDArray[np.uint16]:
    """(batch, width): 0, 1, 2, ... in each row."""
    return np.broadcast_to(np.arange(width, dtype=np.uint16), (batch, width))


Shard = Mapping[str, Column]
VIEWS_FOR_ONE = 4


class LazyShards(Sequence[Shard]):
    """Shards that are opened when they are needed; the last few stay open. open_shard: its number -> columns."""

    def __init__(
        self, count: int, open_shard: Callable[[int], Shard], fetch: Callable[[int], None] | None = None, keep: int = 40
    ) -> None:
        self.number, self.open_shard, self.keep = count, open_shard, keep
        self.fetch = fetch  # brings a shard near before it is needed, on another thread; None: it is near
        self.cache: OrderedDict[int, Shard] = OrderedDict()
        self.check: Callable[[int, Shard], None] = lambda k, shard: None
        self.lock = threading.RLock()  # a feed and an evaluation may read at once

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, k: int) -> Shard:  # type: ignore[override]
        with self.lock:
            if k not in self.cache:
                if not 0 <= k < self.number:
                    raise IndexError(k)
                shard = self.open_shard(k)
                self.check(k, shard)
                self.cache[k] = shard
                while len(self.cache) > self.keep:
                    self.cache.popitem(last=False)
            self.cache.move_to_end(k)
            return self.cache[k]

    def __iter__(self) -> Iterator[Shard]:
        return (self[k] for k in range(self.number))


class Corpus:
    """The token shards of one data set at one manifest, and which of their samples are held out of training.

    recipes: recipe of each stream, for the checkpoint. manifest: its version (0 for arrays). makers: of each stream,
    what its tokens mean: two data sets can only be trained on together where these are the same. views: of a sample;
    train_views: how many of them, from 0 on, are trained on.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        shards: Sequence[Shard],
        held_out: Sequence[npt.NDArray[np.bool_]],
        manifest: int = 0,
        recipes: Mapping[str, str] | None = None,
        makers: Mapping[str, str] | None = None,
        window: int = 16,
        heldout_views: int | None = 0,
        codes: Callable[[str], npt.NDArray[np.float32] | None] = lambda name: None,
    ) -> None:
        """ConfigError where there is nothing to train on, DamageError where shards do not fit the streams.

        heldout_views: None: one where there are VIEWS_FOR_ONE, which costs a quarter of the crops at most; else none.
        codes: of a stream, (vocab, k), near for tokens that mean similar things; None where that is not known.
        """
        if not streams:
            raise ConfigError("there is no token modality to train on; run `manymodal tokenize` first")
        tables(streams)
        self.streams, self.shards, self.window = tuple(streams), shards, window
        self.codes = codes
        self.manifest, self.recipes, self.makers = manifest, dict(recipes or {}), dict(makers or {})
        self.sizes = [len(held) for held in held_out]
        self.train_rows = [np.flatnonzero(~held) for held in held_out]
        self.held_rows = [np.flatnonzero(held) for held in held_out]
        self.train_sizes = tuple(len(rows) for rows in self.train_rows)
        self.samples = sum(self.train_sizes)
        self._rows = np.concatenate([np.zeros(0, np.int64), *self.train_rows])
        self._starts = np.cumsum([0, *self.train_sizes])
        if not self.samples:
            raise ConfigError(
                "there is no sample to train on: every token shard is empty or held out; lower tokens.holdout"
            )
        first = shards[next(k for k, size in enumerate(self.sizes) if size)]
        self.views = max((column.views for column in first.values()), default=1)
        if isinstance(shards, LazyShards):
            shards.check = self.check
            self.check(0, shards[0])
        else:
            self.views = max((column.views for shard in shards for column in shard.values()), default=1)
            for k, shard in enumerate(shards):
                self.check(k, shard)
        apart = int(self.views >= VIEWS_FOR_ONE) if heldout_views is None else heldout_views
        if not 0 <= apart < self.views:
            raise ConfigError(
                f"train.heldout_views: {apart} of {self.views} views held out leave none to train on; use "
                f"0..{self.views - 1}, or raise tokens.views"
            )
        self.train_views = self.views - apart

    def check(self, k: int, shard: Shard) -> None:
        """Every stream of one shard has as many samples as the index, the right width, and only tokens of the
        vocabulary.
        """
        for stream in self.streams:
            self._check(k, stream, shard[stream.name], self.sizes[k])

    def _check(self, k: int, stream: Stream, column: Column, samples: int) -> None:
        where = f"{stream.name}, token shard {k}"
        if len(column.valid) != samples:
            raise DamageError(
                f"{where}: has {len(column.valid)} samples where others have {samples}; tokenize it again"
            )
        if samples and column.views not in (1, self.views):
            raise ConfigError(
                f"{where}: has {column.views} views where others have {self.views}; tokenize with one `views`"
            )
        if (stream.kind == "sequence" or stream.values) != (column.offsets is not None):
            raise DamageError(f"{where}: is of another kind than {stream.kind}; tokenize it again")
        if column.offsets is None and column.ids.shape[2] != stream.length:
            raise DamageError(
                f"{where}: has {column.ids.shape[2]} tokens a view, expected {stream.length}; tokenize it again"
            )
        if stream.values:
            if column.ids.shape[1:] != (stream.width,):
                raise DamageError(
                    f"{where}: holds vectors {column.ids.shape[1:]}, expected {stream.width} numbers; tokenize it again"
                )
            if not stream.grid or column.offsets is None:
                return
            held = np.diff(column.offsets)[np.repeat(column.valid, column.views)]
            if (held != stream.length).any():
                raise DamageError(f"{where}: has views that are not {stream.length} patches; tokenize it again")
            return
        top = int(column.ids.max(initial=0))
        if top >= stream.vocab:
            raise DamageError(
                f"{where}: holds token {top}, its vocabulary ends at {stream.vocab - 1}; tokenize it again"
            )

    def rows(self, shard: Order, index: Order) -> Order:
        """Rows in their shard of the index-th training samples of it."""
        found: Order = self._rows[self._starts[shard] + index]
        return found

    def gather(self, shard: Order, row: Order, view: Order) -> Batch:
        """Any samples: (B,) numbers of shard, row in the shard (not only training rows), view. Modalities with one view
        use it.
        """
        parts = [(k, np.flatnonzero(shard == k)) for k in np.unique(shard)]
        opened = [(self.shards[int(k)], at) for k, at in parts]
        batch: dict[str, Tokens] = {}
        for stream in self.streams:
            taken = []
            for columns, at in opened:
                column = columns[stream.name]
                taken.append(column.take(row[at], view[at] % max(1, column.views), stream.length))
            batch[stream.name] = join(taken, [at for _, at in opened], len(shard))
        return batch

    def held_out(self, samples: int) -> tuple[Order, Order, Order]:
        """(shard, row, view) of up to `samples` of held-out photos: view 0 of each first, then view 1, and so on."""
        return _spread(self.held_rows, np.arange(self.views), samples)

    def held_views(self, samples: int) -> tuple[Order, Order, Order]:
        """(shard, row, view) of up to `samples` held-out views of training photos."""
        return _spread(self.train_rows, np.arange(self.train_views, self.views), samples)


def _spread(rows: Sequence[Order], views: Order, samples: int) -> tuple[Order, Order, Order]:
    """(shard, row, view) of up to `samples` of the given rows of each shard, evenly spread; one view after another."""
    starts = np.cumsum([0, *map(len, rows)])
    total = int(starts[-1]) if len(views) else 0
    number = np.unique(np.linspace(0, max(0, total - 1), min(samples, total)).astype(np.int64))
    shard = np.searchsorted(starts, number, side="right").astype(np.int64) - 1
    row = np.array([rows[k][n - starts[k]] for k, n in zip(shard, number, strict=True)], np.int64)
    views = views[: max(1, samples // max(1, len(number)))]
    return np.tile(shard, len(views)), np.tile(row, len(views)), np.repeat(views, len(number)).astype(np.int64)


def join(parts: Sequence[Tokens], at: Sequence[Order], batch: int) -> Tokens:
    """Samples of several shards or data sets, put back in the order of the batch; those of none are missing."""
    if len(parts) == 1 and len(at[0]) == batch:
        return parts[0]
    width = max((part.ids.shape[1] for part in parts), default=1)  # a worker may get no part of a small batch
    ids = np.zeros((batch, width), np.uint16)
    length, valid = np.zeros(batch, np.int64), np.zeros(batch, np.bool_)
    vectors = next((part.values for part in parts if part.values is not None), None)
    values = None if vectors is None else np.zeros((batch, width, vectors.shape[2]), vectors.dtype)
    for part, where in zip(parts, at, strict=True):
        length[where], valid[where] = part.length, part.valid
        if values is None or part.values is None:
            ids[where, : part.ids.shape[1]] = part.ids
        else:
            values[where, : part.ids.shape[1]] = part.values
    return Tokens(ids if values is None else _places(batch, width), length, valid, values)
