"""Work that runs ahead of whoever needs it: a map in order, computed by threads, a bounded number of items early.

A worker that shares its machine with others has only the CPUs that it was given, or two workers would do less than twice
what one does: once `confine` was called in its process, there are no more threads than those, and where there is no
thread to spare, work is done by whoever asks for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")

_spare: int | None = None  # threads beside the one that labels; None: as many as are asked for


def confine(cpus: float, gpu: float = 0.0) -> None:
    """Keep this process to the CPUs it was given. One with a share of a GPU has the helpers it asks for: a GPU that waits
    for pictures costs more than CPUs that are shared.

    PyTorch has its number of threads from OMP_NUM_THREADS, which Ray sets; ONNX and LiteRT are told by their labelers.
    """
    import cv2
    import pyarrow

    global _spare
    own = max(1, int(cpus))
    _spare = None if gpu else own - 1
    cv2.setNumThreads(own)
    pyarrow.set_cpu_count(own)


def helpers(threads: int, name: str) -> Executor:
    """An executor of so many threads, or of those that are to spare."""
    most = threads if _spare is None else min(threads, _spare)
    return ThreadPoolExecutor(most, name) if most else _AtOnce()


class _AtOnce(Executor):
    """Does what it is given when it is given it."""

    def submit(self, fn: Callable[..., B], /, *args: Any, **kwargs: Any) -> Future[B]:
        future: Future[B] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def ahead(function: Callable[[A], B], items: Iterable[A], threads: int = 1, most: int = 32) -> Iterator[B]:
    """function(item) of every item, in order. `items` is read in the caller's thread, at most `most` items early.

    What `function` raises is raised where its result is asked for. Closing the iterator drops what is not begun.
    """
    waiting: deque[Future[B]] = deque()
    with helpers(threads, "ahead") as pool:
        if isinstance(pool, _AtOnce):
            most = 0
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
