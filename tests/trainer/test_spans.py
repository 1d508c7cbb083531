"""Spans and pairs: what is shown and what is asked for make the text again, and every mask is equally likely."""

from __future__ import annotations

from collections import Counter
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.spans import Pieces, choose, random_order, ranges, span_mask, span_shape, split_pairs, split_spans
from trainer.streams import EOS, SENTINEL, SENTINELS, SOS, Tokens

FIRST = SENTINEL + SENTINELS


def texts(lengths: list[int]) -> Tokens:
    """Texts of different words, garbage behind them."""
    width = max(1, *lengths)
    ids = np.tile(np.arange(FIRST, FIRST + width, dtype=np.uint16), (len(lengths), 1))
    ids[np.arange(width) >= np.array(lengths)[:, None]] = 60_000
    return Tokens(ids, np.array(lengths, np.int64), np.ones(len(lengths), np.bool_))


def of_row(pieces: Pieces, row: int) -> tuple[list[int], list[int], list[int]]:
    """(shown, asked for, decoder's input) of one sample, with positions checked to be 0, 1, 2, ..."""
    shown, asked = pieces.in_row == row, pieces.out_row == row
    assert pieces.in_pos[shown].tolist() == list(range(shown.sum()))
    assert pieces.out_pos[asked].tolist() == list(range(asked.sum()))
    return pieces.in_ids[shown].tolist(), pieces.out_ids[asked].tolist(), pieces.dec_ids[asked].tolist()


def fill_in(shown: list[int], target: list[int]) -> list[int]:
    """Put the spans of a whole target back in the place of their sentinels."""
    spans: dict[int, list[int]] = {}
    for token in target[:-1]:
        if SENTINEL <= token < FIRST:
            assert token == SENTINEL + len(spans), "sentinels are counted from 0"
            spans[token] = []
        else:
            spans[max(spans)].append(token)
    assert target[-1] == EOS and all(spans.values()), "no span is empty"
    return [word for token in shown for word in spans.get(token, [token])]


