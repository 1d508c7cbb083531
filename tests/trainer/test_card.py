"""The card beside every checkpoint names its modalities, what made their labels, licences and held-out losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from labelers.core.labeler import Licence
from labelers.core.registry import all_labelers
from pipeline.dataset import Dataset
from tests.tokenize_shards.small import SmallNet, build, fit_small, small_config, small_table
from tokenize_shards.tokenize import tokenize
from trainer.card import CARD
from trainer.train import TrainConfig, model_folder, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    with small_table():
        root = build(tmp_path_factory.mktemp("card"))
        fit_small(root)
        ds = Dataset.open(str(root))
        tokenize(ds, small_config(root))
        train(ds, TrainConfig(name="m", size="micro", steps=1, batch=2, n_in=16, n_out=16, holdout=0.25))
    return ds


def test_every_checkpoint_has_a_card(trained: Dataset) -> None:
    text = (model_folder(trained, "m") / CARD).read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert (
        head["library_name"] == "manymodal" and head["pipeline_tag"] == "any-to-any" and head["datasets"] == ["small"]
    )
    for name, maker in (
        ("tok_canny_edge", "OpenCV"),
        ("tok_small_map", "means of pixels"),
        ("tok_caption", "side-car"),
    ):
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} | "))
        assert maker in row and f"`{trained.current(name)}`" in row
    assert "(9 images)" in text and "## Loss on new photos" in text and "Not for commercial use" not in text


def test_weights_that_forbid_commercial_use_are_said(trained: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.card import model_card
    from trainer.checkpoint import read_record

    monkeypatch.setitem(all_labelers(), "small_net", SmallNet)
    monkeypatch.setattr(SmallNet, "licence", Licence("MIT", "CC-BY-NC-4.0", commercial=False))
    text = model_card(trained, read_record(Path(model_folder(trained, "m"))))
    assert "**Not for commercial use**: it learned from tok_small_global, tok_small_map, tok_small_vector" in text
