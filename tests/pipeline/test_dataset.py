"""A data set on storage: fixed settings, manifests that switch atomically, readers that trust commits and digests only."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.commits import commit_key, data_key
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from tests.world import FAKE_VECTOR, assert_world, fake_config, fake_photos


@pytest.fixture
def world(tmp_path: Path) -> Dataset:
    """Twelve labelled photos in three shards."""
    root = tmp_path / "ds"
    ds = Dataset.create(str(root), "w", 5)
    ingest(ds, [str(fake_photos(tmp_path / "photos", 12))])
    label(ds, fake_config(root))
    return ds


def test_whole_world(world: Dataset) -> None:
    ids = [i for k in world.shards() for i in world.ids(k)]
    assert len(ids) == 12
    assert_world(Path(world.storage.url), ids, fake_config(Path(world.storage.url)))


def test_settings_are_fixed_when_created(tmp_path: Path) -> None:
    Dataset.create(str(tmp_path), "a", 5)
    before = (tmp_path / "dataset.json").read_bytes()
    Dataset.create(str(tmp_path), "renamed", 5)
    with pytest.raises(ConfigError, match="shard_size 5, not 6"):
        Dataset.create(str(tmp_path), "a", 6)
    assert (tmp_path / "dataset.json").read_bytes() == before


def test_opening_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data set there"):
        Dataset.open(str(tmp_path))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DamageError, match="not JSON"):
        Dataset.open(str(tmp_path))
    (tmp_path / "dataset.json").write_text(json.dumps({"format": 99, "name": "x", "shard_size": 1}))
    with pytest.raises(ConfigError, match="format 99"):
        Dataset.open(str(tmp_path))


def test_manifest_switches_are_never_lost(tmp_path: Path) -> None:
    ds = Dataset.create(str(tmp_path), "a", 5)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: ds.update_manifest({f"m{i}": f"{i:08x}"}), range(8)))
    now = ds.manifest()
    assert now.modalities == {f"m{i}": f"{i:08x}" for i in range(8)}
    assert now.version == 8
    assert ds.update_manifest({"m0": "00000000"}) == now, "switching to what is current writes nothing"
    ds.update_manifest({"m0": "ffffffff"})
    assert ds.manifest(now.version) == now, "an old manifest stays what it was"


@pytest.mark.parametrize("damage", ["removed", "cut", "flipped"])
def test_readers_refuse_what_is_not_as_committed(world: Dataset, damage: str) -> None:
    recipe = world.current("fake_vector")
    commit = world.commits("fake_vector", recipe)[1]
    path = world.storage.local(data_key(commit))
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage != "removed":
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-1] if damage == "cut" else data)
    fresh = Dataset.open(world.storage.url)
    with pytest.raises(DamageError, match=r"missing|sha256"):
        fresh.labels(FAKE_VECTOR, 1)
    assert (1 in fresh.commits("fake_vector", recipe)) == (damage == "flipped"), "length tells two of three at once"


@pytest.mark.parametrize("what", ["data", "commit"])
def test_what_is_gone_is_made_again_and_nothing_else(world: Dataset, what: str) -> None:
    root = Path(world.storage.url)
    commit = world.commits("fake_map", world.current("fake_map"))[0]
    key = data_key(commit) if what == "data" else commit_key("fake_map", commit.recipe, 0)
    before = (root / data_key(commit)).read_bytes()
    (root / key).unlink()
    report = label(Dataset.open(str(root)), fake_config(root))
    assert report.failed == 0
    assert {name: row["done"] for name, row in report.steps.items()} == {"fake_base": 1, "fake_sum": 1}
    assert (root / data_key(commit)).read_bytes() == before
    assert_world(root, [i for k in world.shards() for i in world.ids(k)], fake_config(root))


def test_a_gap_in_the_index_is_damage(world: Dataset) -> None:
    (Path(world.storage.url) / world.index_key(1)).unlink()
    with pytest.raises(DamageError, match="shard 1 is missing"):
        Dataset.open(world.storage.url).shards()
