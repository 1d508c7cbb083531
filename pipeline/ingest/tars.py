"""WebDataset tars as a source: image, .txt and .json of one key, next to each other (the layout of img2dataset).

Read with tarfile and checks of our own, because a tar that was cut reads, in webdataset and in tarfile alike, as a
smaller data set without an error. Every member is judged: plain files of plain names and bounded size; nothing is ever
extracted to disk.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from webdataset.tariterators import base_plus_ext

from labelers.core.images import DEFAULT_LIMITS
from pipeline.ingest.candidate import (
    IMAGE_EXTS,
    MAX_SIDECAR,
    SIDECAR_EXTS,
    Candidate,
    Payload,
    extension,
    refused,
    uri_of,
)  # fmt: skip

_BLOCK = 512


class _Cut(Exception):
    """The tar ends before it is over. The message is a sentence for a person."""


def read_tar(path: Path) -> Iterator[Candidate]:
    """Candidates of a tar, in its order; and one more, which cannot be read and says why, where the tar is not whole.

    The sample that a cut ends in is refused too: what is missing of it cannot be known.
    """
    group: dict[str, bytes] = {}
    key, samples = "", 0
    try:
        with tarfile.open(path, "r:") as tar:
            for info in _members(tar, path):
                base, _ = base_plus_ext(info.name)
                problem = _problem(info)
                if problem:
                    yield refused(uri_of(path, info.name), *problem)
                    continue
                if base is None or extension(info.name) not in (*IMAGE_EXTS, *SIDECAR_EXTS):
                    continue
                if base != key:
                    yield from _candidates(path, group)
                    samples += bool(group)
                    key, group = base, {}
                group[info.name] = _content(tar, info)
        yield from _candidates(path, group)
    except (_Cut, tarfile.TarError, EOFError, OSError) as error:
        for name in group:
            if extension(name) in IMAGE_EXTS:
                yield refused(
                    uri_of(path, name),
                    "truncated_tar",
                    "the last sample before the tar ends too soon; it may lack parts",
                )
        detail = error.strerror or "cannot be read" if isinstance(error, OSError) else str(error)
        yield refused(uri_of(path), "truncated_tar", f"{detail}, after {samples} whole samples. Fetch the file again.")


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """Headers in order, in bounded memory. _Cut unless the last is followed by the end-of-archive blocks and nothing
    else.
    """
    end = 0
    while (info := tar.next()) is not None:
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
    """Why a member must not be used, as (reason, detail), or None. Folders are no trouble, and no sample either."""
    ext = extension(info.name)
    if info.isdir() or ext not in (*IMAGE_EXTS, *SIDECAR_EXTS):
        return None
    if not info.isreg() or info.issparse():
        return "not_a_file", "a link, device or sparse file in a tar"
    if info.name.startswith("/") or ".." in PurePosixPath(info.name).parts or "\0" in info.name:
        return "bad_name", "a member's name must be relative and plain"
    limit = MAX_SIDECAR if ext in SIDECAR_EXTS else DEFAULT_LIMITS.max_bytes
    if info.size > limit:
        return "too_many_bytes", f"{info.size} bytes, the limit is {limit}"
    return None


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    handle = tar.extractfile(info)
    data = handle.read() if handle else b""
    if len(data) != info.size:
        raise _Cut(f"cut inside member {info.name!a}")
    return data


def _candidates(path: Path, group: dict[str, bytes]) -> Iterator[Candidate]:
    """One candidate an image of the group, each with the group's side-cars."""
    sidecars = {ext: data for name, data in group.items() if (ext := extension(name)) in SIDECAR_EXTS}
    for name, data in group.items():
        if extension(name) in IMAGE_EXTS:
            payload = Payload(data, sidecars)
            yield Candidate(uri_of(path, name), lambda payload=payload: payload)  # type: ignore[misc]
