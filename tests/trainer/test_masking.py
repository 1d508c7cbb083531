"""Masking: budgets kept to the token, inputs and targets disjoint, and a batch masked as its samples one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import masking
from trainer.masking import Masked, Masker, split_positions
from trainer.mixture import (
    Component,
    all2all,
    biased,
    demo,
    from_one,
    log_dirichlet,
    published,
    steered,
    steering,
    used_share,
)
from trainer.streams import EOS, SENTINEL, SENTINELS, SOS, Batch, Stream, Tokens

FIRST = SENTINEL + SENTINELS
TEXT = 400
COMPONENTS: dict[str, tuple[Component, ...]] = {
    "few": (all2all(0.01),), "many": (all2all(10.0),), "from rgb": (from_one("tok_rgb"),),
    "caption": (biased("tok_caption"),), "published": published(), "demo": demo(),
    "steered": (steered("tok_caption", "tok_rgb"),), "steering": steering(palette="tok_caption", says="tok_dinov2_global"),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A masker, a batch of texts of different words, and a seed."""

    masker: Masker
    batch: Batch
    seed: int

    def mask(self) -> Masked:
        return self.masker(self.batch, np.random.default_rng(self.seed))


def streams_of(image: int, vector: int, words: int, pairs: int) -> tuple[Stream, ...]:
    return (
        Stream("tok_rgb", "image", 64, image, (1, image)), Stream("tok_dinov2_global", "vector", 32, vector),
        Stream("tok_caption", "sequence", TEXT, words), Stream("tok_metadata", "sequence", TEXT, 2 * pairs, pairs=True),
    )  # fmt: skip


def batch_of(streams: Sequence[Stream], valid: np.ndarray, rng: np.random.Generator) -> Batch:
    """Random tokens; texts of random lengths, their words different from each other, garbage behind them."""
    batch = {}
    for s, stream in enumerate(streams):
        ok = valid[:, s]
        if stream.kind != "sequence":
            ids = rng.integers(0, stream.vocab, (len(ok), stream.length)).astype(np.uint16)
            batch[stream.name] = Tokens(ids, np.where(ok, stream.length, 0), ok)
            continue
        length = rng.integers(0, stream.length + 1, len(ok)) // (1 + stream.pairs) * (1 + stream.pairs)
        ids = np.tile(np.arange(FIRST, FIRST + stream.length, dtype=np.uint16), (len(ok), 1))
        batch[stream.name] = Tokens(ids, np.where(ok, length, 0), ok)
    return batch


@st.composite
def cases(draw: st.DrawFn, kind: str | None = None) -> Case:
    streams = streams_of(*(draw(st.integers(1, n)) for n in (30, 6, 20, 6)))
    components = COMPONENTS[kind or draw(st.sampled_from(sorted(COMPONENTS)))]
    masker = Masker(streams, components, draw(st.integers(1, 48)), draw(st.integers(1, 48)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    valid = rng.random((draw(st.integers(1, 8)), len(streams))) < draw(st.sampled_from([0.5, 0.8, 1.0]))
    return Case(masker, batch_of(streams, valid, rng), draw(st.integers(0, 2**32)))


def part(masked: Masked, row: int, stream: int) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]]]:
    """[(position, token)] shown and [(position, token, symbol before)] asked for, of one stream of one sample."""
    shown = masked.in_mask[row] & (masked.in_stream[row] == stream)
    asked = masked.out_mask[row] & (masked.out_stream[row] == stream)
    return (
        list(zip(masked.in_pos[row][shown].tolist(), masked.in_ids[row][shown].tolist(), strict=True)),
        list(zip(*(a[row][asked].tolist() for a in (masked.out_pos, masked.out_ids, masked.dec_ids)), strict=True)),
    )


