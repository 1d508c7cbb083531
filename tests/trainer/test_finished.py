"""A finished model is not lost to a slip: other settings need another name, or a word that it is to be made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tests.trainer.corpus import TINY, write_world
from tests.trainer.test_train import SIZES_OF, Stopped, config, digests, steps_seen, stop_at
from trainer.model import SIZES
from trainer.train import train


@pytest.fixture
def ds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setitem(SIZES, "micro", TINY)
    return write_world(tmp_path, SIZES_OF)


def test_a_finished_model_of_other_settings_is_not_replaced(ds: Dataset) -> None:
    folder = Path(train(ds, config()).path)
    had = digests(folder)
    for other in ({"steps": 6}, {"lr": 3e-3}):
        with pytest.raises(
            ConfigError, match=f"was trained with another train.{next(iter(other))}; give another train.name"
        ):
            train(ds, config(**other))
    assert digests(folder) == had
    assert train(ds, config(save_every=5)).already, "that changes nothing"
    assert train(ds, config(steps=6), again=True).steps == 6


def test_what_takes_the_place_of_a_finished_model_is_gone_on_with(ds: Dataset) -> None:
    train(ds, config())
    with pytest.raises(Stopped):
        train(ds, config(lr=3e-3), stop_at(5), again=True)
    assert steps_seen(ds, config(lr=3e-3)) == [4, 5, 6, 7, 8]
    assert train(ds, config(lr=3e-3)).already
