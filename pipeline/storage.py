"""Storage behind one small interface: a local folder today, an object store behind the same few methods later.

Keys are relative POSIX paths ("rgb/shard-000000.tar"). Nothing is ever modified in place: a key is published whole, and
never over another (`publish` and `put_if_absent` do not clobber), which is all that the commit protocol asks of a
storage.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.errors import ConfigError, StorageError


class Entry(NamedTuple):
    """What a listing says of a key: length in bytes, and a stamp that differs once the key was written again."""

    size: int
    stamp: str


class Storage(Protocol):
    """What the engine needs of a storage. Keys as in the module docstring; all methods raise StorageError when it
    fails.
    """

    url: str

    def read_bytes(self, key: str) -> bytes:
        """The bytes of a key. FileNotFoundError if absent."""

    def exists(self, key: str) -> bool: ...

    def size(self, key: str) -> int:
        """Length in bytes. FileNotFoundError if absent."""

    def modified(self, key: str) -> float:
        """When the key was written, in seconds since 1970. Infinity if absent: nothing is older than it."""

    def prune(self, folders: Iterable[str]) -> None:
        """Remove what is left of emptied folders, where a storage has folders."""

    def list(self, prefix: str) -> dict[str, Entry]:
        """Keys directly in the folder `prefix`, sorted; folders end in '/', size 0, no stamp. Empty if absent."""

    def delete(self, key: str) -> None:
        """Remove a key; absent is success."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a small object whole. False, and nothing written, if the key exists."""

    def publish(self, path: Path, key: str) -> bool:
        """Make a finished local file visible as `key`; the file is left in place. False if the key exists."""

    def local(self, key: str) -> Path:
        """A local path with the bytes of the key, to read or memory-map. FileNotFoundError if absent."""

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """A fresh folder for the temporary files of one attempt, removed at the end."""


@contextlib.contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Turn what the operating system says of a disk into one sentence; FileNotFoundError and FileExistsError pass."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            why = f"No space is left on the disk of {root}. Free some and run the same command again; it resumes."
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            why = f"{root} cannot be written ({error.strerror}). Check its rights, then run the same command again."
        else:
            why = f"Storage {root} failed: {error.strerror} ({error.filename}). Run the same command again; it resumes."
        raise StorageError(why) from error


def fsync_path(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class LocalStorage:
    """A folder on a POSIX file system. Publishing is fsync + hard link, which is atomic and refuses an existing name."""

    SCRATCH = "_tmp"

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(self.root)

    def _path(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise ValueError(f"storage key {key!r} leaves the data set; keys are relative and plain")
        return self.root / key

    def read_bytes(self, key: str) -> bytes:
        with _explained(self.root):
            return self._path(key).read_bytes()

    def exists(self, key: str) -> bool:
        return self._path(key).exists()

    def size(self, key: str) -> int:
        return self._path(key).stat().st_size

    def modified(self, key: str) -> float:
        try:
            return self._path(key).stat().st_mtime
        except FileNotFoundError:
            return float("inf")

    def prune(self, folders: Iterable[str]) -> None:
        for name in folders:
            for folder, _, _ in os.walk(self._path(name), topdown=False):
                with contextlib.suppress(OSError):  # not empty
                    os.rmdir(folder)

    def list(self, prefix: str) -> dict[str, Entry]:
        base = prefix.rstrip("/") + "/" if prefix else ""
        found = []
        with _explained(self.root):
            try:
                with os.scandir(self._path(prefix)) as entries:
                    for entry in entries:
                        if entry.is_dir():
                            found.append((base + entry.name + "/", Entry(0, "")))
                            continue
                        try:
                            stat = entry.stat()
                        except FileNotFoundError:
                            continue  # removed since it was listed
                        found.append((base + entry.name, Entry(stat.st_size, str(stat.st_mtime_ns))))
            except (FileNotFoundError, NotADirectoryError):
                return {}
        return dict(sorted(found))

    def delete(self, key: str) -> None:
        with _explained(self.root):
            self._path(key).unlink(missing_ok=True)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        if target.exists():
            return False
        with self.scratch() as folder:
            temporary = folder / target.name
            with _explained(self.root):
                temporary.write_bytes(data)
            return self.publish(temporary, key)

    def publish(self, path: Path, key: str) -> bool:
        target = self._path(key)
        with _explained(self.root):
            target.parent.mkdir(parents=True, exist_ok=True)
            fsync_path(path)
            try:
                os.link(path, target)
            except FileExistsError:
                return False
            fsync_path(target.parent)
            return True

    def local(self, key: str) -> Path:
        path = self._path(key)
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "no such key", key)
        return path

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        folder = self.root / self.SCRATCH / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        with _explained(self.root):
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
                (self.root / self.SCRATCH).rmdir()  # leaves no empty folder behind when this attempt was the last one


def open_storage(url: str) -> Storage:
    """The storage of a data set's root: a folder, or file:///folder. ConfigError for what is not supported."""
    if url.startswith("file://"):
        url = url.removeprefix("file://")
    if "://" in url:
        raise ConfigError(f"{url}: only local folders can hold a data set in this version. Give a path.")
    return LocalStorage(Path(url).expanduser())
