"""Masks are distributed as the definition says: written out here sample by sample, and compared by their statistics.

The definition, where every stream has room: a component by its weight; Dirichlet(alpha) shares over the streams, inputs
and targets apart; n tokens by those shares; random disjoint positions. Marginals and joint distributions are compared.
"""

from __future__ import annotations

import numpy as np
import pytest

from trainer.masking import Masked, Masker
from trainer.mixture import Component, all2all
from trainer.streams import Stream, Tokens

ROOM, N_IN, N_OUT, SAMPLES = 400, 24, 20, 6000
NAMES = ("tok_a", "tok_b", "tok_c")
STREAMS = [Stream(name, "vector", 8, ROOM) for name in NAMES]
MIXTURE = (
    Component("few", 1.0, {"*": 0.2}, {"*": 0.5}),
    Component("from a", 2.0, {"tok_a": 1000.0}, {"tok_a": 0.0, "*": 1.0}),
    Component("uneven", 1.0, {"tok_a": 3.0, "*": 0.5}, {"tok_c": 2.0, "*": 0.5}),
)


@pytest.fixture(scope="module")
def masked() -> Masked:
    ones = np.ones(SAMPLES, np.bool_)
    ids = np.zeros((SAMPLES, ROOM), np.uint16)
    batch = {s.name: Tokens(ids, np.full(SAMPLES, ROOM), ones) for s in STREAMS}
    return Masker(STREAMS, MIXTURE, N_IN, N_OUT)(batch, np.random.default_rng(0))


def counts(masked: Masked, side: str) -> np.ndarray:
    """(samples, streams): tokens of each stream on one side."""
    mask, stream = (getattr(masked, f"{side}_{name}") for name in ("mask", "stream"))
    return np.stack([(mask & (stream == s)).sum(axis=1) for s in range(len(STREAMS))], axis=1)


def slowly(component: Component, side: str, budget: int, rng: np.random.Generator, samples: int) -> np.ndarray:
    """The same by the definition, one sample at a time."""
    table = component.inputs if side == "in" else component.targets
    alpha = np.array([table.get(name, table.get("*", 0.0)) for name in NAMES])
    found = np.zeros((samples, len(NAMES)), int)
    for row in found:
        share = np.zeros(len(NAMES))
        share[alpha > 0] = rng.dirichlet(alpha[alpha > 0])
        row[:] = np.floor(budget * share)
        left = np.argsort(row - budget * share)[: budget - row.sum()]
        row[left] += 1
    return found


def test_components_come_by_their_weights(masked: Masked) -> None:
    share = np.bincount(masked.component, minlength=3) / SAMPLES
    assert np.abs(share - [0.25, 0.5, 0.25]).max() < 5 * np.sqrt(0.25 / SAMPLES)


@pytest.mark.parametrize("side", ["in", "out"])
@pytest.mark.parametrize("which", range(3))
def test_budgets_have_the_marginals_and_the_joint_of_the_definition(masked: Masked, side: str, which: int) -> None:
    mine = counts(masked, side)[masked.component == which]
    budget = N_IN if side == "in" else N_OUT
    assert (mine.sum(axis=1) == budget).all()
    wanted = slowly(MIXTURE[which], side, budget, np.random.default_rng(which), 4000)
    scale = np.sqrt(wanted.var(axis=0) * (1 / len(mine) + 1 / len(wanted))) + 1e-9
    assert (np.abs(mine.mean(axis=0) - wanted.mean(axis=0)) < 5 * scale + 0.02).all(), "means"
    for s in range(len(NAMES)):
        one, two = (np.sort(table[:, s]) for table in (mine, wanted))
        at = np.arange(budget + 1)
        gap = np.searchsorted(one, at, "right") / len(one) - np.searchsorted(two, at, "right") / len(two)
        limit = 1.95 * np.sqrt(1 / len(one) + 1 / len(two))  # Kolmogorov and Smirnov, one in a thousand
        assert np.abs(gap).max() < limit, NAMES[s]
    spread = np.abs(np.cov(mine.T) - np.cov(wanted.T)).max()
    assert spread < 0.12 * max(1.0, np.abs(np.cov(wanted.T)).max()), "covariances"


def test_inputs_and_targets_are_divided_independently(masked: Masked) -> None:
    few = masked.component == 0
    one, two = (counts(masked, side)[few].astype(float) for side in ("in", "out"))
    cross = np.corrcoef(one.T, two.T)[:3, 3:]
    assert np.abs(cross).max() < 5 / np.sqrt(few.sum())


def test_positions_are_even_and_pairs_of_them_independent(masked: Masked) -> None:
    """The chance of a position, and of two together, given how many are taken."""
    of_a = masked.component == 1
    shown = np.zeros((int(of_a.sum()), ROOM), bool)
    rows = np.repeat(np.arange(len(shown)), N_IN)
    shown[rows, masked.in_pos[of_a].reshape(-1)] = True
    assert (shown.sum(axis=1) == N_IN).all(), "no position twice"
    chance = N_IN / ROOM
    assert np.abs(shown.mean(axis=0) - chance).max() < 5 * np.sqrt(chance * (1 - chance) / len(shown))
    both = (shown[:, 0::2] & shown[:, 1::2]).mean()
    pair = N_IN * (N_IN - 1) / (ROOM * (ROOM - 1))
    assert abs(both - pair) < 5 * np.sqrt(pair / (len(shown) * ROOM / 2))
    halves = shown[:, : ROOM // 2].sum(axis=1)
    hyper = N_IN * 0.25 * (ROOM - N_IN) / (ROOM - 1)
    assert halves.mean() == pytest.approx(N_IN / 2, abs=5 * np.sqrt(hyper / len(shown)))
    assert halves.var() == pytest.approx(hyper, rel=0.1)


def test_what_is_full_leaves_the_rest_in_proportion() -> None:
    """Dirichlet shares given that one stream is full: the others keep their ratio, which is Beta distributed."""
    streams = [Stream("tok_s", "vector", 8, 3), *STREAMS[:2]]
    ones = np.ones(SAMPLES, np.bool_)
    batch = {
        s.name: Tokens(np.zeros((SAMPLES, s.length), np.uint16), np.full(SAMPLES, s.length), ones) for s in streams
    }
    found = Masker(streams, [all2all(1.0)], 200, 20)(batch, np.random.default_rng(5))
    table = np.stack([(found.in_mask & (found.in_stream == s)).sum(axis=1) for s in range(3)], axis=1)
    full = table[:, 0] == 3
    assert found.in_mask.all() and full.mean() > 0.9
    ratio = table[full, 1] / table[full, 1:].sum(axis=1)
    assert ratio.mean() == pytest.approx(0.5, abs=0.02) and ratio.var() == pytest.approx(1 / 12, rel=0.08)
