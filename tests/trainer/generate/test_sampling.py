"""Schedules, noise and drawing: sums, shares, cuts; a sample's noise is its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from tests.trainer.corpus import STREAMS, tiny_model
from trainer.generate.sampling import Head, Noise, Picker, inverse
from trainer.generate.schedule import Counts, reveal_counts, temperatures


@given(st.integers(0, 300), st.integers(1, 60), st.sampled_from(["cosine", "linear"]))
@settings(max_examples=200)
def test_counts_reveal_everything_at_least_one_a_round(tokens: int, steps: int, kind: Counts) -> None:
    counts = reveal_counts(tokens, steps, kind)
    assert counts.sum() == tokens and len(counts) == steps
    rounds = min(tokens, steps)
    assert (counts[:rounds] >= 1).all() and not counts[rounds:].any()


def test_the_shapes_of_schedules() -> None:
    assert reveal_counts(16, 4, "linear").tolist() == [4, 4, 4, 4]
    cosine = reveal_counts(196, 8, "cosine")
    assert (np.diff(cosine) > 0).all(), "few at first, many at the end"
    assert cosine.cumsum()[3] == round(196 * (1 - np.cos(np.pi / 4)))
    assert temperatures(2.0, 4).tolist() == [2, 2, 2, 2]
    assert temperatures(2.0, 4, "linear").tolist() == [2, 1.5, 1, 0.5]
    assert temperatures(3.0, 3, "inverse").tolist() == [3, 1.5, 1]
    with pytest.raises(ConfigError, match="steps: 0"):
        reveal_counts(4, 0)


def picked(weights: list[float], temperature: float, top_p: float = 1.0, top_k: int = 0, n: int = 20_000) -> np.ndarray:
    """Shares of the columns that are picked."""
    scores = torch.tensor(np.log(weights)).float().repeat(n, 1)
    uniform = (np.arange(n) + 0.5) / n
    ids, sure = Picker(top_k, top_p)(scores, temperature, uniform)
    assert torch.allclose(sure, torch.log_softmax(scores, -1).gather(1, ids[:, None])[:, 0], atol=1e-5)
    return np.bincount(ids.numpy(), minlength=len(weights)) / n


def test_picking() -> None:
    weights = [0.15, 0.5, 0.05, 0.3]
    assert picked(weights, 0.0).tolist() == [0, 1, 0, 0]
    assert picked(weights, 1.0) == pytest.approx(weights, abs=1e-3)
    squared = np.array(weights) ** 2
    assert picked(weights, 0.5) == pytest.approx(squared / squared.sum(), abs=1e-3)
    assert picked(weights, 1.0, top_p=0.6) == pytest.approx([0, 5 / 8, 0, 3 / 8], abs=1e-3), "the fewest that hold 0.6"
    assert picked(weights, 1.0, top_p=0.01).tolist() == [0, 1, 0, 0]
    assert picked(weights, 1.0, top_k=2) == pytest.approx([0, 5 / 8, 0, 3 / 8], abs=1e-3)
    assert picked(weights, 1.0, top_k=3, top_p=0.55) == pytest.approx([0, 5 / 8, 0, 3 / 8], abs=1e-3)
    assert picked(weights, 1.0, top_k=9) == pytest.approx(weights, abs=1e-3)


@given(st.integers(1, 200), st.integers(0, 2**31))
@settings(max_examples=100)
def test_drawing_in_blocks_is_drawing_from_the_running_sum(width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.random((5, width)) * (rng.random((5, width)) < 0.5)
    weight[:, rng.integers(width)] += 0.1
    uniform = rng.random(5)
    uniform[:2] = 0.0, np.nextafter(1.0, 0.0)
    found = inverse(torch.from_numpy(weight).float(), torch.from_numpy(uniform)).numpy()
    assert (weight[np.arange(5), found] > 0).all(), "what has no weight is never drawn, at the ends neither"
    ends = np.cumsum(weight.astype(np.float32), axis=1, dtype=np.float64)
    wanted = uniform * ends[:, -1]
    close = np.abs(ends - wanted[:, None]).min(axis=1) < 1e-5
    exact = np.array([np.searchsorted(e, w, side="right") for e, w in zip(ends, wanted, strict=True)])
    assert (found == exact)[~close].all()


def test_noise_belongs_to_a_sample_a_round_and_a_place() -> None:
    together, alone = Noise(1, ["a", "b"], "tok_x"), Noise(1, ["b"], "tok_x")
    assert np.array_equal(together.uniform("pick", 2, 9)[1], alone.uniform("pick", 2, 9)[0])
    assert np.array_equal(together.uniform("pick", 2, 9, [1]), alone.uniform("pick", 2, 9))
    base = alone.uniform("pick", 2, 9)
    assert np.array_equal(alone.uniform("pick", 2, 12)[:, :9], base)
    for other in (
        alone.uniform("pick", 3, 9), alone.uniform("order", 2, 9), together.uniform("pick", 2, 9)[:1],
        Noise(2, ["b"], "tok_x").uniform("pick", 2, 9), Noise(1, ["b"], "tok_y").uniform("pick", 2, 9),
    ):  # fmt: skip
        assert not np.array_equal(other, base)


def test_a_head_scores_what_may_be_written_and_nothing_else() -> None:
    model, stream = tiny_model(), STREAMS[0]
    hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    every = model.logits(hidden, stream.table)
    assert torch.allclose(Head(model, stream, None).scores(hidden), every, atol=1e-6)
    some = Head(model, stream, np.array([9, 3, 3]))
    assert torch.allclose(some.scores(hidden), every[:, [3, 9]], atol=1e-6)
    assert some.ids(torch.tensor([1, 0])).tolist() == [9, 3]
