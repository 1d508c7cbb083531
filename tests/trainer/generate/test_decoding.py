"""Decoding gives what plain loops give; guidance, parts and prompts do what they say. Networks are tiny and random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from tests.trainer.corpus import FIRST_WORD, STREAMS, TEXT_VOCAB, lively_model, tiny_model, tokens_of
from tests.trainer.generate import naive
from trainer.generate.decoding import Decoding, Part
from trainer.generate.guidance import Pass, passes
from trainer.generate.text import assemble, has_gaps, hint
from trainer.predict import Predictor
from trainer.streams import SENTINEL, Stream

NAMES = [s.name for s in STREAMS]
RGB, EDGES, CAPTION, METADATA = (NAMES.index(f"tok_{n}") for n in ("rgb", "canny_edge", "caption", "metadata"))
EDGE_TOKENS = tokens_of("tok_canny_edge", 0, 0)
SEEN = [(EDGES, i, int(t)) for i, t in enumerate(EDGE_TOKENS)]
WORDS = np.arange(FIRST_WORD, TEXT_VOCAB)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(lively_model(), {})


@pytest.mark.parametrize("guidance", [1.0, 3.0, 0.0])
@pytest.mark.parametrize("counts", ["cosine", "linear"])
@pytest.mark.parametrize("heat", [0.0, 1.0])
def test_rounds_give_what_the_plain_loop_gives(predictor: Predictor, guidance: float, counts: Any, heat: float) -> None:
    how = Decoding(
        order="maskgit", steps=5, counts=counts, temperature=heat, cooling="linear", guidance=guidance, seed=3
    )
    found = predictor.predict({"tok_canny_edge": [EDGE_TOKENS] * 2}, "tok_rgb", how, keys=["x", "y"])
    for row, key in zip(found, "xy", strict=True):
        assert row.tolist() == naive.maskgit(predictor.model, SEEN, RGB, how, key, guidance)


@pytest.mark.parametrize("heat", [0.0, 1.0])
def test_texts_give_what_decoding_the_whole_prefix_gives(predictor: Predictor, heat: float) -> None:
    how = Decoding(temperature=heat, seed=1)
    allowed = [3, *WORDS.tolist()]
    found = predictor.predict(
        {"tok_canny_edge": [EDGE_TOKENS] * 2}, "tok_caption", how, keys=["x", "y"], allowed=np.array(allowed)
    )
    for row, key in zip(found, "xy", strict=True):
        assert row.tolist() == naive.autoregressive(predictor.model, SEEN, CAPTION, allowed, how, key)


def test_passes_of_guidance() -> None:
    every, none = frozenset({"a", "b"}), frozenset[str]()
    assert passes(["a", "b"]) == [Pass(1.0, every)], "one pass where nothing is weighed"
    assert passes(["a", "b"], 3.0) == [Pass(3.0, every), Pass(-2.0, none)]
    assert passes(["a", "b"], 0.0) == [Pass(1.0, none)]
    assert passes([], 3.0) == [Pass(1.0, none)], "nothing given: both are the same"
    assert passes(["a", "b"], weights={"a": 2.0, "b": -0.5}) == [
        Pass(2.0, frozenset("a")), Pass(-0.5, frozenset("b")), Pass(-0.5, none)
    ]  # fmt: skip
    assert passes(["a", "b"], weights={"a": 2.0}) == [Pass(2.0, every), Pass(-1.0, frozenset("b"))], "b is always seen"
    with pytest.raises(ConfigError, match=r"guidance weight of c: it is not among what is given \(a, b\)"):
        passes(["a", "b"], weights={"c": 1.0})


@pytest.mark.parametrize("name", NAMES)
def test_guidance_is_that_sum_of_scores_for_every_kind(predictor: Predictor, name: str) -> None:
    """Weights that add up to one condition alone give that condition alone; others give something else."""
    given = {"tok_canny_edge": [EDGE_TOKENS], "tok_dinov2_global": [tokens_of("tok_dinov2_global", 2, 0)]}
    given.pop(name, None)
    other = next(iter(given))

    def made(**how: Any) -> list[int]:
        return predictor.predict(given, name, Decoding(steps=3, **how), allowed=_allowed(name))[0].tolist()

    alone = predictor.predict({other: given[other]}, name, Decoding(steps=3), allowed=_allowed(name))[0].tolist()
    rest = {n: 0.0 for n in given if n != other}
    assert made(weights={other: 1.0, **rest}) == alone
    assert made(guidance=1.0) == made()
    assert (
        made(guidance=0.0)
        == predictor.predict({}, name, Decoding(steps=3), keys=[""], allowed=_allowed(name))[0].tolist()
    )
    assert len({tuple(made(weights={other: w, **rest})) for w in (-4.0, 1.0, 6.0)}) > 1


def _allowed(name: str) -> np.ndarray | None:
    return WORDS if STREAMS[NAMES.index(name)].kind == "sequence" else None


def test_parts_of_a_grid_stay_and_are_seen(predictor: Predictor) -> None:
    tokens = tokens_of("tok_rgb", 3, 0)
    known = np.zeros((3, 16), bool)
    known[1, :5], known[2] = True, True
    found = predictor.predict(
        {"tok_canny_edge": [EDGE_TOKENS] * 3}, "tok_rgb", Decoding(steps=4), parts=[Part(tokens, k) for k in known]
    )
    assert np.array_equal(found[2], tokens) and np.array_equal(found[1][:5], tokens[:5])
    blank = predictor.predict({"tok_canny_edge": [EDGE_TOKENS]}, "tok_rgb", Decoding(steps=4))
    assert np.array_equal(found[0], blank[0]), "rows with other numbers of open places do not disturb each other"
    assert not np.array_equal(found[1][5:], blank[0][5:])


def test_a_part_as_a_condition_shows_that_part_alone(predictor: Predictor) -> None:
    tokens, known = tokens_of("tok_rgb", 3, 0), np.arange(16) < 4
    other = np.where(known, tokens, 9).astype(np.uint16)

    def everything(shown: Part | np.ndarray) -> list[list[int]]:
        return [
            predictor.predict({"tok_rgb": [shown]}, n, allowed=_allowed(n))[0].tolist() for n in NAMES if n != "tok_rgb"
        ]

    assert everything(Part(tokens, known)) == everything(Part(other, known)) != everything(tokens)


def test_gaps_of_a_text_are_shown_and_filled_as_in_training() -> None:
    stream = STREAMS[CAPTION]
    ids = np.array([210, 0, 0, 213, 0], np.uint16)
    part = Part(ids, np.array([True, False, False, True, False]))
    assert has_gaps(stream, part)
    (shown,) = hint(CAPTION, stream, part)
    assert shown.ids.tolist() == [210, SENTINEL, 213, SENTINEL + 1] and shown.places.tolist() == [0, 1, 2, 3]
    assert assemble(stream, part, [220, SENTINEL + 1, 221, 222]).tolist() == [210, 220, 213, 221, 222]
    assert assemble(stream, part, [220]).tolist() == [210, 220, 213], "a gap that was never written stays empty"


def test_filling_a_text_keeps_what_is_known(predictor: Predictor) -> None:
    part = Part(np.array([210, 0, 213], np.uint16), np.array([True, False, True]))
    (found,) = predictor.predict({"tok_rgb": [tokens_of("tok_rgb", 1, 0)]}, "tok_caption", parts=[part], allowed=WORDS)
    assert found[0] == 210 and 213 in found.tolist()


def test_known_pairs_are_kept_and_their_fields_not_written_again() -> None:
    stream = STREAMS[METADATA]
    part = Part(np.array([244, 250, 0, 0], np.uint16), np.array([True, True, False, False]))
    assert not has_gaps(stream, part)
    assert assemble(stream, part, [244, 251, 245, 252, 246]).tolist() == [244, 250, 245, 252]


def test_a_prompt_is_how_the_text_begins(predictor: Predictor) -> None:
    prompts = [np.array([211, 212], np.uint16), None]
    given = {"tok_rgb": [tokens_of("tok_rgb", 1, 0)] * 2}
    found = predictor.predict(given, "tok_caption", prompts=prompts, allowed=WORDS, most=5)
    assert found[0][:2].tolist() == [211, 212] and len(found[0]) <= 5
    assert np.array_equal(found[1], predictor.predict(given, "tok_caption", allowed=WORDS, most=5)[1])
    with pytest.raises(ConfigError, match="is no sequence"):
        predictor.predict(given, "tok_canny_edge", prompts=prompts)


def test_random_order_runs_the_decoder_where_it_will_write(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    decode = predictor.model.decode

    def watched(*arrays: torch.Tensor) -> torch.Tensor:
        widths.append(int(arrays[3].sum()))
        return decode(*arrays)

    monkeypatch.setattr(predictor.model, "decode", watched)
    given = {"tok_canny_edge": [EDGE_TOKENS]}
    predictor.predict(given, "tok_rgb", Decoding(order="roar", steps=4, counts="linear"))
    assert widths == [4, 4, 4, 4]
    widths.clear()
    predictor.predict(given, "tok_rgb", Decoding(order="maskgit", steps=4, counts="linear"))
    assert widths == [16, 12, 8, 4], "all that are still open, and no others"
    widths.clear()
    predictor.predict(given, "tok_caption", allowed=WORDS)
    assert widths == [], "texts go step by step, with a cache"


def test_the_context_of_a_text_is_computed_once(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode = predictor.model.encode
    monkeypatch.setattr(predictor.model, "encode", lambda *a, **k: (calls.append(1), encode(*a, **k))[1])
    predictor.predict({"tok_rgb": [tokens_of("tok_rgb", 1, 0)]}, "tok_caption", Decoding(guidance=2.0), allowed=WORDS)
    assert len(calls) == 2, "once with and once without what is given"


def test_vectors_are_given_like_tokens() -> None:
    """Streams that are input only: pixels in patches, and embeddings of any length."""
    pixels = Stream("rgb", "patches", 0, 4, (2, 2), width=12)
    words = Stream("t5_caption", "embedding", 0, 3, width=5)
    random = Predictor(tiny_model([*STREAMS, pixels, words]), {})
    rng = np.random.default_rng(0)
    patches, text = rng.normal(size=(2, 4, 12)).astype(np.float32), rng.normal(size=(2, 5)).astype(np.float32)
    given = {"rgb": patches, "t5_caption": [text, None], "tok_canny_edge": [EDGE_TOKENS, EDGE_TOKENS]}
    heat = Decoding(temperature=1.0, steps=2)
    found = random.predict(given, "tok_rgb", heat)
    alone = random.predict({n: [v[1]] for n, v in given.items()}, "tok_rgb", heat)
    assert np.array_equal(found[1], alone[0])
    for name in ("rgb", "t5_caption"):
        without = random.predict({n: v for n, v in given.items() if n != name}, "tok_rgb", heat)
        assert not np.array_equal(found[0], without[0]), f"{name} is seen"
    for bad, says in (
        (np.zeros((3, 12)), r"\(3, 12\) where a sample has \(4, 12\)"),
        (np.full((4, 12), np.nan), "not finite"),
    ):
        with pytest.raises(ConfigError, match=says):
            random.predict({"rgb": [bad]}, "tok_rgb")
    with pytest.raises(ConfigError, match="rgb: the model never learned to predict it"):
        random.require_target("rgb")
