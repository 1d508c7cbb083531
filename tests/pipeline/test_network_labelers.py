"""Network labelers in a data set: folders of weights by digest, a graph of them, and a second run that does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelers.core.modality import Null
from labelers.core.registry import all_labelers, all_modalities
from labelers.core.weights import digest
from pipeline.config import Config, LabelerConfig
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from tests.labelers import tiny, tiny_more
from tests.world import fake_photos

MADE = ("depth", "normal", "det", "keypoints", "clip_global")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("MANYMODAL_CACHE", str(tmp_path / "cache"))
    nets = {
        "depth_anything": tiny.depth_anything(tmp_path / "depth"), "rt_detr": tiny.rt_detr(tmp_path / "det"),
        "vitpose": tiny_more.vitpose(tmp_path / "pose"), "clip": tiny_more.clip(tmp_path / "clip"),
    }  # fmt: skip
    labelers = {name: LabelerConfig(enabled=False) for name in all_labelers()}
    for name, folder in nets.items():
        labelers[name] = LabelerConfig(enabled=True, weights={"model": f"file:{folder}"})
    labelers["rt_detr"].params = {"score": 0.0, "most": 5}
    labelers["vitpose"].params = {"score": 0.0}
    labelers["normal_from_depth"] = LabelerConfig(enabled=True)
    return Config(root=str(tmp_path / "data"), shard_size=2, executor="local", labelers=labelers)


def test_a_graph_of_networks(config: Config, tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    ds = Dataset.create(config.root, "n", 2)
    ingest(ds, [str(fake_photos(tmp_path / "photos", 3))])
    report = label(ds, config)
    assert (report.failed, report.done) == (0, 10)
    known = all_modalities()
    for name in MADE:
        for k in ds.shards():
            for found in ds.labels(known[name], k):
                assert not isinstance(found, Null)
                known[name].check(found)
    depth, normal = (ds.recipe(ds.current(name)) for name in ("depth", "normal"))
    assert depth["weights"]["model"]["sha256"] == digest(tmp_path / "depth")
    assert depth["backend"].endswith("; other weights")
    assert normal["reads"]["depth"] == ds.current("depth")
    assert ds.manifest().modalities.keys() >= {*MADE, "clip"}  # clip has a recipe, and is computed on views
    assert label(ds, config).todo == 0


def test_the_page_has_a_place_for_every_modality() -> None:
    from trainer.showcase import in_order

    assert set(in_order(all_modalities())) == set(all_modalities())


def test_the_data_set_keeps_whole_folders(config: Config, tmp_path: Path) -> None:
    ds = Dataset.create(config.root, "n", 2)
    ingest(ds, [str(fake_photos(tmp_path / "photos", 1))])
    label(ds, config, only=["depth"])
    path = Dataset.open(config.root).weights_path(digest(tmp_path / "depth"))
    assert {"config.json", "model.safetensors"} <= {file.name for file in path.iterdir()}
