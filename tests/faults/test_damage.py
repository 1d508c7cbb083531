"""F5, F6, F7, F12, F13, F18, F22: writers that raise, races, lying answers, full disks, and bytes that changed."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipeline.label_shard
from pipeline.care.content import ContentChecks
from pipeline.care.finding import Finding
from pipeline.care.garbage import collect
from pipeline.care.verify import verify
from pipeline.cli.care import reader_of
from pipeline.commits import commit_key, data_key
from pipeline.dataset import Dataset
from pipeline.errors import StorageError
from pipeline.label import label
from pipeline.label_shard import MakeLabelWorker
from pipeline.recipes import desired
from pipeline.records import file_sha256
from pipeline.shards import read_labels, write_labels, write_stored
from pipeline.storage import LocalStorage
from tests.faults.world import label_all, new_world, run_repair
from tests.world import all_modalities_with_fakes, assert_world, fake_config, snapshot


def test_f5_an_exception_inside_a_writer_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, ids = new_world(tmp_path, 10)

    def half(path: Path, **more: Any) -> None:
        write_stored(path, more["modality"], more["ids"][:3], more["values"][:3], more["inputs"])
        raise RuntimeError("writer died after three samples")

    monkeypatch.setattr(pipeline.label_shard, "write_stored", half)
    report = label(Dataset.open(str(root)), fake_config(root))
    assert report.failed == report.todo
    assert not list(root.glob("*@*/shard-*")), "nothing is visible"
    assert not (root / "_tmp").exists()
    monkeypatch.undo()
    label_all(root)
    assert_world(root, ids, fake_config(root))


@pytest.mark.parametrize("racers", [2, 8])
def test_f6_attempts_of_one_shard_at_once(tmp_path: Path, racers: int) -> None:
    root, ids = new_world(tmp_path, 10)
    config = fake_config(root)
    ds = Dataset.open(str(root))
    (target, recipes), *_ = desired(config, ["fake_vector"])[0]
    for recipe in recipes:
        ds.put_recipe(recipe)
    workers = [MakeLabelWorker(str(root), target)() for _ in range(racers)]
    with ThreadPoolExecutor(racers) as pool:
        results = list(pool.map(lambda worker: worker(0, 1), workers))
    assert all(result == results[0] for result in results), "one commit, accepted by all"
    label_all(root)
    assert_world(root, ids, config)


def test_f7_a_commit_that_took_effect_though_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, ids = new_world(tmp_path, 10)
    put = LocalStorage.put_if_absent

    def unsure(self: LocalStorage, key: str, data: bytes) -> bool:
        done = put(self, key, data)
        if "fake_map" in key and "_commits" in key:
            raise StorageError("time-out")
        return done

    monkeypatch.setattr(LocalStorage, "put_if_absent", unsure)
    with pytest.raises(StorageError):
        label(Dataset.open(str(root)), fake_config(root))
    before = {p: p.stat().st_mtime_ns for p in root.glob("*@*/shard-*")}
    assert before
    monkeypatch.undo()
    label_all(root)
    assert {p: p.stat().st_mtime_ns for p in before} == before, "not deleted, not doubled"
    assert_world(root, ids, fake_config(root))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("after", [0, 3, 9])
def test_f12_disk_trouble_stops_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, after: int) -> None:
    root, ids = new_world(tmp_path, 10)
    link, left = os.link, [after]

    def failing(source: Any, target: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(code, os.strerror(code), str(target))
        link(source, target)

    monkeypatch.setattr(os, "link", failing)
    with pytest.raises(StorageError):
        label(Dataset.open(str(root)), fake_config(root))
    monkeypatch.undo()
    label_all(root)
    assert_world(root, ids, fake_config(root))


# -- F13: each damage, the kind `verify` must give it, and the shards it must name


def path_of(root: Path, name: str, k: int) -> Path:
    ds = Dataset.open(str(root))
    return root / data_key(ds.commits(name, ds.current(name))[k])


def commit_path(root: Path, name: str, k: int) -> Path:
    return root / commit_key(name, Dataset.open(str(root)).current(name), k)


def flip(root: Path) -> None:
    path = path_of(root, "fake_vector", 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(root: Path) -> None:
    path = path_of(root, "fake_map", 1)
    with tarfile.open(path) as tar:
        boundary = [member.offset for member in tar][3]
    path.write_bytes(path.read_bytes()[:boundary])


def swap(root: Path) -> None:
    one, two = path_of(root, "fake_map", 1), path_of(root, "fake_map", 2)
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)


def shift(root: Path) -> None:
    """Payloads move by one sample, under a commit that is true of the result: ids, count and digest all agree."""
    ds, modality = Dataset.open(str(root)), all_modalities_with_fakes()["fake_vector"]
    commit = ds.commits("fake_vector", ds.current("fake_vector"))[1]
    path = root / data_key(commit)
    rows = list(read_labels(path, modality))
    labels = [label for _, label in rows]
    write_labels(path, modality, [key for key, _ in rows], labels[1:] + labels[:1], commit.inputs)
    nulls = {
        i: "seventh"
        for i, row in zip([k for k, _ in rows], labels[1:] + labels[:1], strict=True)
        if hasattr(row, "reason")
    }
    lie = replace(commit, sha256=file_sha256(path), bytes=path.stat().st_size, nulls=nulls)
    commit_path(root, "fake_vector", 1).write_bytes(lie.to_json())


def uncommit(root: Path) -> None:
    commit_path(root, "fake_sum", 1).unlink()


def delete(root: Path) -> None:
    path_of(root, "fake_sum", 1).unlink()


def rename(root: Path) -> None:
    path = path_of(root, "fake_sum", 1)
    path.rename(path.with_name("shard-000009.parquet"))
    commit_path(root, "fake_sum", 1).rename(commit_path(root, "fake_sum", 9))


def spoil_record(root: Path) -> None:
    commit_path(root, "fake_map", 1).write_bytes(b"{")


def mistake_record(root: Path) -> None:
    commit_path(root, "fake_map", 1).write_bytes(commit_path(root, "fake_map", 2).read_bytes())


def uncommit_image(root: Path) -> None:
    commit_path(root, "rgb", 1).unlink()


def spoil_image_record(root: Path) -> None:
    commit_path(root, "rgb", 1).write_bytes(b"{")


def lose_a_modality(root: Path) -> None:
    shutil.rmtree(path_of(root, "fake_sum", 1).parent)


def lose_images(root: Path) -> None:
    shutil.rmtree(root / "rgb")


def spoil_image(root: Path) -> None:
    path = root / "rgb" / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


def find(root: Path) -> list[Finding]:
    return verify(Dataset.open(str(root)), reader_of, ContentChecks(relabel=3))


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (flip, {("fake_vector", 1, "digest")}),
        (cut, {("fake_map", 1, "length")}),
        (swap, {("fake_map", 1, "swapped"), ("fake_map", 2, "swapped")}),
        (shift, {("fake_vector", 1, "content"), ("fake_sum", 1, "inputs")}),
        (uncommit, {("fake_sum", 1, "uncommitted")}),
        (delete, {("fake_sum", 1, "missing")}),
        (rename, {("fake_sum", 1, "missing"), ("fake_sum", 1, "not made"), ("fake_sum", 9, "commit")}),
        (spoil_image, {("rgb", 1, "digest")}),
        (spoil_record, {("fake_map", 1, "commit")}),
        (mistake_record, {("fake_map", 1, "commit")}),
        (uncommit_image, {("rgb", 1, "uncommitted")}),
        (spoil_image_record, {("rgb", 1, "commit")}),
        (lose_a_modality, {("fake_sum", k, "not made") for k in range(4)}),
        (lose_images, {("rgb", k, "not made") for k in range(4)}),
    ],
)
def test_f13_verify_names_it_and_repair_restores_it(
    tmp_path: Path, damage: Callable[[Path], None], kinds: set[tuple[str, int, str]]
) -> None:
    root, ids = new_world(tmp_path, 20)
    label_all(root)
    config = fake_config(root)
    assert find(root) == []
    whole = {p.relative_to(root): file_sha256(p) for p in root.glob("*/shard-*")}
    damage(root)
    found = {(f.modality, f.shard, f.kind) for f in find(root)}
    assert found <= kinds
    assert {k for k in kinds if k[2] not in ("missing", "not made")} <= found
    assert {k[1] for k in kinds} == {k[1] for k in found}
    ds = Dataset.open(str(root))
    config = config.model_copy(update={"sources": [str(tmp_path / "photos")]})
    result = run_repair(ds, config, find(root))
    assert not [pair for pair in result.left if pair[0].shard != 9]
    assert {p.relative_to(root): file_sha256(p) for p in root.glob("*/shard-*")} == whole, "identical digests"
    assert find(root) == []
    assert_world(root, ids, config)


def test_f18_an_input_that_changed_under_its_name_makes_stale(tmp_path: Path) -> None:
    root, _ = new_world(tmp_path, 10)
    label_all(root)
    shift_target = Dataset.open(str(root))
    shift(root)
    del shift_target
    report = label(Dataset.open(str(root)), fake_config(root))
    assert {n: row["todo"] for n, row in report.steps.items()} == {"fake_base": 0, "fake_sum": 1}


def test_f22_clocks_ids_and_read_only_storage(tmp_path: Path) -> None:
    root, _ = new_world(tmp_path, 10)
    label_all(root)
    (root / "_tmp" / "x").mkdir(parents=True)
    stray = root / "_tmp" / "x" / "half"
    stray.write_bytes(b"")
    os.utime(stray, (4e9, 4e9))  # a clock that runs ahead: too young to be swept, and no error
    ds, before = Dataset.open(str(root)), snapshot(root)
    assert collect(ds, hours=1) == []
    assert snapshot(root) == before
    os.utime(stray, (1, 1))
    assert collect(ds, hours=1) == ["_tmp/x/half"]
    with pytest.raises(ValueError, match="leaves the data set"):
        ds.storage.put_if_absent("_removed/../../x.json", b"")
