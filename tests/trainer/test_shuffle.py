"""The order of samples: each once an epoch, mixed, and the same stream however it is cut into pieces."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.shuffle import pick_view, take

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


def samples(sizes: list[int]) -> list[tuple[int, int]]:
    return [(k, i) for k, size in enumerate(sizes) for i in range(size)]


@given(SIZES, st.integers(0, 2**40), st.integers(0, 3), st.integers(1, 5))
def test_every_sample_once_an_epoch(sizes: list[int], seed: int, epoch: int, window: int) -> None:
    total = sum(sizes)
    order = take(sizes, seed, epoch * total, total, window)
    assert (order[:, 0] == epoch).all()
    assert sorted(map(tuple, order[:, 1:].tolist())) == samples(sizes)


@given(SIZES, st.integers(0, 99), st.integers(0, 100), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_the_stream_does_not_depend_on_how_it_is_cut(
    sizes: list[int], seed: int, start: int, pieces: list[int]
) -> None:
    starts = start + np.cumsum([0, *pieces])[:-1]
    parts = [take(sizes, seed, int(at), count, window=3) for at, count in zip(starts, pieces, strict=True)]
    whole = take(sizes, seed, start, sum(pieces), window=3)
    assert np.array_equal(np.concatenate(parts), whole)


def test_seeds_and_epochs_give_different_orders() -> None:
    orders = [take([50, 50], seed, epoch * 100, 100)[:, 1:].tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({str(order) for order in orders}) == 4
    assert orders[0] != samples([50, 50]), "it is not the order of the files"


def test_shards_are_mixed_within_a_window_and_few_are_open_at_a_time() -> None:
    sizes = [20] * 40
    order = take(sizes, 0, 0, 800, window=4)[:, 1]
    for start in range(0, 800, 80):
        inside = order[start : start + 80]
        assert len(set(inside.tolist())) == 4
        assert (np.diff(inside) != 0).sum() > 40, "samples of different shards follow each other"
    assert (np.diff(order[::80]) < 0).any(), "shards themselves come in a random order"


def test_every_sample_is_as_likely_to_come_first() -> None:
    first = Counter(tuple(take([2, 3], seed, 0, 1)[0, 1:].tolist()) for seed in range(1000))
    assert set(first) == set(samples([2, 3]))
    assert all(abs(count - 200) < 5 * np.sqrt(1000 * 0.2 * 0.8) for count in first.values())


def test_nothing_to_visit_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        take([0, 0], 0, 0, 1)


@given(st.integers(1, 7), st.integers(0, 2**40), st.integers(0, 1000))
def test_as_many_epochs_as_views_show_each_view_once(views: int, seed: int, row: int) -> None:
    epochs = np.arange(views)
    shown = pick_view(np.full(views, 3), np.full(views, row), epochs, seed, views)
    assert sorted(shown.tolist()) == list(range(views))


def test_views_are_spread_evenly_over_samples() -> None:
    rows = np.arange(6000)
    views = pick_view(rows // 100, rows % 100, np.zeros(6000, np.int64), 0, 3)
    assert all(abs(count - 2000) < 5 * np.sqrt(6000 * 2 / 9) for count in np.bincount(views, minlength=3))
