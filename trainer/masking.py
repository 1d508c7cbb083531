"""Masks a whole batch at once: which tokens the encoder sees, which the decoder must predict. Pure numpy.

Inputs and targets are disjoint: of image-like streams and vectors random positions, of sequences spans or pairs (see
spans.py). Both budgets are filled wherever a sample has that many tokens in streams its mixture component allows; a
sample with fewer than n_in + n_out tokens has them shared between input and target in proportion. A sample that lacks a
modality uses the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt

from trainer.mixture import Component, Floats, Mixture, log_dirichlet, share, used_share
from trainer.spans import Pieces, random_order, ranges, span_shape, split_pairs, split_spans
from trainer.streams import Batch, Stream, Tokens

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Masked:
    """A masked batch: arrays of static shape, streams one after another in each row, padding at the end.

    in_ids, in_stream, in_pos: (B, n_in) int64: token, index of its stream, position in it. in_mask: (B, n_in), True
    where real. out_*: the same for the n_out targets. dec_ids: (B, n_out) int64: the decoder's input, the symbol before
    the target in a sequence; unused (0) in image-like streams. Padding: 0 in all of them. component: (B,) which one was
    drawn. values: (B, L, width) float16 of each value stream; an input of one has the row of its vector as token.
    """

    in_ids: Ints
    in_stream: Ints
    in_pos: Ints
    in_mask: Bools
    out_ids: Ints
    dec_ids: Ints
    out_stream: Ints
    out_pos: Ints
    out_mask: Bools
    component: Ints
    values: Mapping[str, Vectors] = field(default_factory=dict)

    def __getitem__(self, rows: slice) -> Masked:
        values = {name: array[rows] for name, array in self.values.items()}
        return Masked(**{name: getattr(self, name)[rows] for name in ARRAYS}, values=values)

    @staticmethod
    def join(pieces: Sequence[Masked]) -> Masked:
        """Batches one after another."""
        values = {name: _stack([piece.values[name] for piece in pieces]) for name in pieces[0].values}
        return Masked(**{n: np.concatenate([getattr(p, n) for p in pieces]) for n in ARRAYS}, values=values)

    def arrays(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """What the model takes, by the name of its argument."""
        return {name: getattr(self, name) for name in ARRAYS if name != "component"}


ARRAYS = tuple(part.name for part in fields(Masked) if part.name != "values")


def _stack(parts: Sequence[Vectors]) -> Vectors:
    """Vectors of batches one after another, (B, L, width), filled up with zeros to the longest."""
    longest = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, longest - part.shape[1]), (0, 0))) for part in parts])


@dataclass(frozen=True)
class Budget:
    """Tokens each stream of each sample was given: (B, M) int64 both."""

    inputs: Ints
    targets: Ints


class Masker:
    """Masks batches of some streams with one mixture and one pair of budgets."""

    def __init__(
        self,
        streams: Sequence[Stream],
        components: Sequence[Component],
        n_in: int,
        n_out: int,
        has: Bools | None = None,
    ) -> None:
        """has: (data sets, streams) which data set has which; a component is drawn only where it can be used.

        ValueError where none can.
        """
        self.streams, self.n_in, self.n_out = tuple(streams), n_in, n_out
        self.mixture = Mixture(components, [s.name for s in streams], [s.name for s in streams if s.values])
        self.usable = None if has is None else self.mixture.usable(has)
        if self.usable is not None and not self.usable.any(axis=1).all():
            which = int(np.flatnonzero(~self.usable.any(axis=1))[0])
            raise ValueError(
                f"no mixture component both shows and asks for streams of data set {which}; add one such as all2all"
            )
        self._sequence = np.array([stream.kind == "sequence" for stream in streams])
        self._pairs = np.array([stream.pairs for stream in streams])
        self._values = np.array([stream.values for stream in streams])

    def __call__(self, batch: Batch, rng: np.random.Generator, source: Ints | None = None) -> Masked:
        """Mask a batch that holds every stream of the masker. The same batch and rng state give the same result.

        source: the data set of each sample, where there are several.
        """
        columns = [batch[stream.name] for stream in self.streams]
        length = np.stack([column.length for column in columns], axis=1)
        valid = np.stack([column.valid for column in columns], axis=1)
        component = self.mixture.draw(len(length), rng, source, self.usable)
        budget = self.divide(length, valid, component, rng)
        pieces = [
            self._split(s, column, budget.inputs[:, s], budget.targets[:, s], rng) for s, column in enumerate(columns)
        ]
        return replace(self._assemble(pieces, component), values=self._vectors(batch))

    def _vectors(self, batch: Batch) -> dict[str, Vectors]:
        """The vectors of every value stream, one zero where no sample of the batch has any: a model reads them all."""
        found = {s.name: batch[s.name] for s in self.streams if s.values}
        width = {s.name: s.width for s in self.streams}
        return {
            name: np.zeros((len(part.length), 1, width[name]), np.float16) if part.values is None else part.values
            for name, part in found.items()
        }

    def divide(self, length: Ints, valid: Bools, component: Ints, rng: np.random.Generator) -> Budget:
        """Tokens for each stream, drawn from the components. length, valid: (B, M); component: (B,)."""
        length = np.where(self._pairs, length // 2 * 2, length)
        want_in = log_dirichlet(self.mixture.alpha_in[component], rng)
        want_out = log_dirichlet(self.mixture.alpha_out[component], rng)
        kept = self.mixture.keep[component]
        supply = np.where(self._values, 0, length).sum(axis=1)  # vectors cannot be asked for
        n_in = np.minimum(self.n_in, np.maximum(supply, 1) * self.n_in // (self.n_in + self.n_out))

        def left(inputs: Ints) -> Ints:
            """Tokens that may still be shown."""
            rest: Ints = np.minimum(n_in - inputs[:, ~self._values].sum(axis=1), self.n_in - inputs.sum(axis=1))
            return rest

        inputs, free = np.zeros_like(length), np.where(kept, 0, length)
        for s in np.flatnonzero(kept.any(axis=0)):
            most = self.n_in - inputs.sum(axis=1) if self._values[s] else left(inputs)
            inputs[:, s] = np.where(kept[:, s], np.minimum(length[:, s], most), 0)
        if self.mixture.few.any():
            shown = inputs[:, ~self._values].sum(axis=1)
            n_in = shown + np.rint((n_in - shown) * used_share(self.mixture.few[component], rng)).astype(np.int64)
        if self._values.any():
            vectors = np.where(self._values & np.isfinite(want_in), free, 0).sum(axis=1)
            both = np.minimum(self.n_in - inputs.sum(axis=1), left(inputs) + vectors)
            inputs += np.where(self._values, share(want_in, free, both), 0)
        inputs += share(np.where(self._values, -np.inf, want_in), free, left(inputs))
        n_in = np.minimum(n_in + inputs[:, self._values].sum(axis=1), self.n_in)
        inputs -= np.where(self._pairs, inputs % 2, 0)

        targets = share(
            want_out, self._target_room(length, valid, inputs, want_in, kept), np.full(len(length), self.n_out)
        )
        inputs = self._refill(length, inputs, targets, want_in, n_in)
        return Budget(inputs, targets)

    def _target_room(self, length: Ints, valid: Bools, inputs: Ints, want_in: Floats, kept: Bools) -> Ints:
        """The most targets each stream can take beside its inputs, [EOS] included: (B, M).

        A masked text costs sentinels on both sides, so what it shows and what it asks for need not add up to its
        length. Where the image-like streams can make up for a shorter input, a text may ask for all of itself; else the
        two share it.
        """
        fixed = np.where(~(self._sequence | self._values) & np.isfinite(want_in), length, 0).sum(axis=1, keepdims=True)
        plenty = fixed >= self.n_in + self.n_out
        alone = (inputs == 0) | (plenty & ~kept)
        text = np.where(alone, length + 1, length - inputs)
        pairs = np.where((length > inputs) | (length == 0), length - inputs + 1, 0)
        sequence = np.where(self._pairs, pairs, text)
        return np.where(valid, np.where(self._sequence, sequence, length - inputs), 0)

    def _refill(self, length: Ints, inputs: Ints, targets: Ints, want_in: Floats, n_in: Ints) -> Ints:
        """Give the inputs that masked texts will not use (and halves of pairs) to the image-like streams."""
        spent = inputs.copy()
        for s in np.flatnonzero(self._sequence & ~self._pairs):
            rows = np.flatnonzero(inputs[:, s] > 0)
            if len(rows):
                masked, spans = span_shape(length[rows, s], inputs[rows, s], targets[rows, s])
                spent[rows, s] = length[rows, s] - masked + spans
        room = np.where(self._sequence | self._values, 0, length - inputs - targets)
        return inputs + share(want_in, room, n_in - spent.sum(axis=1))

    def _split(self, s: int, tokens: Tokens, a_in: Ints, a_out: Ints, rng: np.random.Generator) -> Pieces:
        if self._pairs[s]:
            return split_pairs(tokens, a_in, a_out, rng)
        if self._sequence[s]:
            return split_spans(tokens, a_in, a_out, rng)
        return split_positions(tokens, a_in, a_out, rng)

    def _assemble(self, pieces: Sequence[Pieces], component: Ints) -> Masked:
        """Put the pieces of all streams side by side in arrays of static shape."""
        batch = len(component)
        inputs = _lay_out([(p.in_row, p.in_ids, p.in_pos) for p in pieces], batch, self.n_in)
        targets = _lay_out([(p.out_row, p.out_ids, p.out_pos, p.dec_ids) for p in pieces], batch, self.n_out)
        in_mask, in_stream, (in_ids, in_pos) = inputs
        out_mask, out_stream, (out_ids, out_pos, dec_ids) = targets
        return Masked(in_ids, in_stream, in_pos, in_mask, out_ids, dec_ids, out_stream, out_pos, out_mask, component)


def split_positions(tokens: Tokens, a_in: Ints, a_out: Ints, rng: np.random.Generator) -> Pieces:
    """Random disjoint subsets of the positions of a fixed-width stream. a_in + a_out <= its length."""
    used = np.flatnonzero(a_in + a_out > 0)
    order = random_order(tokens.length[used], tokens.ids.shape[1], rng)
    in_rows, in_cols = ranges(a_in[used])
    out_rows, out_cols = ranges(a_out[used])
    in_pos, out_pos = order[in_rows, in_cols], order[out_rows, out_cols + a_in[used][out_rows]]
    in_sample, out_sample = used[in_rows], used[out_rows]
    in_ids = tokens.ids[in_sample, in_pos].astype(np.int64)
    out_ids = tokens.ids[out_sample, out_pos].astype(np.int64)
    return Pieces(in_sample, in_pos, in_ids, out_sample, out_pos, out_ids, np.zeros_like(out_ids))


def _lay_out(parts: Sequence[tuple[Ints, ...]], batch: int, width: int) -> tuple[Bools, Ints, list[Ints]]:
    """Scatter flat pieces (row, value, value, ...) of each stream into (B, width) arrays, stream after stream in each
    row.
    """
    values = [np.zeros((batch, width), np.int64) for _ in parts[0][1:]]
    stream = np.zeros((batch, width), np.int64)
    used = np.zeros(batch, np.int64)
    for s, (rows, *columns) in enumerate(parts):
        count = np.bincount(rows, minlength=batch)
        if (np.diff(rows) < 0).any():  # a text stream lists its masked texts before its whole ones
            sort = np.argsort(rows, kind="stable")
            rows, columns = rows[sort], [column[sort] for column in columns]
        place = used[rows] + ranges(count)[1]
        for target, column in zip(values, columns, strict=True):
            target[rows, place] = column
        stream[rows, place] = s
        used = used + count
    return np.arange(width) < used[:, None], stream, values
