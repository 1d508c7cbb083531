"""Mixtures and budgets: alphas by name, Dirichlet shares, and division that loses nothing and exceeds nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import TrainConfig, components
from trainer.mixture import Component, Mixture, all2all, biased, demo, from_one, log_dirichlet, published, share

NAMES = ["tok_rgb", "tok_depth", "tok_caption", "tok_metadata"]


def divide_slowly(log_weight: list[float], room: list[int], budget: int) -> list[int]:
    """One row of `share`, as one would do it by hand: fill what overflows, then round by the largest fractions."""
    quota = [0] * len(room)
    free = [m for m in range(len(room)) if log_weight[m] > -math.inf and room[m] > 0]
    exact: dict[int, float] = {}
    while free:
        top = max(log_weight[m] for m in free)
        weight = {m: math.exp(log_weight[m] - top) for m in free}
        left, total = budget - sum(quota), sum(weight.values())
        exact = {m: left * weight[m] / total for m in free}
        full = [m for m in free if exact[m] >= room[m]]
        for m in full:
            quota[m] = room[m]
        free = [m for m in free if m not in full]
        if not full:
            break
    for m in free:
        quota[m] = math.floor(exact[m])
    left = budget - sum(quota)
    for m in sorted(free, key=lambda m: (math.floor(exact[m]) - exact[m], m))[: max(0, left)]:
        quota[m] += 1
    return quota


@st.composite
def divisions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log weights, rooms and budgets of a few rows; some streams excluded, weights up to e^700 apart."""
    rows, streams = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    log_weight = rng.normal(0, draw(st.sampled_from([0.5, 3.0, 300.0])), (rows, streams))
    log_weight[rng.random((rows, streams)) < 0.2] = -np.inf
    room = rng.integers(0, draw(st.sampled_from([2, 20, 300])), (rows, streams))
    return log_weight, room, rng.integers(0, 200, rows)


@settings(max_examples=150)
@given(divisions())
def test_budgets_are_divided_to_the_last_token_and_as_by_hand(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    log_weight, room, budget = case
    quota = share(log_weight, room, budget)
    assert (quota >= 0).all() and (quota <= room).all()
    usable = np.where(np.isfinite(log_weight), room, 0)
    assert (quota[~np.isfinite(log_weight)] == 0).all()
    assert quota.sum(axis=1).tolist() == np.minimum(budget, usable.sum(axis=1)).tolist()
    for row in range(len(budget)):
        by_hand = divide_slowly(log_weight[row].tolist(), room[row].tolist(), int(budget[row]))
        assert quota[row].tolist() == by_hand, "a row depends on nothing but itself"


def test_with_room_for_all_every_stream_is_within_one_token_of_its_share() -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(5), 400)
    quota = share(np.log(weights), np.full((400, 5), 1000), np.full(400, 97))
    assert np.abs(quota - 97 * weights).max() < 1


def test_what_a_full_stream_leaves_goes_to_the_others_in_proportion() -> None:
    quota = share(np.log([[0.8, 0.15, 0.05]]), np.array([[10, 1000, 1000]]), np.array([50]))
    assert quota.tolist() == [[10, 30, 10]]


@pytest.mark.parametrize("alpha", [(0.01, 0.01, 0.01), (0.1, 1.0, 5.0), (10.0, 10.0, 0.5)])
def test_shares_have_the_mean_and_variance_of_a_dirichlet(alpha: tuple[float, ...]) -> None:
    n, a = 40_000, np.array(alpha)
    logs = log_dirichlet(np.tile(a, (n, 1)), np.random.default_rng(1))
    assert np.isfinite(logs).all(), "no share may vanish, however small its alpha"
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    mean = a / a.sum()
    variance = mean * (1 - mean) / (a.sum() + 1)
    assert np.abs(shares.mean(axis=0) - mean).max() < 5 * np.sqrt(variance.max() / n)
    assert np.abs(shares.var(axis=0) - variance).max() < 0.05 * variance.max()


def test_alpha_zero_takes_no_part() -> None:
    logs = log_dirichlet(np.array([[0.0, 1.0], [2.0, 0.0]]), np.random.default_rng(0))
    assert np.isneginf(logs).tolist() == [[True, False], [False, True]]


def test_an_exact_name_wins_over_patterns_and_the_first_pattern_over_later_ones() -> None:
    inputs = {"tok_*": 2.0, "*": 3.0, "tok_rgb": 5.0}
    made = Mixture([Component("a", 1.0, inputs, {"tok_d*": 1.0})], [*NAMES, "other"])
    assert made.alpha_in.tolist() == [[5.0, 2.0, 2.0, 2.0, 3.0]]
    assert made.alpha_out.tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0]]


def test_ready_made_components() -> None:
    made = Mixture([all2all(0.1), from_one("tok_rgb"), biased("tok_caption")], NAMES)
    assert (made.alpha_in[0] == 0.1).all() and (made.alpha_out[0] == 0.1).all()
    assert (made.alpha_in[1] > 0).tolist() == [True, False, False, False]
    assert (made.alpha_out[1] > 0).tolist() == [False, True, True, True]
    assert made.keep.tolist() == [[False] * 4, [False] * 4, [False, False, True, False]]


def test_the_published_mixture_is_that_of_the_paper() -> None:
    parts = published()
    assert [c.weight for c in parts] == [1, 1, 1, 1, 1, 0.5]
    assert [c.inputs["*"] for c in parts[:4]] == [0.01, 0.1, 1, 10]
    assert Mixture(demo(), NAMES).weights.sum() == pytest.approx(1)


def test_half_of_the_steering_mixture_is_from_a_palette_and_little_else() -> None:
    names = ["tok_rgb", "tok_color_palette", "tok_dinov2_global", "tok_canny_edge"]
    made = Mixture(components(TrainConfig(mixture="steering"), names), names)
    alone = made.keep[:, 1] & (made.few > 0) & ~made.keep[:, 2]
    assert 0.4 < made.weights[alone].sum() < 0.6
    assert (made.alpha_out[alone] > 0).tolist() == [[True, False, False, False]], "and all of it is for the picture"
    assert (made.alpha_out.max(axis=0) > 0).all(), "every stream can be asked for"
    fewer = Mixture(components(TrainConfig(mixture="steering"), names[:2]), names[:2])
    assert len(fewer.names) == len(made.names) - 2, "without an embedding or a caption there is no chain to learn"


def test_components_are_drawn_by_weight() -> None:
    made = Mixture([all2all(1.0, 3.0), from_one("tok_rgb", 1.0)], NAMES)
    drawn = made.draw(20_000, np.random.default_rng(0))
    assert abs((drawn == 0).mean() - 0.75) < 5 * math.sqrt(0.75 * 0.25 / 20_000)
    assert np.array_equal(drawn, made.draw(20_000, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("components", "said"),
    [
        ([], "at least one component"),
        ([Component("x", few=-1.0)], "few -1.0 is negative"),
        ([all2all(1.0, 0.0)], "weight 0.0 is not positive"),
        ([from_one("tok_rbg")], r"inputs name no stream of this data set \(tok_rgb,"),
        ([Component("x", targets={"tok_nothing": 1.0})], "targets name no stream"),
    ],
)
def test_mixtures_that_cannot_be_used_are_refused(components: list[Component], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Mixture(components, NAMES)
