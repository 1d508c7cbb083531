"""Vectors that a model is shown and never asked for, from their shards to a trained model. Tiny random networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from tests.trainer.corpus import (
    EDGES,
    PIXELS,
    RGB,
    SPECS,
    TINY,
    VECTOR_WIDTH,
    VECTORS,
    lacks,
    number_and_view,
    patches_of,
    tokens_of,
    vectors_of,
    write_world,
)
from tests.trainer.test_train import Stopped, stop_at
from trainer.config import ComponentConfig, TrainConfig, components
from trainer.evaluate import _passes, judge
from trainer.feed import tensors
from trainer.generate.decoding import Decoding
from trainer.loader import Blend, Corpus, Loader
from trainer.loss import forward_loss
from trainer.masking import Masked, Masker
from trainer.mixture import Component, all2all, biased, published
from trainer.model import SIZES
from trainer.open_corpus import open_corpus
from trainer.predict import Predictor
from trainer.train import model_folder, train

NAME = VECTORS.name
ALL = tuple(sorted((*SPECS, VECTORS), key=lambda spec: spec.name))


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "micro", TINY)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return open_corpus(write_world(tmp_path_factory.mktemp("values"), (24, 24), specs=ALL), 0.2)


def masked(corpus: Corpus, *components: Component, batch: int = 16, n_in: int = 16, n_out: int = 12) -> Masked:
    loader = Loader(corpus, batch, 3)
    return Masker(corpus.streams, components, n_in, n_out)(loader.next(), np.random.default_rng(0))


def index(corpus: Corpus, name: str = NAME) -> int:
    return [s.name for s in corpus.streams].index(name)


def test_the_loader_hands_out_the_vectors_of_the_labels(corpus: Corpus) -> None:
    stream = corpus.streams[index(corpus)]
    assert (stream.kind, stream.width, stream.vocab, stream.length) == ("embedding", VECTOR_WIDTH, 0, 5)
    loader, lacking = Loader(corpus, 16, 3), 0
    for _ in range(3):
        batch = loader.next()
        found = batch[NAME]
        assert found.values is not None and found.values.dtype == np.float16
        for i, (number, _) in enumerate(number_and_view(batch["tok_rgb"].ids)):
            expected = vectors_of(number)[: 0 if lacks(NAME, number) else 5]
            assert found.valid[i] == (not lacks(NAME, number)) and found.length[i] == len(expected)
            np.testing.assert_array_equal(found.values[i, : len(expected)], expected)
            assert not found.values[i, len(expected) :].any()
            lacking += lacks(NAME, number)
    assert lacking


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Edges, and the pictures they are of as patches and as tokens."""
    return write_world(tmp_path_factory.mktemp("pictures"), (24, 24), specs=(EDGES, RGB, PIXELS))


def test_patches_are_shown_at_their_places_and_never_asked_for(pictures: Dataset) -> None:
    corpus = open_corpus(pictures, 0.2)
    s = index(corpus, PIXELS.name)
    assert (corpus.streams[s].kind, corpus.streams[s].grid, corpus.streams[s].width) == ("patches", (2, 2), 12)
    batch = Loader(corpus, 16, 3).next()
    found = masked(corpus, all2all(1.0), n_in=8, n_out=8)
    assert not (found.out_stream[found.out_mask] == s).any()
    seen = set()
    for i, (number, view) in enumerate(number_and_view(batch["tok_rgb"].ids)):
        at = found.in_pos[i, found.in_mask[i] & (found.in_stream[i] == s)]
        seen.add(len(at))
        np.testing.assert_array_equal(found.values[PIXELS.name][i, at], patches_of(number, view)[at])
    assert len(seen) > 1, "some of them, not the first ones of all"


