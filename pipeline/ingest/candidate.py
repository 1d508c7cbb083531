"""A candidate: one thing a source holds that may become a sample, named by a URI and not read yet."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

IMAGE_EXTS = frozenset({
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff",
    "heic", "heif", "avif", "jp2", "jxl",  # not decoded, but named as images: refused with a reason instead of overlooked
})  # fmt: skip
SIDECAR_EXTS = ("txt", "json")
MAX_SIDECAR = 1 << 20
MACHINE_TROUBLE = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # says nothing about the file it was met at


class Unusable(Exception):
    """A candidate cannot be read. reason: a short stable word; detail: a sentence, the same at every run."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Payload:
    """data: the bytes of the image file. sidecars: what lay beside it, by extension ("txt", "json"), unchanged."""

    data: bytes
    sidecars: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """uri: where it lies, ASCII only. read: its bytes; raises Unusable; may be called once, in any thread."""

    uri: str
    read: Callable[[], Payload]


def refused(uri: str, reason: str, detail: str) -> Candidate:
    """A candidate of which it is already known that it cannot be read, and why."""

    def read() -> Payload:
        raise Unusable(reason, detail)

    return Candidate(uri, read)


def uri_of(path: Path, member: str = "") -> str:
    """file:///... of a path, of a member of it after '#'. Bytes that are no plain ASCII, UTF-8 or not, are %-escaped."""
    uri = Path(os.path.abspath(path)).as_uri()
    return f"{uri}#{quote(member, errors='surrogateescape')}" if member else uri


def extension(name: str) -> str:
    """The last extension of a file name, lower case, without the dot: "photo.v2.JPG" -> "jpg"; "" for ".jpg"."""
    return Path(name).suffix[1:].lower()


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a plain file. Unusable for anything else (a device or pipe is never opened) and over `limit` bytes."""
    with judged(path):
        size = size_of_file(path)
        if size > limit:
            raise Unusable("too_many_bytes", f"{size} bytes, the limit is {limit}")
        with path.open("rb") as handle:
            return handle.read(limit + 1)


def size_of_file(path: Path) -> int:
    """Length of a plain file. Unusable for anything else."""
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise Unusable("not_a_file", "a directory, pipe or device has the name of an image or a tar")
    return info.st_size


@contextmanager
def judged(path: Path) -> Iterator[None]:
    """What the system says of a path as Unusable; but not what is the machine's own trouble."""
    try:
        yield
    except ValueError as error:  # a NUL character in a name that came from a list
        raise Unusable("bad_name", str(error)) from error
    except FileNotFoundError as error:
        broken = path.is_symlink()
        raise Unusable(
            "broken_link" if broken else "missing", "its target does not exist" if broken else "no such file"
        ) from error
    except OSError as error:
        if error.errno in MACHINE_TROUBLE:
            raise
        reason = "broken_link" if error.errno == errno.ELOOP else "unreadable"
        raise Unusable(reason, error.strerror or type(error).__name__) from error
