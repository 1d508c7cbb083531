"""Ingest ended at any step of the commit protocol: the same command completes it, nothing lost, doubled or stale."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from pipeline import shard_task
from pipeline.commits import Verify, commit_shard
from pipeline.dataset import Dataset
from pipeline.errors import StorageError
from pipeline.ingest.again import candidates_of, known_sources
from pipeline.ingest.candidate import uri_of
from pipeline.ingest.ingest import ingest
from pipeline.ingest.quarantine import read_quarantine
from pipeline.records import Commit, IndexRow
from pipeline.storage import Storage
from tests.pipeline.ingest.gather import content_id, ids, numbered, photo, samples
from tests.world import snapshot


@pytest.fixture
def ds(tmp_path: Path) -> Dataset:
    return Dataset.create(str(tmp_path / "ds"), "x", 4)


class Crash(Exception):
    pass


def crash_in_step(monkeypatch: pytest.MonkeyPatch, shard: int, wanted: str) -> None:
    """End the run at a named step of the commit protocol of one shard, or around the write of its index."""

    def step(at: int, name: str) -> None:
        if (at, name) == (shard, wanted):
            raise Crash(name)

    def committing(storage: Storage, draft: Commit, path: Path, ids: Sequence[str], verify: Verify) -> Commit:
        return commit_shard(storage, draft, path, ids, verify, partial(step, draft.shard))

    def publishing(ds: Dataset, k: int, rows: Sequence[IndexRow]) -> bool:
        step(k, "before the index")
        done = publish(ds, k, rows)
        step(k, "after the index")
        return done

    publish = Dataset.publish_index
    monkeypatch.setattr(shard_task, "commit_shard", committing)
    monkeypatch.setattr(Dataset, "publish_index", publishing)


@pytest.mark.parametrize("shard", [0, 1, 2])
@pytest.mark.parametrize(
    "step", ["written", "verified", "published", "committed", "before the index", "after the index"]
)
def test_a_crash_at_any_step_and_the_same_command_again(
    ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int, step: str
) -> None:
    folder = numbered(tmp_path / "photos", 10)
    with monkeypatch.context() as patch:
        crash_in_step(patch, shard, step)
        with pytest.raises(Crash, match=step):
            ingest(ds, [str(folder)])
    assert len(ds.shards()) == shard + (step == "after the index"), "a shard exists when its index exists"
    report = ingest(Dataset.open(ds.storage.url), [str(folder)])
    assert ids(ds) == [content_id(photo(i)) for i in range(10)]
    assert report.new + report.known == 10
    before = snapshot(tmp_path / "ds")
    assert ingest(ds, [str(folder)]).new == 0
    assert snapshot(tmp_path / "ds") == before


@pytest.mark.parametrize("step", ["published", "committed", "before the index"])
def test_a_crash_and_then_another_source(
    ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What the crash left is of other samples than those that come now: nothing of it may show."""
    with monkeypatch.context() as patch:
        crash_in_step(patch, 0, step)
        with pytest.raises(Crash):
            ingest(ds, [str(numbered(tmp_path / "one", 4))])
    ingest(ds, [str(numbered(tmp_path / "two", 4, first=50))])
    assert ids(ds) == [content_id(photo(i)) for i in range(50, 54)]


def test_a_crash_and_then_a_better_caption(ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = numbered(tmp_path / "photos", 4)
    (folder / "0000.txt").write_text("wrong")
    with monkeypatch.context() as patch:
        crash_in_step(patch, 0, "published")
        with pytest.raises(Crash):
            ingest(ds, [str(folder)])
    (folder / "0000.txt").write_text("right")
    ingest(ds, [str(folder)])
    assert samples(ds)[0].sidecars["txt"] == b"right"


def test_a_crash_in_the_first_shard_leaves_the_name_of_the_source(
    ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [numbered(tmp_path / name, 4) for name in ("photos", os.fsdecode(b"ph\xf6tos"))]
    crash_in_step(monkeypatch, 0, "written")
    for folder in folders:
        with pytest.raises(Crash):
            ingest(ds, [str(folder)])
    assert set(known_sources(ds)) == {str(folder) for folder in folders}
    assert len(list(candidates_of(ds, [uri_of(folders[1] / "0001.png")], known_sources(ds)))) == 1


def test_a_full_disk_ends_the_run_and_the_next_one_completes_it(
    ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = numbered(tmp_path / "photos", 10)
    (folder / "bad.jpg").write_bytes(b"")
    link = os.link

    def fails(source: Path, target: Path) -> None:
        if target.name == "shard-000001.tar":
            raise OSError(errno.ENOSPC, "No space left on device")
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", fails)
        with pytest.raises(StorageError, match="No space"):
            ingest(ds, [str(folder)])
    ingest(ds, [str(folder)])
    assert ids(ds) == [content_id(photo(i)) for i in range(10)]
    assert [reason for _, reason, _ in read_quarantine(ds)] == ["empty"]
