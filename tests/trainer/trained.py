"""A small data set that went all the way: labelled, tokenized, and a tiny model trained on it for a few steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.dataset import Dataset
from tests.tokenize_shards.small import build, fit_small, small_config, small_table
from tests.trainer.corpus import TINY
from tokenize_shards.tokenize import tokenize
from trainer.model import SIZES
from trainer.train import TrainConfig, train


@contextmanager
def trained_world() -> Iterator[None]:
    """The small token table, and "micro" as small as models of tests are, as long as it lasts."""
    with small_table(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "micro", TINY)
        yield


def config_of(root: Path) -> Config:
    return small_config(root, views=2)


def build_trained(folder: Path, steps: int = 12) -> Path:
    """The root of the small data set with tokens of two views and a checkpoint "model"."""
    with trained_world():
        root = build(folder)
        fit_small(root)
        ds = Dataset.open(str(root))
        report = tokenize(ds, config_of(root))
        assert not report.failed, report.errors
        train(ds, TrainConfig(steps=steps, batch=4, holdout=0.25, n_in=24, n_out=24))
    return root