def check_fixed(tokens: np.ndarray, shown: list[tuple[int, int]], asked: list[tuple[int, int, int]]) -> None:
    """Of an image or a vector: true tokens, each position at most once, either shown or asked for."""
    places = [position for position, *_ in (*shown, *asked)]
    assert len(set(places)) == len(places), "inputs and targets are disjoint"
    assert all(tokens[position] == token for position, token, *_ in (*shown, *asked))
    assert all(before == 0 for *_, before in asked)


def check_text(text: list[int], shown: list[tuple[int, int]], asked: list[tuple[int, int, int]]) -> None:
    """Of a text or pairs: numbered from 0, each symbol asked for after the one before, nothing shown is asked for."""
    for symbols in (shown, asked):
        assert [position for position, *_ in symbols] == list(range(len(symbols)))
    words = [token for _, token in shown]
    target = [asked[0][2], *(token for _, token, _ in asked)] if asked else []
    assert [before for *_, before in asked] == target[:-1]
    assert not target or target[0] in (SOS, SENTINEL)
    assert EOS not in target[:-1], "[EOS] ends a target"
    real = [token for token in (*words, *target) if token >= FIRST]
    assert len(set(real)) == len(real) and set(real) <= set(text), "inputs and targets are disjoint"
    if target[-1:] == [EOS]:
        assert set(real) == set(text), "a target that was not cut asks for all that is not shown"


def all_pairs(words: list[int]) -> bool:
    """Whether these are whole pairs: first an even word of the text, then the next."""
    return len(words) % 2 == 0 and all(
        (a - FIRST) % 2 == 0 and b == a + 1 for a, b in zip(words[::2], words[1::2], strict=True)
    )


@settings(max_examples=250)
@given(cases())
def test_what_is_shown_and_asked_for_is_true_disjoint_and_within_the_budgets(case: Case) -> None:
    masker, masked = case.masker, case.mask()
    batch = len(masked.component)
    assert masked.in_ids.shape == (batch, masker.n_in) and masked.out_ids.shape == (batch, masker.n_out)
    for mask, arrays in (
        (masked.in_mask, (masked.in_ids, masked.in_stream, masked.in_pos)),
        (masked.out_mask, (masked.out_ids, masked.dec_ids, masked.out_stream, masked.out_pos)),
    ):
        assert (np.diff(mask.astype(int), axis=1) <= 0).all(), "padding comes last"
        assert all((array[~mask] == 0).all() for array in arrays)
    for row in range(batch):
        for s, stream in enumerate(masker.streams):
            tokens = case.batch[stream.name]
            shown, asked = part(masked, row, s)
            if not tokens.valid[row]:
                assert not shown and not asked, "a sample that lacks a modality neither shows it nor is asked for it"
            elif stream.kind == "sequence":
                check_text(tokens.ids[row, : tokens.length[row]].tolist(), shown, asked)
                assert not stream.pairs or all_pairs([token for _, token in shown])
            else:
                check_fixed(tokens.ids[row], shown, asked)
            component = masked.component[row]
            assert masker.mixture.alpha_in[component, s] > 0 or masker.mixture.keep[component, s] or not shown
            assert masker.mixture.alpha_out[component, s] > 0 or not asked


@settings(max_examples=150)
@given(cases("few") | cases("many"), st.integers(0, 40))
def test_both_budgets_are_met_exactly_where_there_are_tokens_enough(case: Case, more: int) -> None:
    """However few or short the other streams of a sample, an image of that many tokens takes what they cannot."""
    n_in, n_out = case.masker.n_in, case.masker.n_out
    image = n_in + n_out + more
    streams = (Stream("tok_rgb", "image", 64, image, (1, image)), *case.masker.streams[1:])
    rows = len(case.batch["tok_rgb"].valid)
    rgb = Tokens(np.zeros((rows, image), np.uint16), np.full(rows, image), np.ones(rows, np.bool_))
    masker = Masker(streams, [all2all(0.01), all2all(0.1), all2all(1.0), all2all(10.0)], n_in, n_out)
    masked = masker({**case.batch, "tok_rgb": rgb}, np.random.default_rng(case.seed))
    assert masked.in_mask.all() and masked.out_mask.all()


