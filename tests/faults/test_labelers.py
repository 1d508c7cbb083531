"""F15, F19, F20, F24: labelers that misbehave, and settings that change between runs, on a whole data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from pipeline.config import Limits
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, Incomplete
from pipeline.label import label
from tests.faults.world import label_all, new_world
from tests.world import FakeBase, all_modalities_with_fakes, assert_world, expected, fake_config, snapshot

Rows = list[dict[str, Label | Null]]


def raises(rows: Rows, place: int) -> Rows:
    raise RuntimeError("broken")


def hangs(rows: Rows, place: int) -> Rows:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass
    return rows


def put(value: Any) -> Callable[[Rows, int], Rows]:
    def spoil(rows: Rows, place: int) -> Rows:
        rows[place] = {**rows[place], "fake_vector": value}
        return rows

    return spoil


FAULTS: dict[str, tuple[Callable[[Rows, int], Rows], str]] = {
    "raises": (raises, "broken"),
    "hangs": (hangs, "took longer"),
    "wrong shape": (put(np.zeros(3, np.float32)), "expected shape"),
    "NaN": (put(np.full(8, np.nan, np.float32)), "not finite"),
    "wrong type": (put("text"), "float32"),
    "wrong count": (lambda rows, place: rows[:-1], "results for"),
}


def spoil_at(patch: pytest.MonkeyPatch, victim: str, spoil: Callable[[Rows, int], Rows]) -> None:
    """The fake labeler goes wrong on every batch that holds the victim."""
    original = FakeBase.label

    def label_badly(self: FakeBase, samples: Sequence[Sample]) -> Rows:
        rows = original(self, samples)
        place = next((i for i, s in enumerate(samples) if s.id == victim), None)
        return rows if place is None else spoil(rows, place)

    patch.setattr(FakeBase, "label", label_badly)


def nulls_of(ds: Dataset, name: str) -> dict[str, str]:
    return {i: r for c in ds.commits(name, ds.current(name)).values() for i, r in c.nulls.items()}


@pytest.mark.parametrize("fault", FAULTS)
def test_f15_costs_the_sample_at_fault_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    spoil, said = FAULTS[fault]
    root, ids = new_world(tmp_path, 10)
    victim = next(i for i in ids if int(i[:4], 16) % 7)
    spoil_at(monkeypatch, victim, spoil)
    config = fake_config(root).model_copy(update={"limits": Limits(batch_seconds=0.3)})
    assert label(Dataset.open(str(root)), config).failed == 0
    ds = Dataset.open(str(root))
    assert said in nulls_of(ds, "fake_vector")[victim]
    for k in ds.shards():
        found = ds.labels(all_modalities_with_fakes()["fake_vector"], k)
        for sample, value in zip(ds.ids(k), found, strict=True):
            wanted = expected("fake_vector", sample)
            assert sample == victim or isinstance(wanted, Null) or np.array_equal(value, wanted)
    before = snapshot(root)
    assert label(ds, config).todo == 0 and snapshot(root) == before


def test_f15_out_of_memory_makes_batches_smaller_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ids = new_world(tmp_path, 20)
    original, sizes = FakeBase.label, list[int]()

    def greedy(self: FakeBase, samples: Sequence[Sample]) -> Rows:
        sizes.append(len(samples))
        if len(samples) > 2:
            raise MemoryError("no more")
        return original(self, samples)

    monkeypatch.setattr(FakeBase, "label", greedy)
    label_all(root)
    assert max(sizes) > 2 and min(sizes) <= 2
    assert_world(root, ids, fake_config(root))


def test_f15_wrong_on_everything_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, ids = new_world(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(FakeBase, "label", lambda self, samples: raises([], 0))
        report = label(Dataset.open(str(root)), fake_config(root))
    assert report.failed == report.todo and report.done == 0
    assert not list(root.glob("fake_*/_commits/*")) and not list(root.glob("fake_*/shard-*"))
    label_all(root)
    assert_world(root, ids, fake_config(root))


def test_f19_a_setting_that_changed_is_a_new_recipe_never_mixed(tmp_path: Path) -> None:
    root, ids = new_world(tmp_path, 15)
    label_all(root, "a")
    old = {p: v for p, v in snapshot(root).items() if "@" in p}
    label_all(root, "b")
    after = snapshot(root)
    assert {p: after[p] for p in old} == old, "the old recipe keeps bytes and times"
    assert_world(root, ids, fake_config(root, "b"), "b")
    recipes = {p.name for p in root.glob("fake_vector@*")}
    assert len(recipes) == 2
    label_all(root, "a")  # back again: nothing to label, the manifest goes back
    assert_world(root, ids, fake_config(root, "a"), "a")


def test_f20_another_shard_size_on_resume_is_refused(tmp_path: Path) -> None:
    root, _ = new_world(tmp_path, 10)
    before = snapshot(root)
    with pytest.raises(ConfigError, match=r"created with shard_size 5, not 6; .* keeps its shard size"):
        Dataset.create(str(root), "w", 6)
    assert snapshot(root) == before


def test_f24_a_retry_never_continues_an_input_that_was_read_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt that follows a failure in the middle of a shard reads the shard anew: as many rows as samples."""
    root, ids = new_world(tmp_path, 10)
    original, seen = FakeBase.label, list[str]()

    def fails_once_half_way(self: FakeBase, samples: Sequence[Sample]) -> Rows:
        seen.extend(s.id for s in samples)
        if len(seen) == 5:
            raise Incomplete("the machine had enough")
        return original(self, samples)

    monkeypatch.setattr(FakeBase, "label", fails_once_half_way)
    assert label(Dataset.open(str(root)), fake_config(root)).failed
    label_all(root)
    ds = Dataset.open(str(root))
    for k in ds.shards():
        commit = ds.commit_of("fake_vector", ds.current("fake_vector"), k)
        labels = ds.labels(all_modalities_with_fakes()["fake_vector"], k)
        assert commit is not None
        assert len(ds.ids(k)) == commit.count == sum(not isinstance(v, Null) for v in labels) + len(commit.nulls)
    assert_world(root, ids, fake_config(root))
