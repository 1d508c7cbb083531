"""Sizing: the scarcer resource decides, nothing ends before the longest shard, requests are those a shard really takes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from labelers.core.registry import get_labeler
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from pipeline.label_shard import label_shard
from pipeline.recipes import desired
from pipeline.sizing import PART, USE, Cluster, Load, requests, size
from pipeline.storage import LocalStorage
from tests.world import fake_config, fake_photos

CPU_STEP = Load("canny", 100, 36_000.0, 1.0, 0.0, 1, 1, 100 << 20, 10 << 20)
GPU_STEP = Load("depth", 100, 36_000.0, 1.0, 0.5, 1, 1, 100 << 20, 10 << 20)


def test_the_scarcer_resource_decides() -> None:
    found = size([CPU_STEP, GPU_STEP], Cluster(2, 5, 1), price=3.0)
    assert (found.cpu_hours, found.gpu_hours) == (20.0, 5.0)
    assert found.hours == pytest.approx(max(20 / 10, 5 / 2) / USE)
    assert found.cost == pytest.approx((found.hours or 0) * 2 * 3.0)
    many = size([CPU_STEP, GPU_STEP], Cluster(1000, 8, 8))
    assert many.hours == pytest.approx(360 / 3600 / USE), "no more workers than shards help"


def test_no_gpu_means_no_promise() -> None:
    assert size([GPU_STEP], Cluster(2, 8)).hours is None
    unknown = Load("x", 1, None, 1, 0, 1, 1, 0, 0)
    assert size([CPU_STEP, unknown], Cluster(1, 8)).unknown == ("x",)


def test_large_files_take_requests_by_part() -> None:
    small, large = (Load("a", 10, 1.0, 1, 0, 1, 1, 0, 10 * size) for size in (PART, 3 * PART))
    assert requests(small)[1] == 10 * 2
    assert requests(large)[1] == 10 * (3 + 2 + 1)
    assert size([], Cluster(1, 1)).gets == 0


def test_requests_are_those_a_worker_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = Dataset.create(str(tmp_path / "ds"), "w", 5)
    ingest(ds, [str(fake_photos(tmp_path / "photos", 5))])
    config = fake_config(tmp_path / "ds")
    (target, _), (reader, _) = desired(config, [])[0]
    ds.index(0)
    counts: Counter[str] = Counter()
    for name in ("read_bytes", "size", "local", "put_if_absent", "publish", "list", "exists"):
        original = getattr(LocalStorage, name)

        def counted(self: Any, *args: Any, _name: str = name, _call: Any = original) -> Any:
            counts[_name] += 1
            return _call(self, *args)

        monkeypatch.setattr(LocalStorage, name, counted)
    label_shard(ds, get_labeler("fake_base")(), target, 0)
    gets, puts, _ = requests(Load("fake_base", 1, 1.0, 1, 0, 1, 2, 1000, 1000))
    # Locally a commit is a file that is published; on an object store it is one PUT.
    assert counts["put_if_absent"] == 2
    assert counts["publish"] - counts["put_if_absent"] == 2
    assert puts == 4
    assert counts["read_bytes"] + counts["size"] + counts["local"] == gets
    assert counts["list"] == 1, "of the marks of samples that killed workers"
    monkeypatch.undo()
    assert label(ds, config).failed == 0
    assert reader.labeler == "fake_sum"
