"""Views for fits that do not fit into memory: every photo once a pass, new crops each time, held-out ones never."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset import Dataset
from pipeline.label import label
from tests.tokenize_shards.small import small_config
from tokenize_shards.fit import fit_all, fit_report
from tokenize_shards.gather import Gatherer
from tokenize_shards.source import InMemory, Streamed
from tokenize_shards.table import specs


def gatherer(root: Path, buffer: int | None = 4) -> Gatherer:
    return Gatherer(Dataset.open(str(root)), small_config(root, fit_buffer=buffer))


def test_a_data_set_larger_than_the_buffer_is_streamed(labelled: Path) -> None:
    spec = specs()["tok_rgb"]
    large = gatherer(labelled).gather([spec])["tok_rgb"]
    source = large.source()
    assert isinstance(source, Streamed) and 0 < len(source) <= 4 and large.read is not None
    small = gatherer(labelled, None).gather([spec])["tok_rgb"]
    assert isinstance(small.source(), InMemory)
    views = [large.read(block) for block in range(6)]  # three shards, one a block: two passes
    assert sum(map(len, views[:3])) == sum(map(len, views[3:])) == 7, "nine photos, two held out"
    assert all(v.shape[1:] == (32, 32, 3) for v in views)
    flat = [view.tobytes() for part in views for view in part]
    assert len(set(flat)) == 14, "the second pass has other crops"
    held = {view.tobytes() for view in gatherer(labelled, None).gather([spec])["tok_rgb"].heldout}
    assert held and not held & set(flat)
    assert np.array_equal(views[4], large.read(4)), "a block is the same whenever it is read"


def test_labels_that_are_replaced_meanwhile_do_not_enter_a_stream(labelled: Path) -> None:
    data = gatherer(labelled).gather([specs()["tok_canny_edge"]])["tok_canny_edge"]
    assert data.read is not None
    before = data.read(0)
    config = small_config(labelled)
    config.labelers["canny_edge"].params = {"low": 150.0, "high": 250.0}
    label(Dataset.open(str(labelled)), config)
    np.testing.assert_array_equal(data.read(0), before)


def test_sequences_and_networks_without_a_gpu_are_not_streamed(labelled: Path) -> None:
    table = specs()
    found = gatherer(labelled).gather([table["tok_small_map"], table["tok_small_global"]])
    assert all(data.read is None for data in found.values())
    assert gatherer(labelled).gather([table["tok_caption"]])["tok_caption"].read is None
    assert gatherer(labelled).gather([table["tok_small_vector"]])["tok_small_vector"].read is not None


def test_a_network_on_the_view_is_streamed_where_there_is_a_gpu(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenize_shards.gather._has_gpu", lambda: True)
    data = gatherer(labelled).gather([specs()["tok_small_map"]])["tok_small_map"]
    assert data.read is not None
    blocks = [data.read(block) for block in range(3)]
    assert sum(map(len, blocks)) == 6, "one of the seven is too dark for the network"


def test_a_streamed_fit_names_its_tokenizer_and_has_a_page(labelled: Path) -> None:
    ds = Dataset.open(str(labelled))
    config = small_config(labelled, fit_buffer=4, fit_steps=6)
    fit_all(ds, config, ["tok_rgb", "tok_small_vector"], False, lambda *_: None)
    for name, figure in (("tok_rgb", "psnr_db"), ("tok_small_vector", "cosine")):
        report = fit_report(ds, name)
        assert report is not None and report["steps"] == 6 and set(report["metrics"]) == {figure}
        page = ds.storage.read_bytes(f"_fits/{report['sha256']}.html").decode()
        assert "decoded back" in page and "data:image" in page and "<script" not in page
    assert not ds.storage.list("_fits/_unfinished")


def test_views_for_several_resolutions_are_cut_at_the_largest(labelled: Path) -> None:
    spec = dataclasses.replace(specs()["tok_rgb"], params={"resolutions": [64]})
    data = gatherer(labelled, None).gather([spec])["tok_rgb"]
    assert data.source().sample(1).shape == (1, 64, 64, 3) and data.heldout_array().shape[1:] == (32, 32, 3)
