"""The fitting loop: it stops when the budget ends, survives a few bad steps, and never ends worse than it began."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tokenize_shards.fitting import Best, Budget, Schedule, optimise, thin, usage
from tokenize_shards.tokenizer import FitError

DATA = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


class Point(nn.Module):
    """Two numbers that look for the mean of what they are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(2))

    def loss(self, x: Tensor) -> Tensor:
        return (self.at - x).square().mean()


class Clock:
    """Stands in for the wall clock; each look takes `tick` seconds."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 100.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("tokenize_shards.fitting.time.perf_counter", made)
    return made


@pytest.mark.parametrize(("seconds", "steps"), [(None, None), (1.0, 1), (0.0, None), (None, 0), (-1.0, None)])
def test_a_budget_is_one_positive_number(seconds: float | None, steps: int | None) -> None:
    with pytest.raises(ValueError, match="exactly one|must be positive"):
        Budget(seconds, steps)


def test_a_budget_of_seconds_counts_from_its_construction(clock: Clock) -> None:
    budget = Budget(10, None)
    clock.now += 4  # start values
    budget.start_loop()
    assert budget.share(0) == 0
    clock.now += 3
    assert (budget.share(99), budget.spent(), budget.left(99)) == (0.5, 7, 3)
    clock.now += 30
    assert budget.share(100) > 1 and budget.left(100) == 0


def test_start_values_that_eat_the_budget_leave_no_loop(clock: Clock) -> None:
    budget = Budget(10, None)
    clock.now += 11
    budget.start_loop()
    assert budget.share(0) >= 1


def test_a_budget_of_steps_knows_no_clock(clock: Clock) -> None:
    budget = Budget(None, 8)
    budget.start_loop()
    clock.now += 4
    assert [budget.share(step) for step in (0, 2, 8)] == [0, 0.25, 1]
    assert budget.left(2) == 12


@given(st.floats(0, 1.5), st.floats(0.01, 0.5))
def test_the_rate_rises_to_its_top_and_falls_to_zero(share: float, warmup: float) -> None:
    schedule = Schedule(lr=2.0, warmup=warmup)
    assert 0 <= schedule.at(share) <= 2
    assert schedule.at(0) == pytest.approx(0.04) and schedule.at(warmup) == 2
    assert schedule.at(1) == schedule.at(1.5) == 0
    other = share * 0.9
    rising = schedule.at(other) <= schedule.at(share) if share < warmup else True
    falling = schedule.at(other) >= schedule.at(share) if other >= warmup else True
    assert rising and falling


def fit(point: Point, steps: int, loss: Callable[[Tensor], Tensor] | None = None, lr: float = 0.1, **extra: Any) -> Any:
    data: Iterator[Tensor] = repeat(DATA)
    schedule = Schedule(lr=lr, weight_decay=0)
    return optimise(point, data, loss or point.loss, Budget(None, steps), schedule=schedule, what="points", **extra)


def test_the_loop_minimises_and_reports() -> None:
    point, told = Point(), list[tuple[int, float, float]]()
    done, losses = fit(point, 200, progress=lambda *values: told.append(values))
    assert done == 200 and torch.allclose(point.at, DATA.mean(0), atol=1e-2)
    assert [step for step, _, _ in told] == list(range(1, 201))
    assert losses[0] == (1, pytest.approx(7.5)) and losses[-1][0] == 200
    assert told[-1][1] == pytest.approx(1, abs=0.01) and told[-1][2] == 0
    assert not point.training


def test_one_step_is_done_whatever_the_budget(clock: Clock) -> None:
    clock.tick = 5.0
    point = Point()
    done, _ = optimise(point, repeat(DATA), point.loss, Budget(1, None), schedule=Schedule(), what="points")
    assert done == 1


def test_the_loop_ends_with_the_time(clock: Clock) -> None:
    clock.tick = 0.01
    point = Point()
    done, _ = optimise(point, repeat(DATA), point.loss, Budget(1, None), schedule=Schedule(), what="points")
    assert 10 < done < 100


def failing(point: Point, bad: set[int]) -> Callable[[Tensor], Tensor]:
    """A loss that is NaN in the steps numbered `bad`."""
    steps = iter(range(10**6))
    return lambda x: point.loss(x) * (math.nan if next(steps) in bad else 1)


def test_bad_steps_are_left_out() -> None:
    point = Point()
    done, _ = fit(point, 200, failing(point, {3, *range(20, 29)}))
    assert done == 200 and torch.allclose(point.at, DATA.mean(0), atol=1e-2)
    still = Point()
    fit(still, 9, failing(still, set(range(9))))
    assert still.at.tolist() == [0, 0]


def test_ten_bad_steps_in_a_row_end_the_fit() -> None:
    point = Point()
    with pytest.raises(FitError, match=r"fitting points: .* 10 steps in a row \(step 14"):
        fit(point, 200, failing(point, set(range(5, 15))))


def test_a_gradient_that_is_not_finite_is_a_bad_step() -> None:
    point = Point()

    def loss(x: Tensor) -> Tensor:
        return (point.at * 0).sqrt().sum()  # 0, with a gradient of 0 / 0

    with pytest.raises(FitError, match="its gradient was not finite"):
        fit(point, 50, loss)


def test_the_best_state_is_kept() -> None:
    point = Point()
    point.at.data.copy_(DATA.mean(0))
    best = Best(point, lambda: float(point.loss(DATA).detach()), every=1)
    fit(point, 30, lambda x: -point.loss(x), best=best)  # runs away from the optimum it starts at
    assert point.at.tolist() == DATA.mean(0).tolist() and best.figure == 1
    plain = Point()
    best = Best(plain, lambda: float(plain.loss(DATA).detach()), every=7)
    fit(plain, 200, best=best)
    assert best.figure == float(plain.loss(DATA).detach()) == pytest.approx(1, abs=1e-3)


@given(st.lists(st.floats(-5, 5), max_size=700), st.integers(1, 300))
def test_thin_curves_keep_mean_and_end(losses: list[float], points: int) -> None:
    curve = thin(losses, points)
    assert len(curve) == min(points, len(losses))
    if losses:
        ends = [step for step, _ in curve]
        assert ends[-1] == len(losses) and ends == sorted(set(ends))
        total = sum(value * (end - start) for (end, value), start in zip(curve, [0, *ends], strict=False))
        assert total == pytest.approx(sum(losses), abs=1e-6)


def test_usage_of_known_tokens() -> None:
    tokens = np.array([[0, 3], [1, 3], [0, 3], [1, 3]])
    assert usage(tokens, 4) == (pytest.approx(0.375), pytest.approx(1.5)), "half and a quarter; 2 and 1"
    assert usage(np.arange(8)[:, None], 8) == (1, pytest.approx(8))
    assert usage(np.zeros((0, 2), int), 4)[0] == 0
