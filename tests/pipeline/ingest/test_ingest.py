"""Ingest: ids from content, duplicates once, shards only appended, errors in one sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.ingest.ingest import ingest
from tests.pipeline.ingest.gather import content_id, ids, laion, numbered, photo, samples, write_photos, write_tar_of
from tests.world import snapshot


@pytest.fixture
def ds(tmp_path: Path) -> Dataset:
    return Dataset.create(str(tmp_path / "ds"), "x", 4)


def test_ids_are_digests_of_the_source_in_the_order_of_the_source(ds: Dataset, tmp_path: Path) -> None:
    report = ingest(ds, [str(numbered(tmp_path / "photos", 10))])
    assert ids(ds) == [content_id(photo(i)) for i in range(10)]
    assert (report.samples, report.new, report.known, report.shards) == (10, 10, 0, 3)
    assert [len(ds.index(k)) for k in ds.shards()] == [4, 4, 2]
    row = ds.index(0)[1]
    assert row.uri == (tmp_path / "photos" / "0001.png").as_uri()
    assert (row.sha256, row.bytes) == (hashlib.sha256(photo(1)).hexdigest(), len(photo(1)))


def test_sidecars_reach_the_samples(ds: Dataset, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", "a.png", "b.png")
    (folder / "a.txt").write_bytes(b"a caption\n")
    (folder / "a.json").write_bytes(b'{"width": 12}')
    ingest(ds, [str(folder), str(write_tar_of(tmp_path / "x.tar", laion(1, first=7)))])
    assert [dict(sample.sidecars) for sample in samples(ds)] == [
        {"txt": b"a caption\n", "json": b'{"width": 12}'}, {}, {"txt": b"caption 7", "json": b'{"key": "000000007"}'}
    ]  # fmt: skip


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "photos", 9)
    snapshots = []
    for name in ("one", "two"):
        ingest(Dataset.create(str(tmp_path / name), "x", 4), [str(folder)])
        found = snapshot(tmp_path / name)
        snapshots.append({key: digest for key, (digest, _) in found.items() if not key.startswith("_locks/")})
    assert len(snapshots[0]) >= 9
    assert snapshots[0] == snapshots[1]


def test_duplicates_are_named_with_the_first_and_not_taken(ds: Dataset, tmp_path: Path) -> None:
    folder = numbered(tmp_path / "photos", 6)
    for name, seed in (("0000_copy.png", 0), ("z/far.png", 0), ("z/near.png", 5)):  # within a shard, and across shards
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(photo(seed))
    report = ingest(ds, [str(folder)])
    uri = {
        name: (folder / name).as_uri() for name in ("0000.png", "0000_copy.png", "0005.png", "z/far.png", "z/near.png")
    }
    assert report.duplicates == [
        (uri["0000_copy.png"], uri["0000.png"]), (uri["z/far.png"], uri["0000.png"]), (uri["z/near.png"], uri["0005.png"])
    ]  # fmt: skip
    assert ids(ds) == [content_id(photo(i)) for i in range(6)]


def test_duplicates_of_an_earlier_run_and_of_another_kind_of_source(ds: Dataset, tmp_path: Path) -> None:
    ingest(ds, [str(numbered(tmp_path / "photos", 3))])
    report = ingest(ds, [str(write_tar_of(tmp_path / "x.tar", laion(5)))])
    assert [(a.partition("#")[2], Path(b).name) for a, b in report.duplicates] == [
        (f"00000000{i}.png", f"000{i}.png") for i in range(3)
    ]
    assert (report.new, report.samples) == (2, 5)
    assert ids(ds) == [content_id(photo(i)) for i in range(5)]


def test_a_source_named_twice_is_known_the_second_time(ds: Dataset, tmp_path: Path) -> None:
    folder = str(numbered(tmp_path / "photos", 5))
    report = ingest(ds, [folder, folder])
    assert (report.new, report.known, report.duplicates) == (5, 5, [])


def test_a_second_run_over_the_same_source_writes_nothing(ds: Dataset, tmp_path: Path) -> None:
    folder = numbered(tmp_path / "photos", 6)
    (folder / "bad.jpg").write_bytes(b"no picture")
    ingest(ds, [str(folder)])
    before = snapshot(tmp_path / "ds")
    report = ingest(Dataset.open(ds.storage.url), [str(folder)])
    assert (report.new, report.known, report.samples, len(report.quarantined)) == (0, 6, 6, 1)
    assert snapshot(tmp_path / "ds") == before


def test_a_second_source_is_appended_and_old_files_stay_as_they_are(ds: Dataset, tmp_path: Path) -> None:
    ingest(ds, [str(numbered(tmp_path / "photos", 6))])
    before = {key: value for key, value in snapshot(tmp_path / "ds").items() if not key.startswith("_locks/")}
    numbered(tmp_path / "photos", 3, first=6)
    report = ingest(Dataset.open(ds.storage.url), [str(tmp_path / "photos")])
    assert (report.new, report.known, report.shards) == (3, 6, 3)
    after = snapshot(tmp_path / "ds")
    assert {key: after.get(key) for key in before} == before, "bytes and times of every file that was there"
    assert [len(ds.index(k)) for k in ds.shards()] == [4, 2, 3], "the short shard is not filled up"
    assert ids(ds) == [content_id(photo(i)) for i in range(9)]


def test_a_data_set_inside_its_source_is_not_taken_in(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "photos", 3)
    ds = Dataset.create(str(folder / "ds"), "x", 4)
    assert ingest(ds, [str(folder)]).new == 3
    again = ingest(ds, [str(folder)])
    assert (again.new, again.known, again.duplicates, again.quarantined) == (0, 3, [], [])


def test_an_index_shard_is_written_once(ds: Dataset, tmp_path: Path) -> None:
    ingest(ds, [str(numbered(tmp_path / "photos", 4))])
    path = tmp_path / "ds" / ds.index_key(0)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert not ds.publish_index(0, list(reversed(ds.index(0))))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_another_shard_size_is_refused(ds: Dataset, tmp_path: Path) -> None:
    ingest(ds, [str(numbered(tmp_path / "photos", 6))])
    before = snapshot(tmp_path / "ds")
    with pytest.raises(ConfigError, match=r"created with shard_size 4, not 5.*Set shard_size: 4") as found:
        Dataset.create(ds.storage.url, "x", 5)
    assert found.value.exit_code == 2
    assert snapshot(tmp_path / "ds") == before
    assert Dataset.create(ds.storage.url, "x", 4).shard_size == 4


def nothing(folder: Path) -> str:
    return str(folder)


def text_only(folder: Path) -> str:
    (folder / "notes.md").write_text("no image")
    return str(folder)


def bad_only(folder: Path) -> str:
    (folder / "a.jpg").write_bytes(b"")
    return str(folder)


def empty_tar(folder: Path) -> str:
    return str(write_tar_of(folder / "empty.tar", []))


def bad_list(folder: Path) -> str:
    (folder / "list.parquet").write_bytes(b"PAR1 no")
    return str(folder / "list.parquet")


def wrong_kind(folder: Path) -> str:
    (folder / "movie.mp4").write_bytes(b"x")
    return str(folder / "movie.mp4")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nothing, "no image"), (text_only, "no image"), (bad_only, r"1 files, none usable.*a\.jpg, empty"),
        (empty_tar, "no image"), (bad_list, "cannot be read as a list"), (wrong_kind, "neither a folder"),
        (lambda folder: f"{folder}/absent", "no such file or folder"), (lambda _: "https://example.org/x.tar", "Copy it here"),
        (lambda folder: f"{folder}/{{a.tar", "its braces cannot be read"),
        (lambda _: "pipe:cat x.tar", "Copy it here"), (lambda folder: f"{folder}/x-{{0..3}}.tar", "4 of 4 tars do not exist"),
    ],
)  # fmt: skip
def test_a_source_without_images_is_one_clear_error(
    ds: Dataset, tmp_path: Path, make: Callable[[Path], str], words: str
) -> None:
    (tmp_path / "source").mkdir()
    spec = make(tmp_path / "source")
    with pytest.raises(ConfigError, match=words) as found:
        ingest(ds, [spec])
    assert found.value.exit_code == 2
    assert "\n" not in str(found.value)
    assert spec in str(found.value)
    assert ds.shards() == []


def test_one_unknown_source_of_several_stops_before_anything_is_taken(ds: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        ingest(ds, [str(numbered(tmp_path / "photos", 9)), str(tmp_path / "absent")])
    assert ds.shards() == []


def test_an_empty_source_is_no_error_once_there_are_samples(ds: Dataset, tmp_path: Path) -> None:
    ingest(ds, [str(numbered(tmp_path / "photos", 2))])
    (tmp_path / "none").mkdir()
    assert ingest(ds, [str(tmp_path / "none")]).samples == 2