@st.composite
def budgets(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Lengths, and what each text was given: a_in <= length, a_out <= length + 1."""
    lengths = draw(st.lists(st.integers(0, 40), min_size=1, max_size=8))
    return lengths, [draw(st.integers(0, n)) for n in lengths], [draw(st.integers(0, n + 1)) for n in lengths]


@settings(max_examples=200)
@given(budgets(), st.integers(0, 2**32))
def test_spans_show_no_more_and_ask_no_less_than_they_were_given(
    case: tuple[list[int], list[int], list[int]], seed: int
) -> None:
    lengths, a_in, a_out = (np.array(part, np.int64) for part in case)
    pieces = split_spans(texts(case[0]), a_in, a_out, np.random.default_rng(seed))
    masked, spans = span_shape(lengths, np.maximum(a_in, 1), a_out)
    for row, length in enumerate(case[0]):
        text = list(range(FIRST, FIRST + length))
        shown, asked, before = of_row(pieces, row)
        assert len(shown) <= a_in[row] and len(asked) == a_out[row]
        if a_in[row] == 0:
            assert ([*before, *asked[-1:]] if asked else []) == [SOS, *text, EOS][: len(asked) + 1 if asked else 0]
        elif a_in[row] == length and a_out[row] == 0:
            assert shown == text
        else:
            assert len(shown) == length - masked[row] + spans[row]
            kept = [token for token in shown if token >= FIRST]
            sentinels = [token for token in shown if token < FIRST]
            assert sentinels == list(range(SENTINEL, SENTINEL + spans[row]))
            assert kept == sorted(kept) and len(kept) == length - masked[row]
            hidden = [token for token in (*before, *asked[-1:]) if token >= FIRST]
            assert not set(hidden) & set(kept), "what is asked for is not shown"


@settings(max_examples=200)
@given(st.integers(1, 60), st.integers(0, 2**32), st.data())
def test_a_text_comes_back_from_what_is_shown_and_asked_for(length: int, seed: int, data: st.DataObject) -> None:
    a_in = data.draw(st.integers(1, length))
    lengths, given_in = np.array([length]), np.array([a_in])
    whole = next(  # the number of predictions that just holds the whole target
        a_out
        for a_out in range(1, length + 1000)
        if sum(int(n[0]) for n in span_shape(lengths, given_in, np.array([a_out]))) == a_out
    )
    if whole > length + 1:
        return  # such a text is never given so much
    pieces = split_spans(texts([length]), given_in, np.array([whole]), np.random.default_rng(seed))
    shown, asked, before = of_row(pieces, 0)
    assert asked[:-1] == before[1:], "each prediction sees the symbol before it"
    assert fill_in(shown, [before[0], *asked]) == list(range(FIRST, FIRST + length))


def test_every_span_mask_is_equally_likely() -> None:
    length, masked, spans, n = 7, 4, 2, 20_000
    full = (np.full(n, length), np.full(n, masked), np.full(n, spans))
    mask = span_mask(*full, length, np.random.default_rng(0))
    assert (mask.sum(axis=1) == masked).all()
    runs = mask[:, 0] + (mask[:, 1:] & ~mask[:, :-1]).sum(axis=1)
    assert (runs == spans).all()
    kinds = comb(masked - 1, spans - 1) * comb(length - masked + 1, spans)
    seen = Counter(map(bytes, mask))
    assert len(seen) == kinds
    assert all(abs(count - n / kinds) < 5 * np.sqrt(n / kinds) for count in seen.values())


def test_spans_have_three_tokens_on_average_where_there_is_room() -> None:
    masked, spans = span_shape(np.array([200]), np.array([170]), np.array([60]))
    assert 2 < masked[0] / spans[0] < 4


@settings(max_examples=100)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 2**32), st.data())
def test_pairs_are_divided_and_never_split(pairs: list[int], seed: int, data: st.DataObject) -> None:
    a_in = np.array([2 * data.draw(st.integers(0, n)) for n in pairs])
    a_out = np.array([data.draw(st.integers(0, 2 * n - a + 1)) for n, a in zip(pairs, a_in.tolist(), strict=True)])
    made = split_pairs(texts([2 * n for n in pairs]), a_in, a_out, np.random.default_rng(seed))
    for row, n in enumerate(pairs):
        shown, asked, before = of_row(made, row)
        assert (len(shown), len(asked)) == (a_in[row], a_out[row])
        symbols = [*before, *asked[-1:]]
        if asked:
            assert symbols[0] == SOS and before[1:] == asked[:-1]
        whole = len(asked) == 2 * n - len(shown) + 1
        assert not whole or symbols.pop() == EOS
        words = [*shown, *symbols[1:]]
        assert len(set(words)) == len(words) and set(words) <= set(range(FIRST, FIRST + 2 * n))
        firsts = [(shown[i], shown[i + 1]) for i in range(0, len(shown), 2)]
        firsts += [(symbols[i], symbols[i + 1]) for i in range(1, len(symbols) - 1, 2)]
        assert all((a - FIRST) % 2 == 0 and b == a + 1 for a, b in firsts)
        assert not whole or len(words) == 2 * n, "together they are all of it"


def test_pairs_come_in_every_order() -> None:
    made = split_pairs(texts([4] * 600), np.zeros(600, np.int64), np.full(600, 5), np.random.default_rng(0))
    first = made.out_ids.reshape(600, 5)[:, 0]
    assert set(first.tolist()) == {FIRST, FIRST + 2}
    assert abs((first == FIRST).sum() - 300) < 5 * np.sqrt(150)


def test_ranges() -> None:
    rows, cols = ranges(np.array([2, 0, 3]))
    assert rows.tolist() == [0, 0, 2, 2, 2] and cols.tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("width", [1, 2, 3, 64, 65])
def test_random_orders_are_permutations_of_the_first_columns(width: int) -> None:
    among = np.arange(width + 1)
    order = random_order(among, width, np.random.default_rng(0))
    for row, count in zip(order, among, strict=True):
        assert sorted(row[:count].tolist()) == list(range(count))


def test_every_order_is_equally_likely_and_chosen_columns_are_among_the_first() -> None:
    rng = np.random.default_rng(0)
    seen = Counter(map(tuple, random_order(np.full(6000, 3), 5, rng)[:, :3].tolist()))
    assert len(seen) == 6 and all(abs(count - 1000) < 5 * np.sqrt(1000) for count in seen.values())
    chosen = choose(np.array([0, 2, 4]), np.array([0, 3, 4]), 6, rng)
    assert chosen.sum(axis=1).tolist() == [0, 2, 4] and not chosen[1, 3:].any()