def test_a_model_learns_from_pixels(pictures: Dataset) -> None:
    """Edges follow from the class, which every patch says; RGB is judged without them, as they would tell all of it."""
    read = ComponentConfig(name="read", inputs={PIXELS.name: 1.0}, targets={EDGES.name: 1.0})
    report = train(pictures, settings(mixture=[read]))
    assert set(report.heldout) == {EDGES.name, "tok_rgb"}
    predictor = Predictor.load(model_folder(pictures, "model"))
    numbers = [n for n in range(40, 48) if not lacks(EDGES.name, n)]
    found = predictor.predict({PIXELS.name: [patches_of(n, 1) for n in numbers]}, EDGES.name, Decoding(steps=1))
    right = [np.array_equal(row, tokens_of(EDGES.name, n, 0)) for row, n in zip(found, numbers, strict=True)]
    assert np.mean(right) > 0.9
    passes = _passes(open_corpus(pictures, 0.2))
    assert [given for given, component, judged in passes if component.inputs.get(PIXELS.name) == 0 and judged] == [
        "any"
    ]
    with pytest.raises(ConfigError, match=r"tok_rgb_pixels: \(3, 12\) where a sample has \(4, 12\)"):
        predictor.predict({PIXELS.name: [patches_of(1, 0)[:3]]}, EDGES.name)


def test_a_view_with_a_patch_too_few_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.trainer.corpus.patches_of", lambda number, view: patches_of(number, view)[:3])
    with pytest.raises(DamageError, match="has views that are not 4 patches"):
        open_corpus(write_world(tmp_path, (8,), specs=(EDGES, PIXELS)), 0.0)


def test_other_data_sets_lack_the_stream(corpus: Corpus, tmp_path: Path) -> None:
    plain = open_corpus(write_world(tmp_path / "plain", (8,)), 0.0)
    blend = Blend([corpus, plain])
    picks = Loader(blend, 12, 0).plan()
    found = blend.gather(picks)[NAME]
    assert found.values is not None and not found.valid[picks.source == 1].any() and found.valid.any()
    only = Masker(blend.streams, [all2all(1.0)], 8, 8)(blend.gather(picks[0:0]), np.random.default_rng(0))
    assert only.values[NAME].shape == (0, 1, VECTOR_WIDTH)


@pytest.mark.parametrize("component", [*published(embedding=NAME), all2all(0.5)], ids=lambda c: c.name)
def test_masks_show_them_and_never_ask_for_them(corpus: Corpus, component: Component) -> None:
    found, s = masked(corpus, component, n_in=6, n_out=6), index(corpus)
    assert not (found.out_stream[found.out_mask] == s).any()
    numbers = [number for number, _ in number_and_view(Loader(corpus, 16, 3).next()["tok_rgb"].ids)]
    for i, number in enumerate(numbers):
        shown = found.in_mask[i] & (found.in_stream[i] == s)
        length = 0 if lacks(NAME, number) else len(vectors_of(number))
        rows = found.in_ids[i, shown]
        assert len(set(rows.tolist())) == len(rows) <= length and (rows < max(1, length)).all()
        assert (found.in_pos[i, shown] == rows).all(), "the place of a vector is its number"
        np.testing.assert_array_equal(found.values[NAME][i, rows], vectors_of(number)[rows])
        if component.keep == (NAME,):
            assert len(rows) == length, "all of them, before anything else"
    assert found.in_mask.all(), "vectors count as tokens do, and the budget is full"
    assert found.out_mask.any(axis=1).all()


def test_vectors_take_nothing_from_what_can_be_asked_for(corpus: Corpus) -> None:
    """A sample of few tokens and many vectors keeps tokens to predict, whatever its vectors get of the budget."""
    streams = [s for s in corpus.streams if s.name in (NAME, "tok_canny_edge")]
    masker = Masker(streams, [all2all(alpha) for alpha in (0.01, 0.1, 1.0, 10.0)], 8, 8)
    batch = Loader(corpus, 16, 3).next()
    found = masker(batch, np.random.default_rng(1))
    there = batch["tok_canny_edge"].valid
    assert (found.out_mask.sum(axis=1)[there] >= 2).all() and there.any()


def test_joined_and_cut_batches_keep_their_vectors(corpus: Corpus) -> None:
    whole = masked(corpus, biased(NAME))
    parts = [whole[0:5], whole[5:16]]
    parts[0] = replace(parts[0], values={NAME: parts[0].values[NAME][:, :2]})  # another length than the other's
    joined = Masked.join(parts)
    np.testing.assert_array_equal(joined.values[NAME][5:], whole.values[NAME][5:])
    np.testing.assert_array_equal(joined.values[NAME][:5, :2], whole.values[NAME][:5, :2])
    np.testing.assert_array_equal(joined.in_ids, whole.in_ids)


