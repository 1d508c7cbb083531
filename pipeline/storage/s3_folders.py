"""Folders that are replaced whole (checkpoints), on a storage whose keys are never overwritten.

<key>/v000007-<attempt>/<file>     the files of one version
<key>/v000007.json                 what makes the version exist: its files, their lengths and sha256; put if absent

Readers take the highest version, so they see the old folder or the new one. The last two versions are kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import StorageError
from pipeline.records import canonical_json, file_sha256
from pipeline.storage.interface import Storage, below
from pipeline.storage.local import fsync_path

HOMES = ("_models", "_indexes", "_transfers")  # where such folders lie in a data set
KEPT = 2


class Folders:
    """The versioned folders of one storage. home: where working copies lie on this machine."""

    def __init__(self, storage: Storage, home: Path) -> None:
        self.storage, self.home = storage, home

    def _copy_of(self, key: str) -> Path:
        name = hashlib.sha256(f"{self.storage.url}/{key}".encode()).hexdigest()[:24]
        return self.home / name / key.rsplit("/", 1)[-1]

    def _versions(self, key: str) -> list[int]:
        listed = self.storage.list(key)
        return sorted(int(name[-11:-5]) for name in listed if name.endswith(".json"))

    def fetch(self, key: str) -> Path:
        """A copy of the newest version. It is fetched only where this machine has another; processes may share it."""
        copy, versions = self._copy_of(key), self._versions(key)
        marker = copy.parent / "version"
        with _alone(copy.parent):
            have = marker.read_text() if marker.is_file() else ""
            if not versions:
                if have:  # of a data set that lay here before
                    shutil.rmtree(copy, ignore_errors=True)
                    marker.unlink()
                return copy
            record = json.loads(self.storage.read_bytes(f"{key}/v{versions[-1]:06d}.json"))
            if have == record["folder"] and copy.is_dir():
                return copy
            aside = copy.parent / f"aside-{uuid.uuid4().hex[:8]}"
            for name, file in record["files"].items():
                target = aside / name
                target.parent.mkdir(parents=True, exist_ok=True)
                there, sha256 = f"{key}/{record['folder']}/{name}", file["sha256"]
                shutil.copyfile(self.storage.local(there, sha256), target)
                if file_sha256(target) != sha256:  # what was at hand
                    shutil.copyfile(self.storage.local(there, fresh=True), target)
                fsync_path(target)
            shutil.rmtree(copy, ignore_errors=True)
            os.rename(aside, copy)
            marker.write_text(record["folder"])
        return copy

    def put(self, key: str, path: Path) -> None:
        """The files below `path` as the next version. StorageError where others put a hundred meanwhile."""
        files = {str(p.relative_to(path)): p for p in sorted(path.rglob("*")) if p.is_file()}
        digests = {name: {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for name, p in files.items()}
        for _ in range(100):
            number = max(self._versions(key), default=0) + 1
            folder = f"v{number:06d}-{uuid.uuid4().hex[:8]}"
            for name, p in files.items():
                self.storage.publish(p, f"{key}/{folder}/{name}")
            record = canonical_json({"folder": folder, "files": digests})
            if self.storage.put_if_absent(f"{key}/v{number:06d}.json", record):
                break
        else:
            raise StorageError(f"{self.storage.url}/{key}: others write it all the time. End them, then run again.")
        copy = self._copy_of(key)
        if path.absolute() == copy.absolute():
            (copy.parent / "version").write_text(folder)
        self._forget(key, number - KEPT)

    def _forget(self, key: str, last: int) -> None:
        """Remove versions up to that number, records first."""
        listed = self.storage.list(key)
        for name in [n for n in listed if n.endswith(".json") and int(n[-11:-5]) <= last]:
            self.storage.delete(name)
        for name in [n for n in listed if n.endswith("/") and _number(n) <= last]:
            for file in below(self.storage, name.rstrip("/")):
                self.storage.delete(file)

    def sweep(self, before: float, dry_run: bool) -> list[str]:
        """Files of versions that were begun and never got their record."""
        found = []
        for home in [name for parent in HOMES for name in self.storage.list(parent)]:
            listed = self.storage.list(home.rstrip("/")) if home.endswith("/") else {}
            records = [json.loads(self.storage.read_bytes(name)) for name in listed if name.endswith(".json")]
            named = {f"{home}{record['folder']}/" for record in records}
            for folder in [name for name in listed if name.endswith("/") and name not in named]:
                old = [key for key in below(self.storage, folder.rstrip("/")) if self.storage.modified(key) <= before]
                found += old
                for key in [] if dry_run else old:
                    self.storage.delete(key)
        return found


def _number(folder: str) -> int:
    """Of ".../v000007-<attempt>/"."""
    return int(folder.rstrip("/").rsplit("/", 1)[-1][1:7])


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
