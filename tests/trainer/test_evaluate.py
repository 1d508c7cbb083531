"""Held-out losses: fixed masks, RGB alone where it says so, views apart from photos, guesses counted as by hand."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.corpus import STREAMS, lacks, open_world, tiny_model, tokens_of
from trainer.evaluate import Heldout, judge, repeated, unigrams
from trainer.loader import Column, Corpus
from trainer.model import Model
from trainer.streams import EOS, Stream

SIZES = (10, 10)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return open_world(tmp_path_factory.mktemp("evaluate"), 0.3, SIZES)


def losses(model: Model, corpus: Corpus, seed: int = 0) -> dict[str, Heldout]:
    return judge(model, corpus, 12, 12, seed).photos


def test_unigrams_are_counts_of_training_tokens_plus_one(corpus: Corpus) -> None:
    trained = [10 * k + int(row) for k, rows in enumerate(corpus.train_rows) for row in rows]
    assert len(trained) == 14
    found = unigrams(corpus)
    for stream in STREAMS:
        counts: Counter[int] = Counter(range(stream.vocab))  # one of each
        for number in trained:
            for view in range(2):
                if not lacks(stream.name, number):
                    ends = [EOS] if stream.kind == "sequence" else []
                    counts.update([*tokens_of(stream.name, number, view).tolist(), *ends])
        wanted = [math.log(counts[token] / counts.total()) for token in range(stream.vocab)]
        assert found[stream.name] == pytest.approx(wanted), stream.name


def test_every_stream_is_judged_once_from_rgb_and_rgb_from_any(corpus: Corpus) -> None:
    found = losses(tiny_model(), corpus)
    assert {name: h.given for name, h in found.items()} == {
        s.name: "any" if s.name == "tok_rgb" else "RGB" for s in STREAMS
    }
    for stream in STREAMS:
        assert found[stream.name].uniform == pytest.approx(math.log(stream.vocab))
        assert found[stream.name].tokens > 0 and math.isfinite(found[stream.name].loss)


def test_a_model_that_knows_nothing_is_as_good_as_chance(corpus: Corpus) -> None:
    model = tiny_model()
    with torch.no_grad():
        for weight in model.heads.parameters():
            weight.zero_()
    for name, found in losses(model, corpus).items():
        assert found.loss == pytest.approx(found.uniform, rel=1e-4), name


def test_from_rgb_means_that_nothing_else_is_seen(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    seen: list[set[str]] = []
    encode = model.encode

    def watched(ids: torch.Tensor, stream: torch.Tensor, pos: torch.Tensor, mask: torch.Tensor, **rest: Any) -> object:
        seen.append({STREAMS[s].name for s in stream[mask].tolist()})
        return encode(ids, stream, pos, mask, **rest)

    monkeypatch.setattr(model, "encode", watched)
    losses(model, corpus)
    half = len(seen) // 2  # both passes have the same samples; no views are held out here
    assert all(names == {"tok_rgb"} for names in seen[half:])
    assert set.union(*seen[:half]) == {s.name for s in STREAMS}


def test_two_models_are_asked_the_same_and_neither_is_changed(corpus: Corpus) -> None:
    one, other = tiny_model(), tiny_model(seed=1)
    before = {name: p.clone() for name, p in one.state_dict().items()}
    first, second, again = losses(one, corpus), losses(other, corpus), losses(one, corpus)
    assert first == again
    for name in first:
        assert first[name].tokens == second[name].tokens and first[name].unigram == second[name].unigram
        assert first[name].loss != second[name].loss
    assert losses(one, corpus, seed=1) != first
    assert all(torch.equal(p, before[name]) for name, p in one.state_dict().items())


def test_only_held_out_photos_are_judged_and_a_constant_is_no_surprise() -> None:
    """Training photos hold nothing but token 2, held-out ones nothing but token 3: counting expects the wrong one."""
    held = np.array([False] * 6 + [True] * 4)
    ids = np.where(held[:, None, None], 3, 2) * np.ones((10, 1, 5), np.int64)
    stream = Stream("tok_a", "vector", 8, 5)
    corpus = Corpus([stream], [{"tok_a": Column(ids.astype(np.uint16), np.ones(10, np.bool_))}], [held])
    found = judge(tiny_model([stream]), corpus, 3, 3, 0).photos["tok_a"]
    assert found.given == "any" and found.tokens > 0
    assert found.unigram == pytest.approx(-math.log(1 / (6 * 5 + 8)))


def test_with_nothing_held_out_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert losses(tiny_model(), open_world(tmp_path, 0.0, SIZES)) == {}


def test_held_out_views_are_judged_apart_and_counted_out() -> None:
    """Training views hold token 2, the held-out view token 3, and held-out photos token 4: none is taken for another."""
    held = np.array([False] * 6 + [True] * 4)
    ids = np.full((10, 3, 5), 2)
    ids[:, 2], ids[held] = 3, 4
    stream = Stream("tok_a", "vector", 8, 5)
    column = Column(ids.astype(np.uint16), np.ones(10, np.bool_))
    corpus = Corpus([stream], [{"tok_a": column}], [held], heldout_views=1)
    found = judge(tiny_model([stream]), corpus, 3, 3, 0)
    once = -math.log(1 / (6 * 2 * 5 + 8))
    assert found.views["tok_a"].unigram == pytest.approx(once) == found.photos["tok_a"].unigram
    assert found.views["tok_a"].loss != found.photos["tok_a"].loss
    assert found.views["tok_a"].repeated == 0


def test_what_is_the_same_in_every_view_is_named(tmp_path: Path) -> None:
    """A fixed stream and a text that differ by view, and one of each that do not; photo 3 alone repeats its tokens."""
    many = np.arange(5 * 3 * 4).reshape(5, 3, 4) % 50
    many[3, 2] = many[3, 0]
    words = np.repeat(np.arange(210, 215)[:, None], 3, axis=1)
    texts = np.array([[w + v for v in range(3)] for w in range(220, 235, 3)])
    streams = [Stream("tok_a", "vector", 64, 4), *(Stream(f"tok_{n}", "sequence", 260, 4) for n in ("same", "other"))]
    valid, offsets = np.ones(5, np.bool_), np.arange(16)
    columns = [
        Column(many.astype(np.uint16), valid),
        *(Column(text.reshape(-1).astype(np.uint16), valid, offsets) for text in (words, texts)),
    ]
    shard = dict(zip(("tok_a", "tok_same", "tok_other"), columns, strict=True))
    corpus = Corpus(streams, [shard], [np.zeros(5, np.bool_)], heldout_views=1)
    assert repeated(corpus, corpus.held_views(9)) == {"tok_a": 0.2, "tok_same": 1.0, "tok_other": 0.0}
    assert judge(tiny_model(streams), corpus, 4, 4, 0).photos == {}
