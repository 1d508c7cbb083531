"""WebDataset tars as a source: image, .txt and .json of one key, next to each other (the layout of img2dataset).

Read with tarfile and checks of our own, because a tar that was cut reads, in webdataset and in tarfile alike, as a
smaller data set without an error. Every member is judged: plain files of plain names and bounded size; nothing is ever
extracted to disk.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from webdataset.tariterators import base_plus_ext

from labelers.core.images import DEFAULT_LIMITS
from pipeline.ingest.candidate import (
    IMAGE_EXTS,
    MACHINE_TROUBLE,
    MAX_SIDECAR,
    SIDECAR_EXTS,
    Candidate,
    Payload,
    Unusable,
    extension,
    judged,
    refused,
    size_of_file,
    uri_of,
)  # fmt: skip

_BLOCK = 512
MAX_GROUP = 64  # images and side-cars that are kept in memory in the hope that they are one sample


class _Cut(Exception):
    """The tar ends before it is over. The message is a sentence for a person."""


def read_tar(path: Path) -> Iterator[Candidate]:
    """Candidates of a tar, in its order; and one more, which cannot be read and says why, where the tar is not whole.

    The sample that a cut ends in is refused too: what is missing of it cannot be known.
    """
    try:
        with judged(path):
            size_of_file(path)
    except Unusable as error:
        yield refused(uri_of(path), error.reason, error.detail)
    else:
        yield from _samples(path)


def _samples(path: Path) -> Iterator[Candidate]:
    """Candidates of a plain file that calls itself a tar."""
    group: dict[str, bytes] = {}
    key, samples = "", 0
    try:
        with _sensible():
            tar = tarfile.open(path, "r:")  # noqa: SIM115 closed below; opening reads a header, which may be senseless
        with tar:
            for info in _members(tar, path):
                if info.isdir() or extension(info.name) not in (*IMAGE_EXTS, *SIDECAR_EXTS):
                    continue  # no sample of ours
                problem = _problem(info)
                base = base_plus_ext(info.name)[0] or _stem(info.name)  # webdataset has no key for ".a.jpg"
                if base != key or info.name in group or _too_many(group, info.name):
                    yield from _candidates(path, group)
                    samples += bool(group)
                    key, group = base, {}
                if problem:
                    yield refused(uri_of(path, info.name), *problem)
                else:
                    group[info.name] = _content(tar, info)
        yield from _candidates(path, group)
    except (_Cut, tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno in MACHINE_TROUBLE:
            raise
        for name in group:
            if extension(name) in IMAGE_EXTS:
                yield refused(
                    uri_of(path, name),
                    "truncated_tar",
                    "the last sample before the tar ends too soon; it may lack parts",
                )
        detail = error.strerror or "cannot be read" if isinstance(error, OSError) else str(error)
        yield refused(uri_of(path), "truncated_tar", f"{detail}, after {samples} whole samples. Fetch the file again.")


@contextmanager
def _sensible() -> Iterator[None]:
    """_Cut for a header whose numbers tarfile itself trips over."""
    try:
        yield
    except (ValueError, OverflowError, MemoryError) as error:
        raise _Cut("a header makes no sense") from error


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """Headers in order, in bounded memory. _Cut unless the last is followed by the end-of-archive blocks and nothing
    else.
    """
    end = 0
    while True:
        with _sensible():
            info = tar.next()
        if info is None:
            break
        if tar.offset <= end:  # a negative size; tarfile would read the same headers for ever (CVE-2025-8194)
            raise _Cut(f"the header of {info.name!a} points back to where the tar was read already")
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
        yield info
        end = tar.offset
    with path.open("rb") as handle:
        handle.seek(end)
        length = 0
        while block := handle.read(1 << 20):
            if any(block):
                raise _Cut("something that is no tar header follows the last member that could be read")
            length += len(block)
    if length < 2 * _BLOCK:
        raise _Cut("the end-of-archive blocks are missing")


def _problem(info: tarfile.TarInfo) -> tuple[str, str] | None:
    """Why an image or side-car of a tar must not be used, as (reason, detail), or None."""
    if not info.isreg() or info.issparse():
        return "not_a_file", "a link, device or sparse file in a tar"
    if info.name.startswith("/") or ".." in PurePosixPath(info.name).parts or "\0" in info.name:
        return "bad_name", "a member's name must be relative and plain"
    limit = MAX_SIDECAR if extension(info.name) in SIDECAR_EXTS else DEFAULT_LIMITS.max_bytes
    if info.size > limit:
        return "too_many_bytes", f"{info.size} bytes, the limit is {limit}"
    return None


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    handle = tar.extractfile(info)
    data = handle.read() if handle else b""
    if len(data) != info.size:
        raise _Cut(f"cut inside member {info.name!a}")
    return data


def _stem(name: str) -> str:
    """All before the last extension."""
    return name.rpartition(".")[0]


def _too_many(group: dict[str, bytes], name: str) -> bool:
    """Whether a group of names with dots (IMG_2024.01.01.jpg, IMG_2024.01.02.jpg, ...) is no sample but a whole album."""
    return len(group) >= MAX_GROUP and all(_stem(name) != _stem(other) for other in group)


def _candidates(path: Path, group: dict[str, bytes]) -> Iterator[Candidate]:
    """One candidate an image of the group. Side-cars go to the images of their own stem; one that is the only one of its
    kind and has no such image belongs to all of them, as in webdataset.
    """
    images = {name: data for name, data in group.items() if extension(name) in IMAGE_EXTS}
    stems = {_stem(name) for name in images}
    by_ext: dict[str, dict[str, bytes]] = {}  # extension -> stem -> side-car
    for name, data in group.items():
        if name not in images:
            by_ext.setdefault(extension(name), {})[_stem(name)] = data
    lone = {ext: found for ext, found in by_ext.items() if len(found) == 1 and not stems & found.keys()}
    shared = {ext: next(iter(found.values())) for ext, found in lone.items()}
    for name, data in images.items():
        own = {ext: found[_stem(name)] for ext, found in by_ext.items() if _stem(name) in found}
        payload = Payload(data, {**shared, **own})
        yield Candidate(uri_of(path, name), lambda payload=payload: payload)  # type: ignore[misc]
