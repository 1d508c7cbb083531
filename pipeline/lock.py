"""One writer at a time, with nothing but put-if-absent: for the few moments in which an index shard is appended.

Locks are numbered and never reused: whoever writes the next number holds the lock until it writes `<number>.done`
beside it. A holder that died is passed over: at once when it ran on this machine and its process is gone, else after
LEASE_S (a bucket gives its own times, and refuses machines whose clock is off by more than 15 minutes). Two that pass it
over at once write the same number, and one of them wins.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import Incomplete, StorageError
from pipeline.records import canonical_json
from pipeline.storage import Storage

LEASE_S = 3600.0  # a shard is never written for so long
PATIENCE_S = 2 * LEASE_S  # how long to wait for others before giving up
SAY_AFTER_S = 5.0  # a wait that a person may wonder about
_POLL_S, _LONGEST_POLL_S = 0.05, 2.0
_log = logging.getLogger(__name__)


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
    poll, say_at = _POLL_S, time.monotonic() + SAY_AFTER_S
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
        if time.monotonic() > say_at:
            holder = _holder(storage, f"{folder}/{last:09d}.lock")
            who = f"process {holder['pid']} on {holder['host'].split('/')[0]}" if holder else "another run"
            _log.warning("%s/%s: waiting for %s, which holds it.", storage.url, folder, who)
            say_at = float("inf")
        time.sleep(poll * random.uniform(0.5, 1.0))
        poll = min(_LONGEST_POLL_S, poll * 1.5)


def _holder(storage: Storage, key: str) -> dict[str, Any] | None:
    """Who wrote a lock; None where it is gone."""
    try:
        found: dict[str, Any] = json.loads(storage.read_bytes(key))
        return found
    except FileNotFoundError:
        return None


def _dead(storage: Storage, key: str) -> bool:
    """Whether the holder is known to be gone."""
    holder = _holder(storage, key)
    if holder is None:
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
