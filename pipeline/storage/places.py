"""Files and folders that a person names to a command, on this machine or in a bucket: lists, labels, pages, exports."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from labelers.core.weights import default_cache
from pipeline.storage import Storage, open_storage
from pipeline.storage.interface import below


def in_bucket(spec: str) -> bool:
    return spec.startswith("s3://")


def parent(spec: str) -> tuple[Storage, str]:
    """The storage that holds s3://bucket/folder/name, and the name."""
    folder, _, name = spec.rstrip("/").rpartition("/")
    return open_storage(folder), name


def here(spec: str) -> Path:
    """A local path of a file or folder: as it is named, or of s3:// a copy, which is brought up to date. It may not
    exist, as a local one may not. StorageError where the store fails.
    """
    if not in_bucket(spec):
        return Path(spec.removeprefix("file://")).expanduser()
    storage, name = parent(spec) if spec.rstrip("/").count("/") > 2 else (open_storage(spec), "")
    try:
        return storage.local(name) if name and not spec.endswith("/") else _folder(open_storage(spec))
    except FileNotFoundError:
        return _folder(open_storage(spec))


def _folder(storage: Storage) -> Path:
    """A folder of links to copies of everything below a prefix. One process of this machine at a time."""
    home = default_cache() / "s3" / "places" / hashlib.sha256(storage.url.encode()).hexdigest()[:24]
    target = home / PurePosixPath(storage.url).name
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as handle, tempfile.TemporaryDirectory(dir=home, prefix="aside-") as name:
        fcntl.flock(handle, fcntl.LOCK_EX)
        made = Path(name) / "made"
        keys = list(below(storage, ""))
        storage.prefetch((key, "") for key in keys)
        for key in keys:
            (made / key).parent.mkdir(parents=True, exist_ok=True)
            os.link(storage.local(key), made / key)  # copies make room for newer ones, and this one must stay
        if _links(made) == _links(target):
            return target  # others may be reading it
        if target.exists():
            os.rename(target, Path(name) / "old")
        if made.exists():
            os.rename(made, target)
    return target


def _links(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_ino for p in folder.rglob("*") if p.is_file()}


@contextmanager
def there(spec: str) -> Iterator[Path]:
    """A local folder to write into, which is at `spec` when the block ends: the folder itself, or its files in a bucket,
    each whole, over what was there.
    """
    if not in_bucket(spec):
        yield Path(spec)
        return
    storage = open_storage(spec)
    with storage.scratch() as folder:
        yield folder
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            storage.put(path.relative_to(folder).as_posix(), path.read_bytes())
