"""An iterator that is read by a thread of its own, a bounded number of items early."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar, cast

T = TypeVar("T")
_END = object()


def ahead(items: Iterator[T], most: int = 1) -> Iterator[T]:
    """The items in order; the next `most` are made while the last one is used. What making one raises is raised here.

    Closing the iterator ends the thread at the item it is at.
    """
    ready: queue.Queue[Any] = queue.Queue(most)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as error:  # raised where it is waited for
            put((None, error))
            return
        put((_END, None))

    thread = threading.Thread(target=read, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield cast(T, item)
    finally:
        stop.set()
        thread.join()
