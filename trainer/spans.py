"""What a sequence shows and what it asks for. Pure numpy, many rows at once.

A sequence t of L tokens is used in one of four ways, by the numbers of tokens it was given in the two budgets (a_in,
a_out):

  a_in = 0             whole:   nothing is shown.                Target [SOS] t [EOS]
  a_in >= L, a_out = 0 shown:   t is shown.                      No target
  otherwise            spans:   t with the i-th masked span replaced by [S_i].
                                Target [S_0] span_0 [S_1] span_1 ... [EOS]
  a stream of pairs    pairs:   some pairs, in random order.     Target [SOS] the other pairs, in random order [EOS]

The first symbol of a target is given, never predicted, and says which it is: [SOS] for all of it, [S_0] to fill in. So
a text is generated from nothing by starting the decoder with [SOS] and stopping at [EOS]. A target longer than its
budget is cut at the end: what is left is an honest prefix. One row of the decoder predicts one symbol from all symbols
before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.streams import EOS, PAD, SENTINEL, SENTINELS, SOS, Tokens

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pieces:
    """The part of one stream in a batch, flat, ordered by sample, then by position.

    in_row: (N,) sample of each visible token; in_pos, in_ids: its position and token. out_row: (R,) sample of each
    target; out_pos: its position (image-like) or number (sequences); out_ids: what is to be predicted; dec_ids: the
    decoder's input there: the symbol before it in a sequence, 0 in image-like streams.
    """

    in_row: Ints
    in_pos: Ints
    in_ids: Ints
    out_row: Ints
    out_pos: Ints
    out_ids: Ints
    dec_ids: Ints


def ranges(count: Ints) -> tuple[Ints, Ints]:
    """For counts (n0, n1, ...): rows 0 (n0 times), 1 (n1 times), ..., and 0..n0-1, 0..n1-1, ... beside them."""
    rows = np.repeat(np.arange(len(count)), count)
    starts = np.cumsum(count) - count
    return rows, np.arange(len(rows)) - starts[rows]


def random_order(among: Ints, width: int, rng: np.random.Generator) -> Ints:
    """A random order of 0..among-1 in the first `among` columns of each row: (B, width); the rest of a row is
    undefined.

    The index sits in the low bits of the random key, so that a plain (vectorised) sort does it.
    """
    bits = max(1, int(width - 1).bit_length())
    index = np.arange(width, dtype=np.uint32)
    keys = (rng.integers(0, 2**32, (len(among), width), dtype=np.uint32) >> bits) << bits | index
    keys[index >= among[:, None]] = np.uint32(0xFFFFFFFF)
    keys.sort(axis=1)
    return (keys & np.uint32((1 << bits) - 1)).astype(np.int64)


def choose(count: Ints, among: Ints, width: int, rng: np.random.Generator) -> Bools:
    """`count` of the first `among` columns of each row, at random: (B, width) bool."""
    chosen = np.zeros((len(count), width), np.bool_)
    rows, cols = ranges(count)
    chosen[rows, random_order(among, width, rng)[rows, cols]] = True
    return chosen


def span_shape(length: Ints, a_in: Ints, a_out: Ints) -> tuple[Ints, Ints]:
    """How many tokens to mask, in how many spans, so that both budgets are kept: (masked, spans), for a_in >= 1.

    The input then has length - masked + spans <= a_in tokens, and the target masked + spans >= a_out of them to
    predict. Spans have three tokens on average, as in T5, where there is room for their sentinels.
    """
    shown = (a_in >= length) & (a_out == 0)
    spans = np.maximum(np.rint(a_out / 4), np.rint((length - a_in) / 2)).astype(np.int64)
    spans = np.clip(spans, 1, np.clip((a_in + 1) // 2, 1, SENTINELS))
    masked = np.maximum(a_out - spans, length + spans - a_in)
    return np.where(shown, 0, masked), np.where(shown, 0, spans)


def span_mask(length: Ints, masked: Ints, spans: Ints, width: int, rng: np.random.Generator) -> Bools:
    """Positions to mask: (B, width) bool with `masked` True in each row, in exactly `spans` runs.

    The masked tokens are cut into non-empty runs at random, and the runs put into different gaps of the visible text at
    random, so every such mask is equally likely.
    """
    cuts = choose(np.maximum(spans - 1, 0), np.maximum(masked - 1, 0), width, rng)
    run_of = np.concatenate([np.zeros((len(length), 1), np.int64), np.cumsum(cuts, axis=1)[:, :-1]], axis=1)
    gaps = choose(spans, np.where(spans > 0, length - masked + 1, 0), width + 1, rng)
    gap_row, gap = np.nonzero(gaps)
    gap_of = np.zeros((len(length), width + 1), np.int64)  # visible tokens before each run
    gap_of[gap_row, ranges(spans)[1]] = gap
    rows, cols = ranges(masked)
    mask = np.zeros((len(length), width), np.bool_)
    mask[rows, cols + gap_of[rows, run_of[rows, cols]]] = True
    return mask


def split_spans(tokens: Tokens, a_in: Ints, a_out: Ints, rng: np.random.Generator) -> Pieces:
    """Cut texts as the module says. a_in, a_out: (B,) tokens given to it; a_in <= length, a_out <= length + 1."""
    spanned = np.flatnonzero(a_in > 0)
    whole = np.flatnonzero((a_in == 0) & (a_out > 0))
    length = tokens.length[spanned]
    width = int(length.max(initial=1))
    ids = tokens.ids[spanned, :width].astype(np.int64)
    masked, spans = span_shape(length, a_in[spanned], a_out[spanned])
    mask = span_mask(length, masked, spans, width, rng)
    start = mask & ~np.concatenate([np.zeros((len(ids), 1), np.bool_), mask[:, :-1]], axis=1)
    span = np.cumsum(start, axis=1) - 1
    keep = (~mask | start) & (np.arange(width) < length[:, None])
    rows, cols = np.nonzero(keep)
    in_ids = np.where(start, SENTINEL + span, ids)[rows, cols]
    in_pos = ranges(keep.sum(axis=1))[1]

    symbols = np.full((len(ids), 2 * width + 2), PAD, np.int64)
    where = (
        np.cumsum(mask, axis=1) + span
    )  # index of a masked token in the target: masked before it, sentinels up to it
    mask_rows, mask_cols = np.nonzero(mask)
    symbols[mask_rows, where[mask_rows, mask_cols]] = ids[mask_rows, mask_cols]
    start_rows, start_cols = np.nonzero(start)
    symbols[start_rows, where[start_rows, start_cols] - 1] = SENTINEL + span[start_rows, start_cols]
    symbols[np.arange(len(ids)), masked + spans] = EOS

    filled = _targets(spanned, symbols, a_out[spanned])
    all_of = _targets(whole, _with_ends(tokens.ids[whole], tokens.length[whole]), a_out[whole])
    targets = [np.concatenate(pair) for pair in zip(filled, all_of, strict=True)]
    return Pieces(spanned[rows], in_pos, in_ids, *targets)


def split_pairs(tokens: Tokens, a_in: Ints, a_out: Ints, rng: np.random.Generator) -> Pieces:
    """Divide the pairs of each row. a_in: (B,) even, a_out: (B,) <= length - a_in + 1 tokens given to it."""
    used = np.flatnonzero(a_in + a_out > 0)
    pairs = tokens.length[used] // 2
    width = max(1, int(pairs.max(initial=0)))
    order = random_order(pairs, width, rng)
    order = np.stack([2 * order, 2 * order + 1], axis=2).reshape(len(used), 2 * width)
    order = np.minimum(order, tokens.ids.shape[1] - 1)  # beyond the pairs of a row anything may stand
    ids = np.take_along_axis(tokens.ids[used], order, axis=1).astype(np.int64)
    rows, cols = ranges(a_in[used])
    rest = 2 * pairs - a_in[used]
    hidden = np.zeros_like(ids)
    rest_rows, rest_cols = ranges(rest)
    hidden[rest_rows, rest_cols] = ids[rest_rows, rest_cols + a_in[used][rest_rows]]
    return Pieces(used[rows], cols, ids[rows, cols], *_targets(used, _with_ends(hidden, rest), a_out[used]))


def _with_ends(ids: npt.NDArray[np.integer], length: Ints) -> Ints:
    """[SOS] ids [EOS], padded: (B, W + 2)."""
    symbols = np.full((len(ids), ids.shape[1] + 2), PAD, np.int64)
    symbols[:, 0] = SOS
    rows, cols = ranges(length)
    symbols[rows, cols + 1] = ids[rows, cols]
    symbols[np.arange(len(ids)), length + 1] = EOS
    return symbols


def _targets(sample: Ints, symbols: Ints, count: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Teacher forcing: (out_row, out_pos, out_ids, dec_ids) of the first `count` predictions of each row."""
    rows, cols = ranges(count)
    return sample[rows], cols, symbols[rows, cols + 1], symbols[rows, cols]
