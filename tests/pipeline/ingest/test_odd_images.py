"""Fault F14 from end to end: every odd image becomes upright 8-bit RGB or a quarantine entry, and costs no neighbour."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from labelers.core.images import decode
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import IngestReport, ingest
from pipeline.ingest.quarantine import read_quarantine
from tests.labelers.corpus import Expected, corpus, jpeg, oriented_jpeg, png16, scene, to_bytes, write_corpus
from tests.pipeline.ingest.gather import photo, samples, write_tar_of

LINKS = {
    "dangling.jpg": "broken_link",
    "loop_a.jpg": "broken_link",
    "loop_b.jpg": "broken_link",
    "folder.jpg": "directory",
}


def name_of(uri: str) -> str:
    return os.fsdecode(os.path.basename(unquote_to_bytes(uri.removeprefix("file://"))))


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Expected], Dataset, IngestReport]:
    """The whole corpus, ingested once: what was wanted, the data set, the report."""
    folder = tmp_path_factory.mktemp("odd")
    wanted = write_corpus(folder / "photos")
    ds = Dataset.create(str(folder / "ds"), "odd", 16)
    return wanted, ds, ingest(ds, [str(folder / "photos")])


Taken = tuple[dict[str, Expected], Dataset, IngestReport]


def test_every_file_of_the_corpus_is_a_sample_a_duplicate_or_an_entry_with_its_reason(taken: Taken) -> None:
    wanted, ds, report = taken
    rows = {name_of(row.uri): row for k in ds.shards() for row in ds.index(k)}
    bad = {name_of(uri): reason for uri, reason, _ in report.quarantined}
    images = {name: want for name, want in wanted.items() if want.is_file}
    assert len(images) > 60
    assert bad == LINKS | {name: want.reason for name, want in images.items() if want.reason}
    copies = {name_of(uri) for uri, _ in report.duplicates}
    assert rows.keys() | copies == {name for name, want in images.items() if not want.reason}
    assert len(rows) + len(copies) + len(bad) == len(images) + len(LINKS), "each is exactly one of the three"
    for name, row in rows.items():
        assert (row.width, row.height) == images[name].size


def test_the_samples_are_what_the_files_show_in_one_order(taken: Taken) -> None:
    _, ds, _ = taken
    data = {hashlib.sha256(data).hexdigest()[:32]: data for data, _ in corpus().values()}
    found = samples(ds)
    assert len(found) > 40
    for sample in found:
        assert (sample.image == decode(data[sample.id]).image).all()
    order = [unquote_to_bytes(row.uri) for k in ds.shards() for row in ds.index(k)]
    assert order == sorted(order)


def test_plain_files_are_stored_as_they_came_and_others_as_png(taken: Taken) -> None:
    wanted, ds, _ = taken
    kept = 0
    for k in ds.shards():
        for row, (_, members) in zip(ds.index(k), ds.image_files(k), strict=True):
            [(ext, data)] = members.items()
            same = hashlib.sha256(data).hexdigest() == row.sha256
            assert same == wanted[name_of(row.uri)].canonical
            assert same or ext == "png"
            with Image.open(io.BytesIO(data)) as image:
                assert (image.mode, image.format) == ("RGB", {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[ext])
            kept += same
    assert kept > 20


def test_the_entries_are_kept_as_data(taken: Taken) -> None:
    _, ds, report = taken
    assert sorted(read_quarantine(ds)) == sorted(report.quarantined)
    assert all(uri.isascii() and reason.isidentifier() and error for uri, reason, error in report.quarantined)


def test_a_second_run_says_the_same(taken: Taken) -> None:
    _, ds, report = taken
    again = ingest(Dataset.open(ds.storage.url), [str(Path(ds.storage.url).parent / "photos")])
    assert (again.new, again.known, again.samples) == (0, report.new, report.samples)
    assert again.quarantined == report.quarantined
    assert again.duplicates == report.duplicates


def test_the_same_corpus_in_a_tar(taken: Taken, tmp_path: Path) -> None:
    """Names do not matter, so the same ids come out, whatever the members are called."""
    _, ds, _ = taken
    rows = [{"__key__": f"{i:06d}", "jpg": data} for i, (data, _) in enumerate(corpus().values())]
    other = Dataset.create(str(tmp_path / "ds"), "tar", 16)
    report = ingest(other, [str(write_tar_of(tmp_path / "x.tar", rows))])
    ids = {sample.id for sample in samples(other)}
    assert ids == {sample.id for sample in samples(ds)}
    assert sorted(reason for _, reason, _ in report.quarantined) == sorted(
        w.reason for _, w in corpus().values() if w.reason
    )


def grey(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L"))


SCENE = scene(40, 24)
LUMA = np.asarray(Image.fromarray(SCENE).convert("L"))
HALF_CLEAR = np.dstack([SCENE, np.where(np.arange(40) < 20, 255, 0)[None].repeat(24, 0).astype(np.uint8)])
NORMALISED: dict[str, tuple[bytes, NDArray[np.uint8], float]] = {
    # file, upright RGB it must become, mean difference allowed (JPEG and CMYK round)
    "exif6.jpg": (oriented_jpeg(np.ascontiguousarray(np.rot90(SCENE)), 6), SCENE, 3),
    "exif5.jpg": (oriented_jpeg(np.ascontiguousarray(SCENE.transpose(1, 0, 2)), 5), SCENE, 3),
    "grey16.png": (to_bytes(Image.fromarray(LUMA.astype(np.uint16) * 257), "PNG"), LUMA[..., None].repeat(3, 2), 0),
    "rgb16.png": (png16(SCENE.astype(np.uint16) * 257), SCENE, 0),
    "float.tif": (to_bytes(Image.fromarray(LUMA.astype(np.float32) / 255), "TIFF"), LUMA[..., None].repeat(3, 2), 0),
    "cmyk.jpg": (to_bytes(Image.fromarray(SCENE).convert("CMYK"), "JPEG", quality=98), SCENE, 4),
    "palette.png": (
        to_bytes(Image.fromarray(SCENE // 64 * 64).quantize(256), "PNG"), SCENE // 64 * 64, 0.5
    ),
    "alpha.png": (to_bytes(Image.fromarray(HALF_CLEAR), "PNG"), np.where(HALF_CLEAR[..., 3:] > 0, SCENE, 255), 0),
    "grey.jpg": (to_bytes(Image.fromarray(LUMA), "JPEG", quality=98), LUMA[..., None].repeat(3, 2), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMALISED)
def test_modes_and_depths_become_upright_rgb(tmp_path: Path, name: str) -> None:
    data, wanted, tolerance = NORMALISED[name]
    (tmp_path / name).write_bytes(data)
    ds = Dataset.create(str(tmp_path / "ds"), "x", 4)
    ingest(ds, [str(tmp_path / name)])
    [sample] = samples(ds)
    assert sample.image.shape == wanted.shape
    assert np.abs(sample.image.astype(int) - wanted).mean() <= tolerance
    assert sample.id == hashlib.sha256(data).hexdigest()[:32], "the id is of the source, not of what is stored"


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error"), ImportError("no codec")])
def test_trouble_of_the_machine_is_no_quarantine_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(6):
        (tmp_path / "photos" / f"{i}.png").write_bytes(photo(i))
    ds = Dataset.create(str(tmp_path / "ds"), "x", 2)
    real: Callable[[bytes], object] = decode

    def fail(data: bytes) -> object:
        if data == photo(4):
            raise error
        return real(data)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.ingest.ingest.decode", fail)
        with pytest.raises(type(error)):
            ingest(ds, [str(tmp_path / "photos")])
    assert read_quarantine(ds) == []
    assert ingest(ds, [str(tmp_path / "photos")]).samples == 6
    assert len(samples(ds)) == 6


def test_a_photo_larger_than_its_neighbours_does_not_change_the_order(tmp_path: Path) -> None:
    """Threads finish out of turn; the index does not show it."""
    (tmp_path / "photos").mkdir()
    wanted = []
    for i in range(40):
        data = jpeg(scene(900, 700, i)) if i % 7 == 0 else photo(i)
        (tmp_path / "photos" / f"{i:02d}.jpg").write_bytes(data)
        wanted.append(hashlib.sha256(data).hexdigest()[:32])
    ds = Dataset.create(str(tmp_path / "ds"), "x", 64)
    ingest(ds, [str(tmp_path / "photos")])
    assert ds.ids(0) == wanted
