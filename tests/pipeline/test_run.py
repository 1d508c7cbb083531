"""Runs: a second one does nothing, another recipe leaves everything else alone, failures are said and not fatal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from pipeline.run import last_reports
from pipeline.status import status
from tests.world import FakeBase, assert_world, fake_config, fake_photos, snapshot


@pytest.fixture
def root(tmp_path: Path) -> Path:
    ds = Dataset.create(str(tmp_path / "ds"), "w", 5)
    ingest(ds, [str(fake_photos(tmp_path / "photos", 12))])
    return tmp_path / "ds"


def all_ids(root: Path) -> list[str]:
    ds = Dataset.open(str(root))
    return [i for k in ds.shards() for i in ds.ids(k)]


def test_a_second_run_writes_nothing(root: Path) -> None:
    first = label(Dataset.open(str(root)), fake_config(root))
    assert (first.todo, first.done, first.failed) == (6, 6, 0)
    before = snapshot(root)
    second = label(Dataset.open(str(root)), fake_config(root))
    assert (second.todo, second.done, second.executor) == (0, 0, "none")
    assert snapshot(root) == before
    assert_world(root, all_ids(root), fake_config(root))


def test_another_parameter_is_another_recipe_beside_the_old_one(root: Path) -> None:
    ds = Dataset.open(str(root))
    label(ds, fake_config(root))
    before, old = snapshot(root), ds.manifest()
    report = label(ds, fake_config(root, salt="b"))
    assert (report.todo, report.failed) == (6, 0)
    after = snapshot(root)
    assert {name: after[name] for name in before} == before, "every file there was keeps its bytes and times"
    assert_world(root, all_ids(root), fake_config(root, salt="b"), salt="b")
    assert ds.manifest(old.version) == old
    back = label(ds, fake_config(root))
    assert back.todo == 0, "going back is no work"
    [note] = back.notes
    assert all(f"{name}@{rid} (before: " in note for name, rid in old.modalities.items() if name.startswith("fake_"))
    assert ds.manifest().modalities == old.modalities


def test_the_manifest_switches_only_when_all_is_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = Dataset.open(str(root))
    label(ds, fake_config(root))
    old = ds.manifest().modalities
    poison = set(ds.ids(1))
    original = FakeBase.label

    def broken(self: FakeBase, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        if {s.id for s in samples} <= poison:
            raise RuntimeError("no")
        return original(self, samples)

    monkeypatch.setattr(FakeBase, "label", broken)
    report = label(ds, fake_config(root, salt="b"))
    assert report.failed == 2, "the broken shard, and what reads it"
    assert any("every sample" in line for line in report.errors)
    assert any("not tried" in line for line in report.errors)
    assert ds.manifest().modalities == old, "readers keep the complete recipe"
    monkeypatch.setattr(FakeBase, "label", original)
    assert label(ds, fake_config(root, salt="b")).todo == 2
    assert_world(root, all_ids(root), fake_config(root, salt="b"), salt="b")


def test_a_run_leaves_its_record(root: Path) -> None:
    ds = Dataset.open(str(root))
    label(ds, fake_config(root))
    folder = next(p for p in (root / "_runs").iterdir() if p.name.split("_")[1] == "label")
    assert {p.name for p in folder.iterdir()} == {"config.json", "plan.json", "events.jsonl", "report.json"}
    assert len(json.loads((folder / "plan.json").read_text())) == 6
    assert len((folder / "events.jsonl").read_text().splitlines()) == 6
    assert last_reports(ds)["label"]["done"] == 6


def test_status_counts(root: Path) -> None:
    ds = Dataset.open(str(root))
    label(ds, fake_config(root))
    found = status(ds)
    assert (found["samples"], found["shards"], found["damage"]) == (12, 3, [])
    nulls = sum(int(i[:4], 16) % 7 == 0 for i in all_ids(root))
    for name in ("fake_vector", "fake_map", "fake_sum"):
        row = found["modalities"][name]
        assert (row["committed"], row["missing"], row["stale"], row["nulls"]) == (3, 0, 0, nulls)
        assert row["backend"] == "fake"
    path = root / f"fake_map@{ds.current('fake_map')}" / "shard-000002.tar"
    path.unlink()
    found = status(ds)
    assert found["modalities"]["fake_map"]["missing"] == 1
    assert "shard-000002.tar" in found["damage"][0]
