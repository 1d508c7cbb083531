"""Tokens that came without their tokenizers: they are trained on, and what needs a tokenizer says so or leaves it out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli.judge import run_evaluate
from pipeline.cli.learn import run_train
from pipeline.cli.pages import run_gallery
from pipeline.cli.use import run_generate
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tests.trainer.trained import config_of
from tokenize_shards.fourm.layout import export
from tokenize_shards.fourm.read import read_layout


def test_an_imported_data_set_trains_and_is_shown(trained: Path, tmp_path: Path) -> None:
    export(Dataset.open(str(trained)), str(tmp_path / "out"))
    config = config_of(tmp_path / "imported")
    ds = Dataset.create(config.root, "imported", 4)
    read_layout(ds, str(tmp_path / "out"))
    config.train = {"steps": 3, "batch": 4, "n_in": 24, "n_out": 24}
    assert run_train(config, quiet=True)["steps"] == 3
    assert Path(run_gallery(config, rows=4)).stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"were imported without their tokenizer.*manymodal adopt"):
        run_generate(config, ["rgb"], ["canny_edge"], {}, {}, [], rows=2, quiet=True)
    report = run_evaluate(config, ["rgb"], [], rows=0, everything=True, quiet=True)
    assert report["samples"] == sum(len(ds.ids(k)) for k in ds.shards())
    with pytest.raises(ConfigError, match="were imported without their tokenizer"):
        run_evaluate(config, ["rgb"], ["canny_edge"], rows=1, everything=True, quiet=True)
