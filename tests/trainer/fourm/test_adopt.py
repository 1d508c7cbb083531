"""A published model as a checkpoint of a data set: predicted with by the same code as one trained here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from labelers.core.weights import resolve
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from tests.trainer.fourm.test_load import tiny
from trainer import checkpoint
from trainer.fourm.adopt import adopt_model
from trainer.fourm.model import FourM
from trainer.predict import Predictor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _, config, tensors = tiny()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "hub" / "model.safetensors")
    return tmp_path / "hub"


def test_adopted_it_predicts(folder: Path, tmp_path: Path) -> None:
    ds = Dataset.create(str(tmp_path / "ds"), "d", 4)
    record = adopt_model(ds, resolve(f"file:{folder}"), "published")
    model, again = checkpoint.load_model(tmp_path / "ds" / "_models" / "published")
    assert isinstance(model, FourM) and again["weights"] == record["weights"]
    assert [s.name for s in model.streams] == ["tok_rgb_pixels@32", "tok_caption", "tok_depth@32", "tok_t5_caption"]
    predictor = Predictor(model, again)
    caption = [np.array([250, 251], np.uint16), None]
    depth = predictor.predict({"tok_caption": caption}, "tok_depth@32")
    assert np.asarray(depth).shape == (2, 4)
    text = predictor.predict({"tok_depth@32": np.asarray(depth)}, "tok_caption")
    assert len(text) == 2
    vectors = [np.ones((3, 32), np.float16), None]  # as a data set's shards of tok_t5_caption have them
    read = predictor.probabilities({"tok_t5_caption": vectors}, "tok_depth@32")
    assert not np.allclose(read[0], read[1]), "they are read"


def test_what_is_no_model_or_was_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    ds = Dataset.create(str(tmp_path / "ds"), "d", 4)
    with pytest.raises(ConfigError, match="no 4M model"):
        adopt_model(ds, resolve(f"file:{tmp_path / 'ds'}"), "published")
    adopt_model(ds, resolve(f"file:{folder}"), "published")
    path = tmp_path / "ds" / "_models" / "published" / checkpoint.MODEL
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(DamageError, match="is not the file that was saved"):
        checkpoint.load_model(path.parent)
