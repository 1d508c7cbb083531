"""A data set in a folder on a POSIX file system. Publishing is fsync + hard link, which is atomic and refuses an existing
name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.errors import DISK_TROUBLE, ConfigError, StorageError
from pipeline.storage.interface import Entry, plain

RACES = 100  # how often the empty folder of temporary files may vanish under an attempt


@contextlib.contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Turn what the operating system says of a disk into one sentence; FileNotFoundError and FileExistsError pass."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except (NotADirectoryError, IsADirectoryError) as error:
        raise FileNotFoundError(errno.ENOENT, "no such file", error.filename) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
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
    """See the module. Its temporary files lie in `_tmp`, on the same file system as what is published from them."""

    SCRATCH = "_tmp"

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(self.root)

    def _path(self, key: str) -> Path:
        return self.root / plain(key)

    def read_bytes(self, key: str) -> bytes:
        with _explained(self.root):
            return self._path(key).read_bytes()

    def exists(self, key: str) -> bool:
        return self._path(key).exists()

    def size(self, key: str) -> int:
        return self._path(key).stat().st_size

    def check(self) -> None:
        """A file system keeps the promises; whether it can be written shows at the first write."""

    def prefetch(self, keys: Iterable[tuple[str, str]]) -> None:
        """Everything is here already."""

    def fetch_folder(self, key: str) -> Path:
        return self._path(key)

    def put_folder(self, key: str, path: Path) -> None:
        target = self._path(key)
        if path.absolute() == target:
            return
        with _explained(self.root):
            aside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
            shutil.copytree(path, aside)
            old = target.parent / f".{target.name}.old-{uuid.uuid4().hex[:8]}"
            if target.exists():
                os.rename(target, old)
            os.rename(aside, target)
            shutil.rmtree(old, ignore_errors=True)

    def sweep(self, before: float, dry_run: bool = False) -> Sequence[str]:
        return []  # what an attempt leaves behind lies in `_tmp`, as files

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

    def put(self, key: str, data: bytes) -> None:
        with self.scratch() as folder:
            temporary, target = folder / "put", self._path(key)
            with _explained(self.root):
                temporary.write_bytes(data)
                fsync_path(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, target)

    def local(self, key: str, sha256: str = "", fresh: bool = False) -> Path:
        path = self._path(key)
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "no such key", key)
        return path

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        folder = self.root / self.SCRATCH / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        with _explained(self.root):
            try:
                for _ in range(RACES):
                    # Another attempt that ended took the empty parent away.
                    with contextlib.suppress(FileNotFoundError):
                        folder.mkdir(parents=True)
                        break
                else:
                    folder.mkdir(parents=True)
            except NotADirectoryError:
                raise ConfigError(f"{self.root}: there is a file where a folder must be. Name another place.") from None
        try:
            yield folder
        except OSError as error:
            with _explained(self.root) if error.errno in DISK_TROUBLE else contextlib.nullcontext():
                raise
        finally:
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
                (self.root / self.SCRATCH).rmdir()  # leaves no empty folder behind when this attempt was the last one
