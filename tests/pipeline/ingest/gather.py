"""What the tests of ingest share: small photos, what a source gives, and what a data set then holds."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from webdataset import TarWriter

from labelers.core.images import decode, encode_png
from labelers.core.labeler import Sample
from pipeline.commits import data_key
from pipeline.dataset import IMAGE_EXTS, Dataset
from pipeline.ingest.candidate import Candidate, Payload, Unusable
from pipeline.ingest.ingest import verify_rgb
from pipeline.ingest.sources import open_source
from pipeline.records import file_sha256
from tests.labelers.corpus import scene


def photo(seed: int = 0) -> bytes:
    """A small PNG, another one for each seed."""
    return encode_png(scene(12, 8, seed))


def write_photos(folder: Path, *names: str, first: int = 0) -> Path:
    """A photo of its own under each name, in folders made as needed; returns the folder."""
    for seed, name in enumerate(names, first):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(photo(seed))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def numbered(folder: Path, n: int, first: int = 0) -> Path:
    """0000.png, 0001.png, ...: `photo(i)` under the number i."""
    return write_photos(folder, *(f"{i:04d}.png" for i in range(first, first + n)), first=first)


def content_id(data: bytes) -> str:
    """The id that a source file with these bytes must get."""
    return hashlib.sha256(data).hexdigest()[:32]


def write_tar_of(path: Path, samples: Iterable[Mapping[str, object]]) -> Path:
    """A tar as webdataset's own writer makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path), encoder=False) as writer:
        for sample in samples:
            writer.write(dict(sample))
    return path


def laion(n: int, first: int = 0) -> list[dict[str, object]]:
    """n samples in the layout of img2dataset: image, .txt and .json of one key."""
    return [
        {"__key__": f"{i:09d}", "png": photo(i), "txt": f"caption {i}".encode(), "json": b'{"key": "%09d"}' % i}
        for i in range(first, first + n)
    ]


def outcomes(candidates: Iterable[Candidate]) -> list[tuple[str, Payload | str]]:
    """(uri, payload or reason) of each candidate, in order. Reasons come with a sentence, and URIs are ASCII."""
    found: list[tuple[str, Payload | str]] = []
    for candidate in candidates:
        assert candidate.uri.isascii()
        assert "\n" not in candidate.uri
        try:
            found.append((candidate.uri, candidate.read()))
        except Unusable as error:
            found.append((candidate.uri, error.reason if error.detail else "no detail"))
    return found


def source(spec: Path | str) -> list[tuple[str, Payload | str]]:
    """What a source gives; fails instead of waiting for ever on a pipe."""
    with time_limit():
        return outcomes(open_source(str(spec)))


def good(found: Iterable[tuple[str, Payload | str]]) -> list[bytes]:
    """The bytes of the candidates that could be read."""
    return [payload.data for _, payload in found if isinstance(payload, Payload)]


def reasons(found: Iterable[tuple[str, Payload | str]]) -> list[str]:
    """The reasons of those that could not."""
    return [reason for _, reason in found if isinstance(reason, str)]


class Hang(BaseException):
    """No Exception, and no OSError as TimeoutError is: what is tested must not take it for the fault of a file."""


@contextmanager
def time_limit(seconds: float = 10.0) -> Iterator[None]:
    """Hang is raised where the block takes longer."""

    def stop(*_: object) -> None:
        raise Hang(f"still at it after {seconds} s")

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def samples(ds: Dataset) -> list[Sample]:
    """Every sample of the data set, decoded, in order; after a check that index, rgb shards and commits agree."""
    assert_aligned(ds)
    found = [sample for k in ds.shards() for sample in ds.samples(k)]
    whole = [sample for sample in found if isinstance(sample, Sample)]
    assert len(whole) == len(found)
    return whole


def ids(ds: Dataset) -> list[str]:
    """The ids of `samples`."""
    return [sample.id for sample in samples(ds)]


def assert_aligned(ds: Dataset) -> None:
    """Index shards of the right sizes, each id once; rgb with the same ids in the same order, committed truly; pixels
    of the size the index tells; no visible file but these.
    """
    rows = [row for k in ds.shards() for row in ds.index(k)]
    assert len({row.id for row in rows}) == len(rows), "an id is in the index twice"
    recipe = ds.current("rgb")
    assert sorted(ds.commits("rgb", recipe)) == ds.shards()
    visible = set()
    for k in ds.shards():
        commit = ds.commit_of("rgb", recipe, k)
        assert commit is not None
        path = ds.storage.local(data_key(commit))
        visible.add(path.name)
        assert 1 <= commit.count == len(ds.index(k)) <= ds.shard_size
        assert (path.stat().st_size, file_sha256(path)) == (commit.bytes, commit.sha256)
        assert list(verify_rgb(path).ids) == ds.ids(k)
        for row, (key, members) in zip(ds.index(k), ds.image_files(k), strict=True):
            assert row.id == key == row.sha256[:32]
            image = decode(next(members[ext] for ext in IMAGE_EXTS if ext in members)).image
            assert image.shape == (row.height, row.width, 3)
            assert image.dtype == np.uint8
    assert {p.name for p in (Path(ds.storage.url) / "rgb").iterdir() if p.is_file()} == visible
    assert not (Path(ds.storage.url) / "_tmp").exists()
