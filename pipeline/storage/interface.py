"""What the engine asks of a storage: few methods, the same for a folder and an object store.

Keys are relative POSIX paths ("rgb/shard-000000.tar"). Nothing that a commit names is ever modified in place: a key is
published whole, and never over another (`publish` and `put_if_absent` do not clobber), which is all that the commit
protocol asks of a storage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """What a listing says of a key: length in bytes, and a stamp that differs once other bytes were written."""

    size: int
    stamp: str


class Storage(Protocol):
    """Keys as in the module docstring; all methods raise StorageError when the storage fails."""

    url: str

    def check(self) -> None:
        """Once, when a data set is made: does this storage refuse to overwrite? ConfigError where it does not."""

    def read_bytes(self, key: str) -> bytes:
        """The bytes of a key. FileNotFoundError if absent."""

    def exists(self, key: str) -> bool: ...

    def size(self, key: str) -> int:
        """Length in bytes. FileNotFoundError if absent."""

    def modified(self, key: str) -> float:
        """When the key was written, in seconds since 1970. Infinity if absent: nothing is older than it."""

    def list(self, prefix: str) -> dict[str, Entry]:
        """Keys directly in the folder `prefix`, sorted; folders end in '/', size 0, no stamp. Empty if absent."""

    def delete(self, key: str) -> None:
        """Remove a key; absent is success."""

    def prune(self, folders: Iterable[str]) -> None:
        """Remove what is left of emptied folders, where a storage has folders."""

    def sweep(self, before: float, dry_run: bool = False) -> Sequence[str]:
        """Remove what uploads left behind that began before then (seconds since 1970) and never ended, where a storage
        has such; what was, or would be, removed, in words.
        """

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a small object whole. False, and nothing written, if the key exists.

        Where the answer was lost, the key is read: True if it holds these very bytes, whoever wrote them.
        """

    def put(self, key: str, data: bytes) -> None:
        """Write a small object, over what may be there: pages and notes for people, nothing that a commit names."""

    def publish(self, path: Path, key: str) -> bool:
        """Make a finished local file visible as `key`; the file is left in place. False if the key exists; a lost
        answer as with `put_if_absent`.
        """

    def local(self, key: str, sha256: str = "", fresh: bool = False) -> Path:
        """A local path with the bytes of the key, to read or memory-map. FileNotFoundError if absent.

        sha256: of its bytes, where a commit says so; a copy that is at hand then needs no request. fresh: read the
        storage itself even where a copy is at hand. Open the path soon: copies make room for newer ones.
        """

    def prefetch(self, keys: Iterable[tuple[str, str]]) -> None:
        """(key, sha256 or '') that `local` will soon be asked for: fetched in the background, where that takes time."""

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """A fresh folder for the temporary files of one attempt, removed at the end."""

    def fetch_folder(self, key: str) -> Path:
        """A local folder with the newest version of the folder `key`: the folder itself where the storage is one, else
        a copy to work in. It may not exist yet. For checkpoints, which are replaced whole.
        """

    def put_folder(self, key: str, path: Path) -> None:
        """Make the files directly in `path` the newest version of the folder `key`; readers see the old or the new one."""


def below(storage: Storage, folder: str) -> Iterator[str]:
    """Every key below a folder, at any depth."""
    for key in storage.list(folder):
        if key.endswith("/"):
            yield from below(storage, key.rstrip("/"))
        else:
            yield key


def plain(key: str) -> str:
    """The key itself. ValueError where it leaves the data set, or two spellings would name one file."""
    if key and (key.startswith("/") or not {"", ".", ".."}.isdisjoint(key.rstrip("/").split("/"))):
        raise ValueError(f"storage key {key!r} leaves the data set; keys are relative and plain")
    return key
