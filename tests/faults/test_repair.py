"""F13, what comes after: sound bytes whose commit, index or makers are lost outlive gc, label and repair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from pipeline.care.garbage import collect
from pipeline.care.repair import repair
from pipeline.care.verify import verify
from pipeline.cli.care import reader_of, steps_of
from pipeline.dataset import Dataset
from pipeline.label import label
from tests.faults.test_damage import (
    commit_path,
    find,
    mistake_record,
    spoil_image,
    spoil_image_record,
    spoil_record,
    uncommit_image,
)  # fmt: skip
from tests.faults.world import label_all, new_world, run_repair
from tests.world import FakeBase, assert_world, fake_config, snapshot


@pytest.mark.parametrize("damage", [uncommit_image, spoil_image_record])
def test_f13_images_without_a_record_outlive_gc_and_the_loss_of_their_source(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    root, ids = new_world(tmp_path, 20)
    label_all(root)
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    damage(root)
    ds, config = Dataset.open(str(root)), fake_config(root)
    assert collect(ds, hours=-1) == []
    assert run_repair(ds, config, find(root)).identical == 1
    assert_world(root, ids, config)


def test_f13_a_flipped_image_without_a_record_is_not_committed_again(tmp_path: Path) -> None:
    root, ids = new_world(tmp_path, 20)
    label_all(root)
    path = root / "rgb" / "shard-000001.tar"
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[data.index(b"IDAT") + 8] ^= 1
    path.write_bytes(flipped)
    uncommit_image(root)
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    ds, config = Dataset.open(str(root)), fake_config(root)
    result = run_repair(ds, config, find(root))
    assert ["not at their source" in why for _, why in result.left] == [True] and path.read_bytes() == flipped
    (tmp_path / "elsewhere").rename(tmp_path / "photos")
    run_repair(ds, config, find(root))
    assert path.read_bytes() == data
    assert_world(root, ids, config)


@pytest.mark.parametrize("damage", [spoil_record, mistake_record])
def test_f13_label_makes_good_a_damaged_record_and_leaves_the_neighbours(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    root, ids = new_world(tmp_path, 20)
    label_all(root)
    before = snapshot(root)
    damage(root)
    assert label(Dataset.open(str(root)), fake_config(root)).done == 2, "the shard, and what reads it"
    after = snapshot(root)
    spoilt = str(commit_path(root, "fake_map", 1).relative_to(root))
    assert {key: after[key] for key in before if key != spoilt} == {k: v for k, v in before.items() if k != spoilt}
    assert_world(root, ids, fake_config(root))


def test_f13_what_reads_a_repaired_shard_is_made_again_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = new_world(tmp_path, 20)
    label_all(root)
    next(root.glob("fake_vector@*/shard-000001.parquet")).unlink()
    original = FakeBase.label

    def otherwise(self: FakeBase, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        rows = original(self, samples)
        return [r | {"fake_vector": v if isinstance(v := r["fake_vector"], Null) else v + 1} for r in rows]

    monkeypatch.setattr(FakeBase, "label", otherwise)  # as a network on another machine
    ds, config = Dataset.open(str(root)), fake_config(root)
    result = run_repair(ds, config, find(root))
    assert [(f.modality, f.shard) for f in result.repaired] == [("fake_vector", 1), ("fake_sum", 1)]
    assert result.left == [] and verify(ds, reader_of) == []


@pytest.mark.parametrize("lost", ["labeler", "images", "bytes of images"])
def test_f13_repair_withdraws_nothing_that_it_cannot_make_again(tmp_path: Path, lost: str) -> None:
    root, ids = new_world(tmp_path, 20)
    label_all(root)
    whole = commit_path(root, "fake_map", 1).read_bytes()
    spoil_record(root)
    image = root / "rgb" / "shard-000001.tar"
    data = image.read_bytes()
    if lost != "labeler":
        (tmp_path / "photos").rename(tmp_path / "elsewhere")
    if lost == "images":
        image.unlink()
    elif lost == "bytes of images":
        spoil_image(root)
    before = snapshot(root)
    ds, config = Dataset.open(str(root)), fake_config(root)
    steps = (lambda refs: []) if lost == "labeler" else (lambda refs: steps_of(ds, config, refs))
    result = repair(ds, config, find(root), steps, lambda *_: None)
    assert result.repaired == [] and snapshot(root) == before
    image.write_bytes(data)
    commit_path(root, "fake_map", 1).write_bytes(whole)
    assert_world(root, ids, config)


def test_f13_a_lost_index_shard_is_damage_and_stays_so(tmp_path: Path) -> None:
    root, ids = new_world(tmp_path, 20)
    label_all(root)
    path = root / "index" / "shard-000003.parquet"
    path.rename(tmp_path / "index")
    assert {(f.modality, f.shard, f.kind) for f in find(root)} == {("index", 3, "index")}
    ds, config = Dataset.open(str(root)), fake_config(root)
    assert len(run_repair(ds, config, find(root)).left) == 1
    (tmp_path / "index").rename(path)
    assert find(root) == []
    assert_world(root, ids, config)
