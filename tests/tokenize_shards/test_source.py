"""Views for a fit: every view once a pass, workers share them, streams read ahead, and any position can be gone on from."""

from __future__ import annotations

import threading
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenize_shards.source import InMemory, Streamed, as_source, order_of
from tokenize_shards.world import Worker

ALONE = Worker()


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 5), st.integers(0, 9))
def test_batches_pass_over_everything_from_any_batch_on(n: int, size: int, seed: int, start: int) -> None:
    drawn = list(islice(order_of(n, size, seed), 3 * n))
    assert all(len(index) == min(n, size) for index in drawn)
    flat = np.concatenate(drawn)
    for at in range(0, len(flat) - n + 1, n):
        assert sorted(flat[at : at + n]) == list(range(n)), "each pass sees everything once"
    later = list(islice(order_of(n, size, seed, start), 3))
    assert all(np.array_equal(a, b) for a, b in zip(later, islice(order_of(n, size, seed), start, None), strict=False))


def test_workers_share_a_batch_of_memory() -> None:
    source = InMemory(np.arange(40))
    together = source.batches(8, 0, ALONE)
    two = [source.batches(4, 0, Worker(rank, 2)) for rank in range(2)]
    for _ in range(12):
        assert sorted(next(together)) == sorted(np.concatenate([next(one) for one in two]))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_fewer_views_than_workers_are_shared(n: int) -> None:
    for rank in range(4):
        assert len(next(InMemory(np.arange(n)).batches(8, 0, Worker(rank, 4)))) >= 1


def test_samples_are_spread_evenly() -> None:
    assert InMemory(np.arange(10)).sample(5).tolist() == [0, 2, 4, 6, 8]
    assert len(InMemory(np.arange(10)).sample(50)) == 10
    assert len(as_source(np.arange(3))) == 3


def blocks(number: int) -> np.ndarray:
    """Block b holds 100 b, 100 b + 1, ...; every third one is empty, as a shard of nulls is."""
    return np.arange(0 if number % 3 == 2 else 5 + number % 2) + 100 * number


def test_a_stream_gives_every_view_of_a_block_in_an_order_of_its_own() -> None:
    batches = Streamed(blocks, np.arange(3)).batches(2, 0, ALONE)
    drawn = [next(batches) for _ in range(5)]
    batches.close()
    assert sorted(np.concatenate(drawn[:2]) // 100) == [0] * 4
    assert sorted(np.concatenate(drawn[2:])) == list(range(100, 106)), "block 1 whole; the fifth view of block 0 waits"
    assert drawn[0].tolist() != [0, 1] or drawn[1].tolist() != [2, 3]


@given(st.integers(0, 12))
def test_a_stream_goes_on_from_any_position(stop: int) -> None:
    source = Streamed(blocks, np.arange(3))
    whole = source.batches(2, 7, ALONE)
    for _ in range(stop):
        next(whole)
    later = source.batches(2, 7, ALONE, whole.position)
    for _ in range(6):
        assert np.array_equal(next(whole), next(later))
        assert whole.position == later.position
    whole.close()
    later.close()


def test_a_position_behind_the_end_of_a_block_is_the_next_block() -> None:
    """Workers go on at the position of the first of them, whose block may be longer than theirs."""
    source = Streamed(lambda number: np.arange(3 if number < 2 else 12) + 100 * number, np.arange(3))
    for at in (1, 2):
        batches = source.batches(2, 0, ALONE, (0, at))
        assert [sorted(next(batches) // 100) for _ in range(2)] == [[1, 1], [2, 2]]
        batches.close()


def test_workers_of_a_stream_read_different_blocks() -> None:
    read: dict[int, set[int]] = {}
    for rank in range(2):
        batches = Streamed(blocks, np.arange(3)).batches(2, 0, Worker(rank, 2))
        read[rank] = {int(v) // 100 for _ in range(12) for v in next(batches)}
        batches.close()
    assert read[0] and read[1] and not read[0] & read[1]


def test_the_next_block_is_read_while_this_one_is_used() -> None:
    asked, second = list[int](), threading.Event()

    def read(number: int) -> np.ndarray:
        asked.append(number)
        if number == 1:
            second.set()
        return blocks(number)

    batches = Streamed(read, np.arange(3)).batches(2, 0, ALONE)
    next(batches)
    assert second.wait(10), "block 1 was read before it was needed"
    batches.close()
    assert asked == [0, 1], "and no further: two blocks are all that is held"


def test_a_stream_of_nothing_ends_and_an_error_of_the_reader_arrives() -> None:
    batches = Streamed(lambda number: np.zeros(0), np.zeros(0), empty=5).batches(2, 0, ALONE)
    with pytest.raises(ValueError, match="blocks in a row hold no view"):
        next(batches)
    batches.close()

    def broken(number: int) -> np.ndarray:
        if number:
            raise OSError("the disk is gone")
        return blocks(0)

    batches = Streamed(broken, np.zeros(1)).batches(4, 0, ALONE)
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    batches.close()
