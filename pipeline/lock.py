"""One writer at a time, with nothing but put-if-absent: for the few moments in which an index shard is appended.

Locks are numbered and never reused: whoever writes the next number holds the lock until it writes `<number>.done`
beside it. A holder that died is passed over: at once when it ran on this machine and its process is gone, else after
LEASE_S (a bucket gives its own times, and refuses machines whose clock is off by more than 15 minutes). Two that pass it
over at once write the same number, and one of them wins.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import Incomplete, StorageError
from pipeline.records import canonical_json
from pipeline.storage import Storage

LEASE_S = 3600.0  # a shard is never written for so long
PATIENCE_S = 2 * LEASE_S  # how long to wait for others before giving up
_POLL_S, _LONGEST_POLL_S = 0.05, 2.0


def here() -> str:
    """What a process number means something in: this boot of this machine, and this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


@contextlib.contextmanager
def exclusive(storage: Storage, name: str, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the lock of that name while the block runs. Incomplete where others hold it for all of `patience_s`."""
    folder = f"_locks/{name}"
    number = _acquire(storage, folder, time.monotonic() + patience_s)
    try:
        yield
    finally:
        try:
            storage.put_if_absent(f"{folder}/{number:09d}.done", b"")
            _sweep(storage, folder, number)
        except StorageError:  # a full disk must not leave a lock that nobody holds
            storage.delete(f"{folder}/{number:09d}.lock")
            raise


def _acquire(storage: Storage, folder: str, deadline: float) -> int:
    mine = canonical_json({"host": here(), "pid": os.getpid(), "nonce": uuid.uuid4().hex})
    poll = _POLL_S
    while True:
        listed = storage.list(folder)
        numbers = [int(key[-14:-5]) for key in listed if key.endswith(".lock")]
        last = max(numbers, default=0)
        if not last or f"{folder}/{last:09d}.done" in listed or _dead(storage, f"{folder}/{last:09d}.lock"):
            if storage.put_if_absent(f"{folder}/{last + 1:09d}.lock", mine):
                return last + 1
            continue
        if time.monotonic() > deadline:
            raise Incomplete(f"{storage.url}/{folder}: another run holds it. Wait for it, or end it, then run again.")
        time.sleep(poll * random.uniform(0.5, 1.0))
        poll = min(_LONGEST_POLL_S, poll * 1.5)


def _dead(storage: Storage, key: str) -> bool:
    """Whether the holder is known to be gone."""
    try:
        holder = json.loads(storage.read_bytes(key))
    except FileNotFoundError:
        return True
    if holder["host"] == here():
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # somebody else's process, but there is one
    # Even so it may be another process with its number: containers that restart share both.
    return time.time() - storage.modified(key) > LEASE_S


def _sweep(storage: Storage, folder: str, number: int) -> None:
    """Forget older locks; the last number stays, so that it is not used again."""
    for key in storage.list(folder):
        if int(key.rsplit("/", 1)[-1].split(".")[0]) < number:
            storage.delete(key)