def test_the_published_mixture_takes_what_there_is(corpus: Corpus) -> None:
    config, names = TrainConfig(mixture="published"), [s.name for s in corpus.streams]
    chosen = [(c.name, c.weight) for c in components(config, names)]
    assert chosen[-2:] == [("tok_caption-biased", 0.5), (f"{NAME}-biased", 0.5)] and len(chosen) == 7
    assert components(config, ["tok_minilm_caption", "tok_rgb"])[-1].keep == ("tok_minilm_caption",)
    assert len(components(config, ["tok_caption", "tok_rgb"])) == 6
    for names in ([NAME, "tok_rgb"], [NAME, PIXELS.name, "tok_rgb"]):
        assert [c.name[:7] for c in components(config, names)] == ["all2all"] * 2, "nothing else to ask for"


FROM_VECTORS = ComponentConfig(name="read", inputs={NAME: 1.0}, targets={EDGES.name: 1.0})


def settings(**changed: Any) -> TrainConfig:
    given = {
        "steps": 60, "batch": 12, "n_in": 4, "n_out": 4, "mixture": [FROM_VECTORS], "lr": 3e-3, "precision": "fp32",
        "holdout": 0.2, "save_every": 25, "tensorboard": False,
    }  # fmt: skip
    return TrainConfig(**{**given, **changed})


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Any]:
    """Edges follow from the class, and the class from the first vector alone."""
    ds = write_world(tmp_path_factory.mktemp("learned"), (24, 24), specs=(EDGES, VECTORS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "micro", TINY)
        return ds, train(ds, settings())


def test_a_model_learns_from_vectors_what_nothing_else_says(learned: tuple[Dataset, Any]) -> None:
    ds, report = learned
    assert NAME not in report.heldout, "it is no target, so it is not judged"
    predictor = Predictor.load(model_folder(ds, "model"))
    corpus = open_corpus(ds, 0.2)
    masker = Masker(corpus.streams, [FROM_VECTORS.component()], 4, 4)
    spots = corpus.held_out(64)
    has = corpus.gather(*spots)[NAME].valid
    batch = tensors(
        masker(corpus.gather(*(part[has] for part in spots)), np.random.default_rng(0)), torch.device("cpu")
    )
    with torch.no_grad():
        read = float(forward_loss(predictor.model, batch).mean)
        batch["values"] = {NAME: torch.zeros_like(batch["values"][NAME])}
        blind = float(forward_loss(predictor.model, batch).mean)
    assert read < 0.5 < 1.0 < blind, (read, blind)


def test_it_predicts_from_vectors_that_are_given(learned: tuple[Dataset, Any]) -> None:
    ds, _ = learned
    predictor = Predictor.load(model_folder(ds, "model"))
    numbers = [number for number in range(48) if not lacks(NAME, number)]
    given = {NAME: [vectors_of(number) for number in numbers]}
    found = predictor.predict(given, EDGES.name, Decoding(steps=1))  # it never saw edges among its inputs
    right = [np.array_equal(row, tokens_of(EDGES.name, n, 0)) for row, n in zip(found, numbers, strict=True)]
    assert np.mean(right) > 0.9
    with pytest.raises(ConfigError, match="never learned to predict it"):
        predictor.require_target(NAME)


def test_interrupted_and_resumed_is_as_if_it_had_not_stopped(learned: tuple[Dataset, Any], tmp_path: Path) -> None:
    ds = write_world(tmp_path, (24, 24), specs=(EDGES, VECTORS))
    with pytest.raises(Stopped):
        train(ds, settings(), stop_at(55))
    assert train(ds, settings()).curve == learned[1].curve


def test_all_streams_at_once_are_trained_and_judged(corpus: Corpus, tmp_path: Path) -> None:
    ds = write_world(tmp_path, (24, 24), specs=ALL)
    report = train(ds, settings(steps=4, mixture="published", n_in=16, n_out=12, accumulate=2, block=4))
    assert set(report.heldout) == {spec.name for spec in SPECS}
    found = judge(Predictor.load(model_folder(ds, "model")).model, corpus, 16, 12, 0)
    assert set(found.photos) == set(report.heldout)


def test_a_run_on_vectors_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{NAME} can be shown, not asked for; add others"):
        train(write_world(tmp_path, specs=ALL), settings(modalities=[NAME], mixture="demo"))
