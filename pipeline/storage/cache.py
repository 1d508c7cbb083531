"""A bounded folder of copies on this machine: what was read from an object store and will be read again.

copies/<name of the key>/<version>~<sha256>/<file name>. A copy appears whole (rename), so several processes share the
folder; it makes room, the least recently used first, for newer ones once all are larger than the limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote

from pipeline.errors import DISK_TROUBLE, ConfigError, StorageError
from pipeline.records import file_sha256
from pipeline.storage.local import fsync_path

GRACE_S = 60.0  # a copy that was just handed out is left alone: its reader may not have opened it yet
LEFT_S = 24 * 3600.0  # temporary files this old belong to nobody
DEFAULT_GB = 50.0


def default_limit(folder: Path) -> int:
    """Bytes: $MANYMODAL_S3_CACHE_GB, or 50 GB, or half of what is free. ConfigError where the variable is no number."""
    text = os.environ.get("MANYMODAL_S3_CACHE_GB")
    if text is None:
        there = next(p for p in (folder, *folder.parents) if p.exists())
        return int(min(DEFAULT_GB * 1e9, shutil.disk_usage(there).free / 2))
    try:
        return int(float(text) * 1e9)
    except ValueError:
        raise ConfigError(f"MANYMODAL_S3_CACHE_GB: {text!r} is no number of gigabytes.") from None


class Cache:
    """See the module. limit: bytes of all copies together."""

    def __init__(self, folder: Path, limit: int | None = None, grace_s: float = GRACE_S) -> None:
        self.folder, self.grace_s = folder, grace_s
        self.limit = default_limit(folder) if limit is None else limit
        self._sound: set[Path] = set()
        self._added = self.limit  # so that the first copy looks at what earlier runs left

    def _home(self, name: str) -> Path:
        return self.folder / "copies" / hashlib.sha256(name.encode()).hexdigest()[:24]

    def find(self, name: str, sha256: str = "") -> tuple[Path, str] | None:
        """(path, version) of the newest copy of `name`, or of the one with that digest; it counts as used now."""
        try:
            copies = list(self._home(name).glob(f"*~{sha256 or '*'}/*"))
            path = max(copies, key=lambda copy: copy.parent.stat().st_mtime_ns)
            os.utime(path)
        except (FileNotFoundError, ValueError):  # none, or it went just now
            return None
        return path, path.parent.name.rpartition("~")[0]

    def add(self, name: str, fill: Callable[[IO[bytes]], tuple[str, str]]) -> Path:
        """A new copy: fill(file) writes it and returns (version, sha256 or '')."""
        with self.scratch() as folder:
            temporary = folder / "copy"
            with temporary.open("w+b") as sink:
                version, sha256 = fill(sink)
            fsync_path(temporary)  # or a power cut could leave the name and not the bytes
            sha256 = sha256 or file_sha256(temporary)
            self._make_room(temporary.stat().st_size)
            target = self._home(name) / f"{quote(version, safe='')}~{sha256}" / name.rsplit("/", 1)[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, target)
            self._sound.add(target)
            return target

    def sound(self, copy: Path) -> bool:
        """Whether a copy still has the bytes its folder's name tells of; read once a process."""
        if copy not in self._sound and file_sha256(copy) == copy.parent.name.rpartition("~")[2]:
            self._sound.add(copy)
        return copy in self._sound

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A fresh folder for temporary files, removed at the end. StorageError where the disk is full or fails."""
        folder = self.folder / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be written ({error.strerror}). Set MANYMODAL_CACHE.") from error
        try:
            yield folder
        except OSError as error:
            if error.errno not in DISK_TROUBLE:
                raise
            raise StorageError(
                f"{self.folder} cannot be written ({error.strerror}). Free some space, or set MANYMODAL_CACHE to a larger disk "
                "or MANYMODAL_S3_CACHE_GB to less; the same command resumes."
            ) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        """Remove the copies used longest ago until `size` more fit; looks at the disk only now and then."""
        self._added += size
        if self._added <= self.limit // 20:
            return
        self._added = 0
        held, now = [], time.time()
        for path in (self.folder / "copies").glob("*/*/*"):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                stat = path.stat()
                held.append((stat.st_mtime, stat.st_size, path))
        total = sum(entry[1] for entry in held) + size
        for used, length, path in sorted(held):
            if total <= self.limit or now - used < self.grace_s:
                break
            shutil.rmtree(path.parent, ignore_errors=True)
            total -= length
        for left in (self.folder / "tmp").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if now - left.stat().st_mtime > LEFT_S:
                    shutil.rmtree(left, ignore_errors=True)
