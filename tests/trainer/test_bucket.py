"""Training from a bucket: shards come when they are needed, and another machine goes on where the first was stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.storage import open_storage
from tests.trainer.corpus import CAPTION, RGB, TINY, number_and_view, write_world
from tokenize_shards.wordpiece import WordPiece, base_pieces
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.corpus import LazyShards
from trainer.loader import Loader
from trainer.model import SIZES
from trainer.open_corpus import open_corpus
from trainer.streams import Stream
from trainer.text_corpus import text_corpus
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


def test_a_run_that_was_given_up_is_not_gone_on_with_where_a_copy_is_left(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "micro", TINY)
    settings = TrainConfig(steps=7, batch=4, n_in=12, n_out=12, save_every=2, tensorboard=False)
    write_world(f"{s3}/tiny", SIZES_OF, 1, (RGB, CAPTION))  # type: ignore[arg-type]

    def steps(machine: str, until: int, save_every: int = 2, again: bool = False) -> int:
        """The first step of a run on a machine that is lost after another."""
        monkeypatch.setenv("MANYMODAL_CACHE", str(tmp_path / machine))
        seen: list[int] = []

        def progress(name: str, done: int, total: int, note: str) -> None:
            seen.extend([done] if name == "train" else [])
            if done == until and name == "train":
                raise Stopped

        with pytest.raises(Stopped):
            train(
                Dataset.open(f"{s3}/tiny"),
                settings.model_copy(update={"save_every": save_every}),
                progress,
                again=again,
            )
        return seen[0]

    assert [steps("a", 3), steps("b", 5), steps("a", 6)] == [1, 3, 5], "another machine had gone on"
    assert steps("b", 2, save_every=6, again=True) == 1
    assert steps("a", 2) == 1


def test_texts_of_a_bucket_are_those_of_a_folder(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYMODAL_CACHE", str(tmp_path / "cache"))
    words, storage = WordPiece(base_pieces()), open_storage(f"{s3}/texts")
    for name, lines in (("a.txt", ["a red car", "two dogs"]), ("b.txt", ["a road"]), ("c.csv", ["not a text"])):
        storage.put(name, "\n".join(lines).encode())
    stream = Stream("tok_caption", "sequence", words.vocab, 8)
    for path, count in ((f"{s3}/texts/*.txt", 3), (f"{s3}/texts", 3), (f"{s3}/texts/b.txt", 1)):
        corpus = text_corpus(path, words, stream)
        assert sum(corpus.sizes) == count
        tokens = corpus.gather(np.array([0]), np.array([0]), np.array([0]))["tok_caption"]
        assert words.decode(tokens.ids[0, : tokens.length[0]].tolist()) == ("a red car" if count > 1 else "a road")
    corpus = text_corpus(f"{s3}/texts/b.txt", words, stream)
    shutil.rmtree(tmp_path / "cache")  # it had to make room
    assert corpus.gather(np.array([0]), np.array([0]), np.array([0]))["tok_caption"].valid.all()
    with pytest.raises(ConfigError, match=r"names no \.parquet or \.txt file"):
        text_corpus(f"{s3}/texts/*.parquet", words, stream)
