"""forget, promote, drop, why, diff: what they change, and above all what they leave alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from labelers.core.modality import Null
from pipeline.care.diff import diff, label_column
from pipeline.care.forget import forget, indexes_with, removed
from pipeline.care.garbage import drop
from pipeline.care.promote import go_back, parse_ref, promote
from pipeline.care.verify import verify
from pipeline.care.why import find_sample, lines, why
from pipeline.cli.care import reader_of
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.ingest.candidate import uri_of
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from pipeline.records import Commit
from pipeline.shards import write_parquet
from tests.faults.world import label_all, new_world, run_repair
from tests.pipeline.ingest.gather import write_photos
from tests.world import all_modalities_with_fakes, assert_world, fake_config, snapshot


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, list[str]]:
    """Twelve photos, labelled with two recipes of everything; 'b' is current."""
    root, ids = new_world(tmp_path, 12)
    label_all(root, "a")
    label_all(root, "b")
    return root, ids


def test_forget_takes_a_sample_out_of_every_recipe(world: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, _ = world
    ds = Dataset.open(str(root))
    victim = next(i for i in ds.ids(1) if int(i[:4], 16) % 7)
    pixels = dict(ds.image_files(1))[victim]["png"]
    assert any(pixels in p.read_bytes() for p in root.glob("rgb/*.tar"))
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in root.glob("*/shard-00000[02].*")}
    counts = forget(ds, [victim], lambda name: None)
    assert set(counts.values()) == {1}
    assert len(counts) == 7, "rgb and two recipes of three modalities"
    assert not any(pixels in p.read_bytes() for p in root.rglob("*") if p.is_file())
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before} == before, "other shards are not touched"
    ds = Dataset.open(str(root))
    for name, modality in all_modalities_with_fakes().items():
        if name.startswith("fake_"):
            for recipe in [
                r for m, r in [parse_ref(ds, f"{name}@{p.name.split('@')[1]}") for p in root.glob(f"{name}@*")]
            ]:
                assert ds.labels(modality, 1, recipe)[ds.ids(1).index(victim)] == Null("removed")
    assert ds.ids(1).count(victim) == 1, "its place stays"
    assert removed(ds) == {victim}
    assert verify(ds, reader_of) == []
    again = snapshot(root)
    assert forget(ds, [victim], lambda name: None) == dict.fromkeys(counts, 0)
    assert label(ds, fake_config(root, "b")).todo == 0, "nothing became stale"
    assert label(ds, fake_config(root, "c")).failed == 0, "a new recipe has a null there too"
    assert {p: d for p, d in snapshot(root).items() if p in again} == again
    report = ingest(ds, [str(tmp_path / "photos")])
    assert (report.new, report.known) == (0, 12), "it does not come back"


@pytest.mark.parametrize("at", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("when", ["before", "after"])
def test_forget_half_way_is_completed_by_the_same_command(
    world: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, at: int, when: str
) -> None:
    import pipeline.care.forget as module

    root, _ = world
    ds, calls, original = Dataset.open(str(root)), [0], module.retract
    victim = ds.ids(2)[0]

    def dying(storage: Any, commit: Commit) -> None:
        calls[0] += 1
        if when == "after" or calls[0] != at:
            original(storage, commit)
        if calls[0] == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "retract", dying)
    with pytest.raises(KeyboardInterrupt):
        forget(ds, [victim], lambda name: None)
    monkeypatch.undo()
    forget(ds, [victim], lambda name: None)
    assert verify(Dataset.open(str(root)), reader_of) == []
    assert {len(ds.commits(*parse_ref(ds, p.name))) for p in root.glob("fake*@*")} == {3}, "old recipes are whole too"
    assert not list((root / "_removed").rglob("shard-*"))
    assert label(ds, fake_config(root, "b")).todo == 0


def test_a_damaged_shard_is_not_written_again_as_if_it_were_sound(
    world: tuple[Path, list[str]], tmp_path: Path
) -> None:
    root, _ = world
    ds, config = Dataset.open(str(root)), fake_config(root, "b")
    victim, other = ds.ids(1)[:2]
    path, whole = root / "rgb" / "shard-000001.tar", dict(ds.image_files(1))
    data = path.read_bytes()
    path.write_bytes(data.replace(whole[other]["png"], whole[other]["png"][:-5] + b"?" + whole[other]["png"][-4:]))
    with pytest.raises(DamageError, match="Run `manymodal repair`"):
        forget(Dataset.open(str(root)), [victim], lambda name: None)
    assert {(f.modality, f.shard, f.kind) for f in verify(ds, reader_of)} == {("rgb", 1, "digest")}
    config = config.model_copy(update={"sources": [str(tmp_path / "photos")]})
    run_repair(ds, config, verify(ds, reader_of))
    assert whole[victim]["png"] not in path.read_bytes(), "repair knows that it was removed"
    forget(Dataset.open(str(root)), [victim], lambda name: None)
    assert verify(ds, reader_of) == []
    assert dict(Dataset.open(str(root)).image_files(1))[other] == whole[other]


@pytest.mark.parametrize("damage", ["record", "record and file"])
def test_repair_does_not_bring_back_what_was_forgotten(
    world: tuple[Path, list[str]], tmp_path: Path, damage: str
) -> None:
    root, _ = world
    ds = Dataset.open(str(root))
    config = fake_config(root, "b").model_copy(update={"sources": [str(tmp_path / "photos")]})
    victim, path, record = ds.ids(1)[0], root / "rgb/shard-000001.tar", root / "rgb/_commits/shard-000001.json"
    with_it = path.read_bytes(), record.read_bytes()
    forget(ds, [victim], lambda name: None)
    whole = path.read_bytes()
    record.unlink()
    if damage == "record and file":
        path.unlink()
    run_repair(ds, config, verify(ds, reader_of))
    assert path.read_bytes() == whole and verify(ds, reader_of) == []
    path.write_bytes(with_it[0])
    record.write_bytes(with_it[1])
    [found] = [f for f in verify(ds, reader_of) if f.modality == "rgb"]
    assert (found.shard, found.kind) == (1, "removed") and victim in found.what
    forget(ds, [victim], lambda name: None)
    assert path.read_bytes() == whole and verify(ds, reader_of) == []


def test_forget_needs_nothing_that_made_the_labels(
    world: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = world
    ds = Dataset.open(str(root))
    victim, other = [i for i in ds.ids(1) if int(i[:4], 16) % 7][:2]
    known = {name: all_modalities_with_fakes()[name] for name in ("fake_vector", "fake_map", "fake_sum")}
    wanted = {name: dict(zip(ds.ids(1), ds.labels(m, 1), strict=True))[other] for name, m in known.items()}
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.care.forget.all_modalities", dict)
        assert len(forget(ds, [victim], lambda name: None)) == 7
    ds = Dataset.open(str(root))
    assert verify(ds, reader_of) == [], "as the modalities themselves read it"
    for name, modality in known.items():
        labels = dict(zip(ds.ids(1), ds.labels(modality, 1), strict=True))
        assert labels[victim] == Null("removed") and np.array_equal(labels[other], wanted[name])


def test_indexes_that_hold_a_forgotten_sample_go(world: tuple[Path, list[str]]) -> None:
    root, ids = world
    ds = Dataset.open(str(root))
    for name, held in (("with", ids), ("without", ids[1:])):
        (root / "made" / name).mkdir(parents=True)
        write_parquet(root / "made" / name / "rows.parquet", pa.table({"id": held}))
        ds.storage.put_folder(f"_indexes/{name}", root / "made" / name)
    (root / "_indexes" / "torn").mkdir()
    (root / "_indexes" / "torn" / "rows.parquet").write_bytes(b"PAR1")
    assert indexes_with(ds, ids[:1]) == ["torn", "with"]
    forget(ds, ids[:1], lambda name: None)
    assert [p.name for p in (root / "_indexes").iterdir()] == ["without"]


def test_unknown_ids_are_refused_before_anything_changes(world: tuple[Path, list[str]]) -> None:
    root, ids = world
    before = snapshot(root)
    with pytest.raises(ConfigError, match="no sample has this id"):
        forget(Dataset.open(str(root)), [ids[0], "f" * 32], lambda name: None)
    assert snapshot(root) == before


def test_promote_switches_and_goes_back(world: tuple[Path, list[str]]) -> None:
    root, ids = world
    ds = Dataset.open(str(root))
    now = ds.manifest()
    old = {m: p.name.split("@")[1] for m in ("fake_vector", "fake_map", "fake_sum") for p in root.glob(f"{m}@*")
           if p.name.split("@")[1] != now.modalities[m]}  # fmt: skip
    files = {p: d for p, d in snapshot(root).items() if not p.startswith("_manifests")}
    promote(ds, list(old.items()))
    assert {k: ds.manifest().modalities[k] for k in old} == old
    go_back(ds, now.version)
    assert ds.manifest().modalities == now.modalities
    assert {p: d for p, d in snapshot(root).items() if not p.startswith("_manifests")} == files
    assert_world(root, ids, fake_config(root, "b"), "b")
    with pytest.raises(ConfigError, match="no manifest 99"):
        go_back(ds, 99)
    drop(ds, ("fake_map", old["fake_map"]))
    old_version = next(v for v in range(1, now.version) if ds.manifest(v).modalities.get("fake_map") == old["fake_map"])
    with pytest.raises(ConfigError, match="has 0 of 3 shards"):
        go_back(ds, old_version)


def test_incomplete_recipes_are_not_promoted(world: tuple[Path, list[str]]) -> None:
    root, _ = world
    ds = Dataset.open(str(root))
    old = next(p for p in root.glob("fake_map@*") if not p.name.endswith(ds.current("fake_map")))
    (old / "_commits" / "shard-000001.json").unlink()
    with pytest.raises(ConfigError, match="2 of 3 shards"):
        promote(ds, [parse_ref(ds, old.name)])


def test_drop_removes_an_old_recipe_and_never_a_needed_one(world: tuple[Path, list[str]]) -> None:
    root, ids = world
    ds = Dataset.open(str(root))
    current = ("fake_map", ds.current("fake_map"))
    with pytest.raises(ConfigError, match="is current"):
        drop(ds, current)
    old = next(parse_ref(ds, p.name) for p in root.glob("fake_map@*") if not p.name.endswith(current[1]))
    before = snapshot(root)
    keys = drop(ds, old, dry_run=True)
    assert len(keys) == 6 and snapshot(root) == before
    assert drop(ds, old) == keys
    assert not (root / f"fake_map@{old[1]}").exists()
    assert_world(root, ids, fake_config(root, "b"), "b")


def test_why_tells_the_whole_chain(world: tuple[Path, list[str]]) -> None:
    root, _ = world
    ds = Dataset.open(str(root))
    k, place, row = find_sample(ds, "p0007.png")
    assert find_sample(ds, row.id) == find_sample(ds, row.id[:10]) == (k, place, row)
    found = why(ds, row.id, ("fake_sum", ds.current("fake_sum")))
    assert {link["modality"] for link in found["made_from"]} == {"rgb", "fake_vector", "fake_map"}
    assert found["label"]["inputs"].keys() == {"rgb", "fake_vector", "fake_map"}
    text = "\n".join(lines(found))
    for expected in (row.uri, row.sha256, "fake_base version 1", "'salt': 'b'", found["label"]["sha256"][:12]):
        assert expected in text
    with pytest.raises(ConfigError, match="no sample"):
        find_sample(ds, "nothing.png")
    with pytest.raises(ConfigError, match="samples fit"):
        find_sample(ds, ".png")


def test_samples_are_found_by_the_names_a_person_types(tmp_path: Path) -> None:
    ds = Dataset.create(str(tmp_path / "ds"), "x", 4)
    names = ["my photo.png", "föö.png", os.fsdecode(b"f\xf6n.png")]
    folder = write_photos(tmp_path / "photos", *names)
    ingest(ds, [str(folder)])
    assert [find_sample(ds, name)[2].uri for name in names] == [uri_of(folder / name) for name in names]


def test_diff_counts_and_ranks(world: tuple[Path, list[str]]) -> None:
    root, ids = world
    ds = Dataset.open(str(root))
    now = parse_ref(ds, "fake_vector")
    old = next(parse_ref(ds, p.name) for p in root.glob("fake_vector@*") if not p.name.endswith(now[1]))
    nulls = sum(int(i[:4], 16) % 7 == 0 for i in ids)
    itself = diff(ds, now, now, label_column(ds, "fake_vector"))
    assert (itself.samples, itself.equal, itself.both_null) == (12 - nulls, 12 - nulls, nulls)
    assert itself.metrics["cosine"]["mean"] == 1.0
    other = diff(ds, old, now, label_column(ds, "fake_vector"), keep=3)
    assert other.equal == 0
    assert len(other.worst) == 3
    scores = [case[4]["cosine"] for case in other.worst]
    assert scores == sorted(scores), "worst first"
    assert np.isclose(min(scores), other.metrics["cosine"]["worst_5_percent"], atol=0.2)
    for shard, ref in ((0, now), (2, old)):
        (root / f"fake_vector@{ref[1]}" / "_commits" / f"shard-00000{shard}.json").unlink()
    part = diff(ds, old, now, label_column(ds, "fake_vector"))
    whole = [sum(int(i[:4], 16) % 7 != 0 for i in ds.ids(k)) for k in range(3)]
    assert (part.only_a, part.samples, part.only_b) == (whole[0], whole[1], whole[2])
    with pytest.raises(ConfigError, match="one modality"):
        diff(ds, old, ("fake_map", ds.current("fake_map")), label_column(ds, "fake_vector"))