@settings(max_examples=150)
@given(cases("few") | cases("many"))
def test_a_sample_with_any_token_is_asked_for_something(case: Case) -> None:
    masked = case.mask()
    valid = np.stack([case.batch[s.name].valid for s in case.masker.streams], axis=1)
    assert (masked.out_mask.any(axis=1) == valid.any(axis=1)).all()


@settings(max_examples=100)
@given(cases())
def test_the_masked_batch_has_the_tokens_that_were_divided(case: Case) -> None:
    masker, masked = case.masker, case.mask()
    columns = [case.batch[s.name] for s in masker.streams]
    length, valid = (np.stack([getattr(c, name) for c in columns], axis=1) for name in ("length", "valid"))
    rng = np.random.default_rng(case.seed)
    component = masker.mixture.draw(len(length), rng)
    budget = masker.divide(length, valid, component, rng)
    assert np.array_equal(component, masked.component)
    for s, stream in enumerate(masker.streams):
        asked = (masked.out_mask & (masked.out_stream == s)).sum(axis=1)
        assert asked.tolist() == budget.targets[:, s].tolist()
        shown = (masked.in_mask & (masked.in_stream == s)).sum(axis=1)
        exact = stream.kind != "sequence" or stream.pairs
        assert (shown == budget.inputs[:, s]).all() if exact else (shown <= budget.inputs[:, s]).all()


@settings(max_examples=100)
@given(cases())
def test_a_batch_is_divided_as_its_samples_one_by_one(case: Case) -> None:
    masker = case.masker
    columns = [case.batch[s.name] for s in masker.streams]
    length, valid = (np.stack([getattr(c, name) for c in columns], axis=1) for name in ("length", "valid"))
    rng = np.random.default_rng(case.seed)
    component = masker.mixture.draw(len(length), rng)
    shares = [log_dirichlet(a[component], rng) for a in (masker.mixture.alpha_in, masker.mixture.alpha_out)]
    used = used_share(masker.mixture.few[component], rng)

    def divide(rows: slice) -> tuple[list[list[int]], list[list[int]]]:
        drawn = iter([shares[0][rows], shares[1][rows]])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(masking, "log_dirichlet", lambda alpha, rng: next(drawn))
            patch.setattr(masking, "used_share", lambda few, rng: used[rows])
            budget = masker.divide(length[rows], valid[rows], component[rows], rng)
        return budget.inputs.tolist(), budget.targets.tolist()

    inputs, targets = divide(slice(None))
    for row in range(len(length)):
        assert divide(slice(row, row + 1)) == ([inputs[row]], [targets[row]])


@settings(max_examples=60)
@given(cases())
def test_the_same_seed_masks_alike_and_the_batch_is_not_touched(case: Case) -> None:
    before = {name: tokens.ids.copy() for name, tokens in case.batch.items()}
    first, again = case.mask(), case.mask()
    for name, array in first.arrays().items():
        assert np.array_equal(array, getattr(again, name)), name
    assert all(np.array_equal(tokens.ids, before[name]) for name, tokens in case.batch.items())


