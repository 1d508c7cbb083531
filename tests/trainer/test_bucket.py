"""Training from a bucket: shards come when they are needed, and another machine goes on where the first was stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset import Dataset
from tests.trainer.corpus import CAPTION, RGB, TINY, number_and_view, write_world
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.corpus import LazyShards
from trainer.loader import Loader
from trainer.model import SIZES
from trainer.open_corpus import open_corpus
from trainer.train import Home, model_folder, train

SIZES_OF = (6, 5)


class Stopped(Exception):
    """A machine that is lost."""


def stop(name: str, done: int, total: int, note: str) -> None:
    if name == "train" and done == 5:
        raise Stopped


def test_a_run_on_a_bucket_is_the_run_on_a_folder(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "micro", TINY)
    monkeypatch.setenv("MANYMODAL_CACHE", str(tmp_path / "cache"))
    near = write_world(tmp_path / "near", SIZES_OF, 1, (RGB, CAPTION))
    write_world(f"{s3}/tiny", SIZES_OF, 1, (RGB, CAPTION))  # type: ignore[arg-type]
    far = Dataset.open(f"{s3}/tiny")
    corpus = open_corpus(far, 0.0)
    assert isinstance(corpus.shards, LazyShards) and len(corpus.shards.cache) == 1, "only the first was looked at"
    seen = [number_and_view(Loader(open_corpus(ds, 0.0), 11, 2).next()["tok_rgb"].ids) for ds in (near, far)]
    assert seen[0] == seen[1] and sorted(n for n, _ in seen[0]) == list(np.arange(11))

    settings = TrainConfig(steps=7, batch=4, n_in=12, n_out=12, save_every=2, tensorboard=False)
    wanted = train(near, settings)
    with pytest.raises(Stopped):
        train(far, settings, stop)
    assert [path.name for path in checkpoint.steps(Home(far, "model").path)] == ["step-00000002", "step-00000004"]
    shutil.rmtree(tmp_path / "cache")  # another machine
    far = Dataset.open(f"{s3}/tiny")
    steps: list[int] = []
    got = train(far, settings, lambda name, done, total, note: steps.append(done) if name == "train" else None)
    assert steps == [5, 6, 7] and got.curve == wanted.curve
    one, two = (checkpoint.load_model(model_folder(ds, "model"))[0].state_dict() for ds in (near, far))
    assert all(bool((value == two[name]).all()) for name, value in one.items())
