"""Prediction: always tokens of the vocabulary, the same as without a cache, decodable, and right once learned.

Networks are tiny: random, but for the one that has learned four made-up photos by heart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from tests.trainer.corpus import FIRST_WORD, STREAMS, TEXT_VOCAB, TINY, lively_model, tiny_model, tokens_of
from trainer import checkpoint
from trainer.generate.decoding import Decoding, Order
from trainer.model import SIZES, Model
from trainer.predict import Given, Predictor
from trainer.streams import EOS, PAD, SOS

RGB = [tokens_of("tok_rgb", n, 0) for n in range(4)]
FIXED = [s for s in STREAMS if s.kind != "sequence"]
TEXTS = [s for s in STREAMS if s.kind == "sequence"]
NAMES = [s.name for s in STREAMS]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(lively_model(), {})


def as_lists(tokens: Any) -> list[list[int]]:
    return [row.tolist() for row in tokens]


def test_probabilities_are_those_tokens_are_drawn_by(predictor: Predictor) -> None:
    given = {"tok_rgb": RGB[:2]}
    shares = predictor.probabilities(given, "tok_dinov2_global")
    assert np.allclose(shares.sum(-1), 1, atol=1e-5) and (shares >= 0).all()
    likeliest = predictor.predict(given, "tok_dinov2_global", Decoding(steps=1))
    assert np.array_equal(shares.argmax(-1), likeliest)
    blind = predictor.probabilities({"tok_rgb": [None, None]}, "tok_dinov2_global")
    more = predictor.probabilities(given, "tok_dinov2_global", Decoding(guidance=2.0))
    assert np.allclose(np.log(more), _normal(2 * np.log(shares) - np.log(blind)), atol=1e-3)
    with pytest.raises(ConfigError, match="is a sequence"):
        predictor.probabilities(given, "tok_caption")


def _normal(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


@pytest.mark.parametrize("order", ["maskgit", "roar"])
@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (3.0, 0.7)])
@pytest.mark.parametrize("steps", [1, 3, 100])
def test_tokens_are_of_the_vocabulary_from_rgb_alone(
    predictor: Predictor, steps: int, temperature: float, top_p: float, order: Order
) -> None:
    for stream in STREAMS:
        way = "ar" if stream.kind == "sequence" else order
        out = predictor.predict(
            {"tok_rgb": RGB}, stream.name, Decoding(way, steps, temperature=temperature, top_p=top_p)
        )
        assert len(out) == 4
        for row in out:
            assert row.dtype == np.uint16 and (row < stream.vocab).all()
            if stream.kind == "sequence":
                assert len(row) <= stream.length and not {PAD, SOS, EOS} & set(row.tolist())
            else:
                assert row.shape == (stream.length,)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(predictor: Predictor, name: str) -> None:
    def drawn(seed: int) -> list[list[int]]:
        return as_lists(predictor.predict({"tok_rgb": RGB}, name, Decoding(temperature=1.0, seed=seed)))

    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", [Decoding(steps=3), Decoding(steps=3, temperature=1.0, guidance=2.0, seed=5)])
def test_a_sample_is_predicted_alike_in_any_company(predictor: Predictor, name: str, how: Decoding) -> None:
    captions = [tokens_of("tok_caption", 5, 0), None, tokens_of("tok_caption", 0, 0), None]
    keys = ["a", "b", "c", "d"]
    together = as_lists(predictor.predict({"tok_rgb": RGB, "tok_caption": captions}, name, how, keys=keys))
    for i in range(4):
        given: Given = {"tok_rgb": RGB[i : i + 1], "tok_caption": captions[i : i + 1]}
        alone = predictor.predict(given, name, how, keys=keys[i : i + 1])
        assert as_lists(alone) == [together[i]]


@pytest.mark.parametrize("name", NAMES)
def test_samples_that_lack_everything_and_no_samples_at_all(predictor: Predictor, name: str) -> None:
    given: Given = {"tok_canny_edge": [None, None], "tok_caption": [None, np.zeros(0, np.uint16)]}
    assert len(predictor.predict(given, name, Decoding(steps=2))) == 2
    assert len(predictor.predict({"tok_rgb": []}, name)) == 0


def shown_to(model: Model, name: str, ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Context of one sample that shows one stream."""
    index, length = NAMES.index(name), len(ids)
    return model.encode(
        torch.from_numpy(ids.astype(np.int64))[None], torch.full((1, length), index), torch.arange(length)[None],
        torch.ones(1, length, dtype=torch.bool),
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("stream", FIXED, ids=lambda s: s.name)
def test_one_step_is_the_likeliest_token_of_each_position(predictor: Predictor, stream: Any) -> None:
    given = "tok_dinov2_global" if stream.name == "tok_rgb" else "tok_rgb"
    ids = tokens_of(given, 2, 0)
    context, mask = shown_to(predictor.model, given, ids)
    place = torch.arange(stream.length)[None]
    which, real = torch.full_like(place, NAMES.index(stream.name)), torch.ones_like(place, dtype=torch.bool)
    hidden = predictor.model.decode(torch.zeros_like(place), which, place, real, context, mask)
    wanted = predictor.model.logits(hidden, stream.table).argmax(-1)[0]
    assert as_lists(predictor.predict({given: [ids]}, stream.name, Decoding(steps=1))) == [wanted.tolist()]


@torch.no_grad()
@pytest.mark.parametrize("stream", TEXTS, ids=lambda s: s.name)
def test_texts_are_what_they_would_be_without_a_cache(predictor: Predictor, stream: Any) -> None:
    words = np.arange(FIRST_WORD, TEXT_VOCAB)
    context, mask = shown_to(predictor.model, "tok_rgb", RGB[1])
    symbols = [SOS]
    while len(symbols) <= stream.length and symbols[-1] != EOS:
        given = torch.tensor([symbols])
        which, real = torch.full_like(given, NAMES.index(stream.name)), torch.ones_like(given, dtype=torch.bool)
        place = torch.arange(len(symbols))[None]
        hidden = predictor.model.decode(given, which, place, real, context, mask)
        scores = predictor.model.logits(hidden[0, -1], stream.table)[words]
        symbols.append(int(words[int(scores.argmax())]))
    found = predictor.predict({"tok_rgb": RGB[1:2]}, stream.name, allowed=words)
    assert as_lists(found) == [symbols[1 : stream.length + 1]]


def test_each_round_sees_what_the_rounds_before_revealed(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = predictor.model.encode

    def watched(*arrays: torch.Tensor, **more: Any) -> Any:
        seen.append(int(arrays[3].sum()))
        return encode(*arrays, **more)

    monkeypatch.setattr(predictor.model, "encode", watched)
    predictor.predict(
        {"tok_canny_edge": [tokens_of("tok_canny_edge", 0, 0)]}, "tok_rgb", Decoding(steps=4, counts="linear")
    )
    assert seen == [4, 4 + 4, 4 + 8, 4 + 12], "an equal share of the 16 positions each round"


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_allowed_is_written(predictor: Predictor, name: str) -> None:
    allowed = np.array([EOS, 7, 11])
    for temperature in (0.0, 2.0):
        how = Decoding(temperature=temperature)
        for row in predictor.predict({"tok_canny_edge": [None] * 3}, name, how, allowed=allowed):
            assert set(row.tolist()) <= set(allowed.tolist())


@pytest.mark.parametrize("count", [0, 1, 7, 15, 16])
def test_completing_keeps_what_is_shown(predictor: Predictor, count: int) -> None:
    tokens = np.stack(RGB)
    shown = np.random.default_rng(0).permutation(16)[:count]
    done = predictor.complete("tok_rgb", tokens, shown, Decoding(steps=4))
    assert done.shape == tokens.shape and (done < 64).all()
    assert np.array_equal(done[:, shown], tokens[:, shown])
    hidden = np.setdiff1d(np.arange(16), shown)
    other = tokens.copy()
    other[:, hidden] = 1
    assert np.array_equal(predictor.complete("tok_rgb", other, shown, Decoding(steps=4)), done), (
        "what is hidden is not looked at"
    )


def test_what_cannot_be_predicted_is_refused(predictor: Predictor) -> None:
    with pytest.raises(ConfigError, match=r"tok_depth: the model was not trained on it\. It knows: .*tok_rgb"):
        predictor.predict({"tok_rgb": RGB}, "tok_depth")
    with pytest.raises(ConfigError, match="tok_depth: the model was not trained on it"):
        predictor.predict({"tok_depth": RGB}, "tok_rgb")
    with pytest.raises(ConfigError, match="nothing is given"):
        predictor.predict({}, "tok_rgb")
    with pytest.raises(ConfigError, match="tok_rgb: token 64 is outside its vocabulary of 64"):
        predictor.predict({"tok_rgb": [np.full(16, 64, np.uint16)]}, "tok_caption")
    with pytest.raises(ConfigError, match="tok_rgb: 15 tokens where a sample has 16"):
        predictor.predict({"tok_rgb": [RGB[0][:15]]}, "tok_caption")
    with pytest.raises(ConfigError, match="tok_caption: 9 tokens where a sample has at most 8"):
        predictor.predict({"tok_caption": [np.full(9, FIRST_WORD, np.uint16)]}, "tok_rgb")
    for bad in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}, {"steps": 0}, {"order": "roar"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            predictor.predict({"tok_rgb": RGB}, "tok_caption", Decoding(**bad))


def test_from_a_checkpoint_it_predicts_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "micro", TINY)
    model = tiny_model()
    record = {"step": 1, "config": {"size": "micro", "tied": False}, "streams": [s.to_json() for s in STREAMS]}
    checkpoint.save(tmp_path / "m", model, None, record)
    loaded, direct = Predictor.load(tmp_path / "m"), Predictor(model, record)
    assert loaded.record["step"] == 1
    for name in NAMES:
        one, two = (p.predict({"tok_rgb": RGB}, name, Decoding(steps=2)) for p in (loaded, direct))
        assert as_lists(one) == as_lists(two)
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        Predictor.load(tmp_path / "nothing")
