"""A folder of photos, walked to the bottom in the order of names, and the side-cars (equal stem: a.jpg, a.txt, a.json)
in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from labelers.core.images import DEFAULT_LIMITS
from pipeline.errors import ConfigError
from pipeline.ingest.candidate import (
    IMAGE_EXTS,
    MAX_SIDECAR,
    SIDECAR_EXTS,
    Candidate,
    Payload,
    Unusable,
    extension,
    read_file,
    refused,
    uri_of,
)  # fmt: skip
from pipeline.ingest.tars import read_tar


def file_candidate(path: Path) -> Candidate:
    """The image file at `path`, with the side-cars beside it."""

    def read() -> Payload:
        data = read_file(path, DEFAULT_LIMITS.max_bytes)
        return Payload(data, read_sidecars(path))

    return Candidate(uri_of(path), read)


def read_sidecars(path: Path) -> dict[str, bytes]:
    """The files of equal stem beside an image, by extension. Unusable where one is there but cannot be taken along."""
    found = {}
    for ext in SIDECAR_EXTS:
        beside = path.with_suffix(f".{ext}")
        if not os.path.lexists(beside):
            continue
        try:
            found[ext] = read_file(beside, MAX_SIDECAR)
        except Unusable as error:
            raise Unusable("bad_sidecar", f".{ext} beside it: {error}") from error
    return found


def walk(root: Path, exclude: Path | None = None) -> Iterator[Candidate]:
    """Every file below `root` with the extension of an image, and the samples of every tar; other files are no business
    of ours.

    Each folder is walked once: linked folders come after the real ones, and a link back into what was walked is passed
    over.
    """
    seen: set[tuple[int, int]] = set()
    if exclude is not None and exclude.is_dir():
        seen.add(_identity(exclude))
    linked = [root]
    while linked:
        yield from _walk_real(linked.pop(0), seen, linked)


def _identity(folder: Path) -> tuple[int, int]:
    info = folder.stat()
    return info.st_dev, info.st_ino


def _walk_real(folder: Path, seen: set[tuple[int, int]], linked: list[Path]) -> Iterator[Candidate]:
    """Candidates of one folder and the real folders in it; links to folders are left in `linked` for later."""
    try:
        if _identity(folder) in seen:
            return
        seen.add(_identity(folder))
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise ConfigError(
            f"{str(folder)!a}: cannot be listed ({error.strerror}). Check its rights, or move it away."
        ) from error
    for entry in entries:
        path, ext = Path(entry.path), extension(entry.name)
        if entry.is_dir(follow_symlinks=False):
            if ext in IMAGE_EXTS:
                yield refused(
                    uri_of(path), "directory", "a folder has the name of an image; what is in it is read as usual"
                )
            yield from _walk_real(path, seen, linked)
        elif entry.is_symlink() and path.is_dir():
            linked.append(path)
        elif ext == "tar":
            yield from read_tar(path)
        elif ext in IMAGE_EXTS:
            yield file_candidate(path)
