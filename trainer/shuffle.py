"""The order in which an epoch visits the samples: a pure function of (sizes, seed, epoch).

Shards are visited in a random order, a window of a few shards at a time, and the samples of a window are mixed among
each other: global over shards, windowed within, so that a reader touches few files at once. A position in the endless
stream of samples is one integer; it is the whole state of a loader, and does not depend on how many workers share the
work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Order = npt.NDArray[np.int64]


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


@lru_cache(maxsize=4)
def _windows(sizes: tuple[int, ...], seed: int, epoch: int, window: int) -> tuple[Order, Order]:
    """Shards in their order of this epoch, and where each window starts in it, in samples, with the total at the end."""
    shards = _rng(seed, epoch).permutation(len(sizes)).astype(np.int64)
    per_window = [sum(sizes[k] for k in shards[i : i + window]) for i in range(0, len(shards), window)]
    return shards, np.concatenate([[0], np.cumsum(per_window)]).astype(np.int64)


@lru_cache(maxsize=4)
def _window(sizes: tuple[int, ...], seed: int, epoch: int, window: int, index: int) -> Order:
    """The samples of one window, mixed: (n, 2) of shard and row."""
    shards, _ = _windows(sizes, seed, epoch, window)
    members = shards[index * window : (index + 1) * window]
    pairs = np.concatenate(
        [np.stack([np.full(sizes[k], k, np.int64), np.arange(sizes[k], dtype=np.int64)], axis=1) for k in members]
    )
    return pairs[_rng(seed, epoch, index).permutation(len(pairs))]


def take(sizes: Sequence[int], seed: int, position: int, count: int, window: int = 16) -> Order:
    """The samples at position..position+count-1 of the endless stream: (count, 3) int64 of epoch, shard, row in the
    shard.

    sizes: samples of each shard. window: shards mixed at a time. ValueError if there is no sample at all.
    """
    key = sizes if isinstance(sizes, tuple) else tuple(int(size) for size in sizes)
    total = sum(key)
    if total == 0:
        raise ValueError("there are no samples to visit")
    parts: list[Order] = []
    while count > 0:
        epoch, offset = divmod(position, total)
        _, starts = _windows(key, seed, epoch, window)
        index = int(np.searchsorted(starts, offset, side="right")) - 1
        inside = offset - int(starts[index])
        rows = _window(key, seed, epoch, window, index)[inside : inside + count]
        parts.append(np.concatenate([np.full((len(rows), 1), epoch, np.int64), rows], axis=1))
        position, count = position + len(rows), count - len(rows)
    return np.concatenate(parts)


def upcoming(sizes: tuple[int, ...], seed: int, position: int, window: int) -> Order:
    """The shards of the window that a position lies in, and of the one after it in the same epoch."""
    epoch, offset = divmod(position, sum(sizes))
    shards, starts = _windows(sizes, seed, epoch, window)
    index = int(np.searchsorted(starts, offset, side="right")) - 1
    return shards[index * window : (index + 2) * window]


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64: numbers that look random, from numbers that do not."""
    with np.errstate(over="ignore"):
        mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def pick_view(shard: Order, row: Order, epoch: Order, seed: int, views: int) -> Order:
    """Which view of each sample is used in that epoch, the same for all its modalities: (B,) int64 in 0..views-1.

    Every sample starts at a random view and goes on to the next one each epoch, so that `views` epochs show each view
    once.
    """
    with np.errstate(over="ignore"):
        key = shard.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + row.astype(np.uint64) + np.uint64(seed % 2**32)
    mixed = mix(key)
    return ((mixed % np.uint64(views)).astype(np.int64) + epoch) % views
