"""Sizing: the scarcer resource decides, nothing ends before the longest shard, requests are those a shard really takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from labelers.core.registry import all_labelers
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.sizing import PART, USE, Cluster, Load, requests, size
from pipeline.storage import open_storage
from pipeline.survey import PACK_AT
from tests.pipeline.conftest import Command
from tests.world import fake_photos

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
    assert requests(small)[1] == 10 * 2 + 2, "each shard's data and commit, the recipe and a pack"
    assert requests(large)[1] == 10 * (3 + 2 + 1) + 2
    assert size([], Cluster(1, 1)).gets == 0


KINDS = (("GetObject", "HeadObject"), ("PutObject",), ("ListObjectsV2",))
WITH = ("canny_edge", "caption", "color_palette", "metadata")  # the last one reads what the others made


def test_requests_are_those_of_a_run(tmp_path: Path, moto_bucket: str, command: Command) -> None:
    """Counted on a store, each process with a cache of its own; and what `plan` says before it."""
    root, shards = f"{moto_bucket}/ds", PACK_AT
    switches = {name: {"enabled": name in WITH} for name in all_labelers()}
    settings = yaml.safe_dump({"shard_size": 1, "executor": "local", "labelers": switches})
    open_storage(root).put("manymodal.yaml", settings.encode())
    ds = Dataset.create(root, "w", 1)
    assert ingest(ds, [str(fake_photos(tmp_path / "photos", shards))]).shards == shards
    client = ds.storage.client  # type: ignore[attr-defined]
    first = ["--only", "canny_edge", "--only", "caption", "--only", "color_palette"]
    for words in (first, []):
        said = command("plan", root, *words, "--nodes", "4", "--gpus-per-node", "0", "--json")
        planned = json.loads(said.out)["cluster"]
        shutil.rmtree(tmp_path / "cache")  # as on another node
        client.counts.clear()
        assert command("label", root, *words).code == 0
        counted = [sum(client.counts[kind] for kind in kinds) for kinds in KINDS]
        said_so = [planned["gets"], planned["puts"], planned["lists"]]
        for what, is_, was in zip(("GET and HEAD", "PUT", "LIST"), counted, said_so, strict=True):
            assert was == pytest.approx(is_, rel=0.1), f"{words}, {what}: planned {was}, took {is_}"
