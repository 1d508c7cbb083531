"""Work that runs ahead of whoever needs it: a map in order, computed by threads, a bounded number of items early."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def ahead(function: Callable[[A], B], items: Iterable[A], threads: int = 1, most: int = 32) -> Iterator[B]:
    """function(item) of every item, in order. `items` is read in the caller's thread, at most `most` items early.

    What `function` raises is raised where its result is asked for. Closing the iterator drops what is not begun.
    """
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(threads, "ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
