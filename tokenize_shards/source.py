"""Where a fit takes its views from: an array in memory, or blocks read from the shards while it learns.

The order is a function of (seed, worker, position): a fit that is resumed at a position sees what it would have seen,
and several workers see different views. A stream keeps two blocks in memory, the one it draws from and the one its
thread reads ahead; views are shuffled within a block, blocks hold whole shards in an order of their own in each pass,
and each pass takes new crops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from tokenize_shards.world import Worker

Position = tuple[int, int]  # where to go on: block (or 0) and batch within it


class Batches(Protocol):
    """Endless batches; `position` is where the next one begins."""

    position: Position

    def __next__(self) -> np.ndarray: ...

    def close(self) -> None: ...


class Source(Protocol):
    """Training views (n, ...) of one modality."""

    def __len__(self) -> int:
        """Views that `sample` can give."""

    def sample(self, n: int) -> np.ndarray:
        """At most n views, spread evenly; the same for every worker. For start values and figures."""

    def batches(self, size: int, seed: int, worker: Worker, position: Position = (0, 0)) -> Batches:
        """Batches of `size` for one worker, from a position on."""


def order_of(n: int, size: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Endless index batches of min(size, n) from batch `start` on: shuffled passes over 0..n-1, the same for a seed."""
    size = min(size, n)
    at = start * size
    known: dict[int, np.ndarray] = {}
    while True:
        picked = []
        for i in range(at // n, (at + size - 1) // n + 1):
            if i not in known:
                known = {
                    **{k: v for k, v in known.items() if k >= i - 1},
                    i: np.random.default_rng([seed, i]).permutation(n),
                }
            picked.append(known[i][max(0, at - i * n) : at + size - i * n])
        yield np.concatenate(picked)
        at += size


class InMemory:
    """An array of views."""

    def __init__(self, views: np.ndarray) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def sample(self, n: int) -> np.ndarray:
        return self.views if len(self.views) <= n else self.views[(np.arange(n) * len(self.views)) // n]

    def batches(self, size: int, seed: int, worker: Worker, position: Position = (0, 0)) -> Batches:
        return _Shuffled(self.views, size, seed, worker, position)


class _Shuffled:
    """Batches of an array: of each global batch a worker takes every size-th view."""

    def __init__(self, views: np.ndarray, size: int, seed: int, worker: Worker, position: Position) -> None:
        self.views, self.worker, self.position = views, worker, position
        together = max(min(size * worker.size, len(views)), min(worker.size, len(views)))
        self.order = order_of(len(views), together, seed, position[1])

    def __next__(self) -> np.ndarray:
        index = next(self.order)
        mine = index[self.worker.rank :: self.worker.size]
        self.position = (0, self.position[1] + 1)
        return self.views[mine if len(mine) else index[:1]]

    def close(self) -> None:
        """Nothing is open."""


class Streamed:
    """Views that are read in blocks.

    read: block number -> its views (n, ...), n may be 0; numbers go on for ever, each pass over the data with new
    crops. start: views for start values and figures. empty: blocks without views in a row before giving up.
    """

    def __init__(self, read: Callable[[int], np.ndarray], start: np.ndarray, empty: int = 1000) -> None:
        self.read, self.start, self.empty = read, start, empty

    def __len__(self) -> int:
        return len(self.start)

    def sample(self, n: int) -> np.ndarray:
        return InMemory(self.start).sample(n)

    def batches(self, size: int, seed: int, worker: Worker, position: Position = (0, 0)) -> Batches:
        return _Blocks(self, size, seed, worker, position)


class _Blocks:
    """Worker r of w takes blocks r, r + w, r + 2w, ...; one is read ahead by a thread."""

    def __init__(self, source: Streamed, size: int, seed: int, worker: Worker, position: Position) -> None:
        self.source, self.size, self.seed, self.worker, self.position = source, size, seed, worker, position
        self.reader = ThreadPoolExecutor(1, "views")
        self.ahead: tuple[int, Future[np.ndarray]] | None = None
        self.views: np.ndarray | None = None
        self.order = np.zeros(0, np.int64)

    def _number(self, block: int) -> int:
        return block * self.worker.size + self.worker.rank

    def _open(self, block: int) -> np.ndarray:
        """The views of a block; the next one begins to be read."""
        if self.ahead is not None and self.ahead[0] == block:
            found = self.ahead[1].result()
        else:
            found = self.source.read(self._number(block))
        self.ahead = block + 1, self.reader.submit(self.source.read, self._number(block + 1))
        return found

    def __next__(self) -> np.ndarray:
        block, batch = self.position
        tries = 0
        while self.views is None or not len(self.views):
            self.views = self._open(block)
            # Workers that go on start at the position of the first of them, which may be behind the end of their block.
            if not len(self.views) or (batch and (batch + 1) * self.size > len(self.views)):
                self.views, block, batch, tries = None, block + 1, 0, tries + 1
                if tries > self.source.empty:
                    raise ValueError(f"{tries} blocks in a row hold no view that may be learned from")
        self.order = np.random.default_rng([self.seed, self._number(block)]).permutation(len(self.views))
        size = min(self.size, len(self.views))
        found = self.views[self.order[batch * size : (batch + 1) * size]]
        if (batch + 2) * size <= len(self.views):
            self.position = (block, batch + 1)
        else:  # what does not fill a batch waits for the next pass
            self.position, self.views = (block + 1, 0), None
        return found

    def close(self) -> None:
        self.reader.shutdown(wait=True, cancel_futures=True)


def as_source(train: np.ndarray | Source) -> Source:
    return InMemory(train) if isinstance(train, np.ndarray) else train
