"""The quarantine: each entry once, in files named by their content that are never touched again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.ingest.again import candidates_of, known_sources
from pipeline.ingest.ingest import ingest, take_in
from pipeline.ingest.quarantine import SCHEMA, append_quarantine, pending, read_quarantine
from pipeline.shards import read_parquet
from tests.pipeline.ingest.gather import samples, write_photos
from tests.world import snapshot

ONE = ("file:///a.jpg", "empty", "the file has 0 bytes")
TWO = ("file:///b%0A.jpg", "damaged", "begins as JPEG, but cannot be read ('\"\u2028)")


@pytest.fixture
def ds(tmp_path: Path) -> Dataset:
    return Dataset.create(str(tmp_path / "ds"), "x", 4)


def files(ds: Dataset) -> list[str]:
    return list(ds.storage.list("_quarantine"))


def test_nothing_is_written_for_nothing(ds: Dataset) -> None:
    assert append_quarantine(ds, []) == 0
    assert (read_quarantine(ds), files(ds)) == ([], [])


def test_entries_come_back_as_they_were(ds: Dataset) -> None:
    assert append_quarantine(ds, [TWO, ONE]) == 2
    assert read_quarantine(ds) == [TWO, ONE]
    assert read_parquet(ds.storage.local(files(ds)[0])).schema.equals(SCHEMA)


def test_each_entry_is_kept_once_and_old_files_stay(ds: Dataset, tmp_path: Path) -> None:
    append_quarantine(ds, [ONE])
    before = snapshot(tmp_path / "ds")
    assert append_quarantine(ds, [ONE]) == 0
    assert snapshot(tmp_path / "ds") == before
    assert append_quarantine(ds, [ONE, TWO]) == 1
    assert sorted(read_quarantine(ds)) == sorted([ONE, TWO])
    after = snapshot(tmp_path / "ds")
    assert {key: after[key] for key in before} == before


def test_another_reason_for_the_same_input_is_another_entry(ds: Dataset) -> None:
    append_quarantine(ds, [ONE])
    other = (ONE[0], "truncated", "20 bytes of JPEG end too early")
    assert append_quarantine(ds, [other]) == 1
    assert sorted(read_quarantine(ds)) == sorted([ONE, other])


def test_the_same_entries_have_the_same_file(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        ds = Dataset.create(str(tmp_path / name), "x", 4)
        append_quarantine(ds, [ONE, TWO])
        found.append([(key, ds.storage.read_bytes(key)) for key in files(ds)])
    assert found[0] == found[1]
    assert len(found[0]) == 1


def test_a_damaged_file_is_said_and_not_passed_over(ds: Dataset, tmp_path: Path) -> None:
    append_quarantine(ds, [ONE])
    [key] = files(ds)
    (tmp_path / "ds" / key).write_bytes(b"PAR1")
    with pytest.raises(DamageError, match="not a whole Parquet file"):
        read_quarantine(ds)


def test_the_source_of_what_was_only_quarantined_is_known(ds: Dataset, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", "a.png")
    whole = (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(whole[:30])
    for source in (photos, tmp_path / "ds"):
        with pytest.raises(ConfigError, match="none usable|no image"):
            ingest(ds, [str(source)])
    (photos / "a.png").write_bytes(whole)
    assert known_sources(ds) == [str(photos)], "and none that held nothing"
    assert take_in(ds, candidates_of(ds, [uri for uri, _, _ in pending(ds)], known_sources(ds))).new == 1


def test_what_was_mended_becomes_a_sample_and_its_entry_stays_as_history(ds: Dataset, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", "a.png", "b.png")
    whole = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(whole[:30])
    first = ingest(ds, [str(photos)])
    assert [reason for _, reason, _ in first.quarantined] == ["truncated"]
    (photos / "b.png").write_bytes(whole)
    second = ingest(ds, [str(photos)])
    assert (second.new, second.quarantined, len(samples(ds))) == (1, [], 2)
    assert read_quarantine(ds) == first.quarantined