def test_another_seed_masks_otherwise() -> None:
    streams = streams_of(30, 6, 20, 6)
    batch = batch_of(streams, np.ones((4, 4), np.bool_), np.random.default_rng(0))
    masker = Masker(streams, demo(), 20, 20)
    one, two = (masker(batch, np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(one.out_pos, two.out_pos)


def test_a_large_alpha_divides_evenly_and_a_small_one_between_few() -> None:
    streams = [Stream(f"tok_{i}", "vector", 8, 200) for i in range(8)]
    batch = batch_of(streams, np.ones((300, 8), np.bool_), np.random.default_rng(0))
    used = {}
    for alpha in (0.01, 10.0):
        masked = Masker(streams, [all2all(alpha)], 80, 80)(batch, np.random.default_rng(0))
        assert masked.in_mask.all() and masked.out_mask.all()
        used[alpha] = np.mean([len(set(row.tolist())) for row in masked.in_stream])
    assert used[0.01] < 1.5 and used[10.0] > 7.5


def test_what_a_short_modality_cannot_take_is_given_to_the_others() -> None:
    """4M's reference fills 163 of 256 inputs there."""
    streams = [Stream("tok_short", "vector", 8, 2), Stream("tok_long", "vector", 8, 500)]
    batch = batch_of(streams, np.ones((50, 2), np.bool_), np.random.default_rng(0))
    wanted = Component("short", 1.0, {"tok_short": 1000.0, "*": 1.0}, {"*": 1.0})
    masked = Masker(streams, [wanted], 256, 240)(batch, np.random.default_rng(0))
    assert masked.in_mask.all() and masked.out_mask.all()


def test_a_sample_with_few_tokens_shares_them_between_both_sides() -> None:
    streams = [Stream("tok_a", "vector", 8, 30)]
    batch = batch_of(streams, np.ones((20, 1), np.bool_), np.random.default_rng(0))
    masked = Masker(streams, [all2all(1.0)], 100, 50)(batch, np.random.default_rng(0))
    assert set(masked.in_mask.sum(axis=1).tolist()) == {20} and set(masked.out_mask.sum(axis=1).tolist()) == {10}


def test_a_kept_text_is_shown_whole() -> None:
    streams = streams_of(100, 6, 20, 6)
    batch = batch_of(streams, np.ones((50, 4), np.bool_), np.random.default_rng(0))
    masked = Masker(streams, [biased("tok_caption")], 40, 40)(batch, np.random.default_rng(0))
    caption = batch["tok_caption"]
    for row in range(50):
        shown, asked = part(masked, row, 2)
        assert [token for _, token in shown] == caption.ids[row, : caption.length[row]].tolist()
        assert not asked or caption.length[row] == 0


def test_every_position_is_as_likely_to_be_shown() -> None:
    tokens = Tokens(np.zeros((4000, 10), np.uint16), np.full(4000, 10), np.ones(4000, np.bool_))
    pieces = split_positions(tokens, np.full(4000, 3), np.full(4000, 2), np.random.default_rng(0))
    for places, share in ((pieces.in_pos, 0.3), (pieces.out_pos, 0.2)):
        count = np.bincount(places, minlength=10)
        assert np.abs(count - 4000 * share).max() < 5 * np.sqrt(4000 * share * (1 - share))


@pytest.mark.parametrize("rows", [0, 3])
def test_samples_without_any_token_give_padding(rows: int) -> None:
    streams = streams_of(4, 2, 3, 2)
    batch = batch_of(streams, np.zeros((rows, 4), np.bool_), np.random.default_rng(0))
    masked = Masker(streams, published(), 8, 8)(batch, np.random.default_rng(0))
    assert masked.in_ids.shape == (rows, 8) and not masked.in_mask.any() and not masked.out_mask.any()


def test_what_is_steered_is_mostly_asked_for_with_little_beside() -> None:
    """The source is shown whole, the rest is of the target: nothing, half of the budget, and all of it, all occur."""
    streams, count = streams_of(64, 1, 4, 1), 2000
    rng = np.random.default_rng(0)
    batch = batch_of(streams, np.ones((count, 4), bool), rng)
    masked = Masker(streams, [steered("tok_caption", "tok_rgb", few=4.0)], 40, 16)(batch, rng)
    shown = [(masked.in_mask & (masked.in_stream == s)).sum(axis=1) for s in range(4)]
    assert shown[2].tolist() == batch["tok_caption"].length.tolist() and not shown[1].any() and not shown[3].any()
    assert masked.out_mask.all() and (masked.out_stream == 0).all()
    room = 40 - shown[2]
    for share in (0.1, 0.5, 0.9):
        assert (shown[0] <= share * room).mean() == pytest.approx(share**0.25, abs=0.06)
    assert 0.2 < (shown[0] == 0).mean() < 0.5 and shown[0].max() > 32
