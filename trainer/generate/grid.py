"""Decoding of fixed slots (grids and vectors) in a few rounds.

Each round encodes what is known so far, revealed tokens included, and runs decoder and heads on open positions only:
all of them where the surest are kept (MaskGIT), only those that will be kept where the order is random (ROAR). The
encoder is bidirectional, so new tokens change all of its context; nothing of a round could be kept for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.generate.context import Rows, Shown, encode
from trainer.generate.decoding import Decoding, Part
from trainer.generate.guidance import Pass
from trainer.generate.sampling import Head, Noise, Picker
from trainer.generate.schedule import reveal_counts, temperatures
from trainer.model import Model
from trainer.streams import Stream

Bools = npt.NDArray[np.bool_]
ShownOf = Callable[[Pass, Sequence[int]], Rows]  # what a pass shows of the samples with these numbers


def decode_grid(
    model: Model, index: int, stream: Stream, shown: ShownOf, how: Decoding, passes: Sequence[Pass], pick: Picker,
    head: Head, noise: Noise, parts: Sequence[Part | None],
) -> npt.NDArray[np.uint16]:  # fmt: skip
    """Tokens uint16 (B, T) of stream number `index`; those that `parts` knows stay as they are."""
    batch, length = len(parts), stream.length
    out, known = np.zeros((batch, length), np.uint16), np.zeros((batch, length), bool)
    for row, part in enumerate(parts):
        if part is not None:
            out[row], known[row] = np.where(part.known, part.ids, 0), part.known
    counts = np.array([reveal_counts(int(n), how.steps, how.counts) for n in length - known.sum(axis=1)], np.int64)
    heat = temperatures(how.temperature, how.steps, how.cooling)
    random = how.order_for(stream) == "roar"
    turn = np.argsort(np.argsort(noise.uniform("order", 0, length), axis=1), axis=1) if random else None
    for step in range(how.steps if batch else 0):
        active = np.flatnonzero(counts[:, step])
        if not len(active):
            break
        keep = counts[active, step]
        asked = ~known[active]
        if turn is not None:
            asked = _first(np.where(asked, -turn[active], -np.inf), keep)
        rows = [
            [Shown(index, np.flatnonzero(known[r]), out[r, known[r]])] for r in active
        ]  # what was revealed joins the input
        logits = _scores(model, index, head, [(p, _joined(shown(p, active.tolist()), rows)) for p in passes], asked)
        uniform = noise.uniform("pick", step, length, active.tolist())[asked] if heat[step] else np.zeros(len(logits))
        places, sure = pick(logits, float(heat[step]), uniform)
        score = np.full(asked.shape, -np.inf)
        score[asked] = sure.cpu().numpy()
        chosen = asked if turn is not None else _first(score, keep)
        drawn = np.zeros(asked.shape, np.uint16)
        drawn[asked] = head.ids(places).cpu().numpy()
        out[active] = np.where(chosen, drawn, out[active])
        known[active] |= chosen
    return out


def grid_probabilities(
    model: Model, index: int, stream: Stream, rows: int, shown: ShownOf, passes: Sequence[Pass]
) -> npt.NDArray[np.float32]:
    """(rows, T, vocab): what the model holds of each position before any is revealed."""
    asked = np.ones((rows, stream.length), bool)
    contexts = [(p, shown(p, range(rows))) for p in passes]
    scores = _scores(model, index, Head(model, stream, None), contexts, asked)
    return np.asarray(scores.float().softmax(-1).unflatten(0, asked.shape).cpu().numpy(), np.float32)


def _first(score: npt.NDArray[np.float64], count: npt.NDArray[np.int64]) -> Bools:
    """The `count` highest scores of each row; of equal ones the first."""
    rank = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray((rank < count[:, None]) & np.isfinite(score))


def _joined(given: Rows, more: Rows) -> Rows:
    return [[*a, *b] for a, b in zip(given, more, strict=True)]


def _scores(model: Model, index: int, head: Head, contexts: Sequence[tuple[Pass, Rows]], asked: Bools) -> Tensor:
    """Weighted scores (N, n) of the positions that are asked for, (B, T) bool, in row-major order."""
    device = next(model.parameters()).device
    width = int(asked.sum(axis=1).max())
    place = np.argsort(~asked, axis=1, kind="stable")[:, :width]  # the asked positions of each row first, in order
    real = torch.from_numpy(np.take_along_axis(asked, place, axis=1)).to(device)
    at = torch.from_numpy(place).to(device) * real
    which, nothing = torch.full_like(at, index), torch.zeros_like(at)
    total: Tensor | None = None
    for one, rows in contexts:
        hidden = model.decode(nothing, which, at, real, *encode(model, rows, device))
        scores = head.scores(hidden[real])
        if len(contexts) > 1:
            scores = scores.float() * one.factor
        total = scores if total is None else total + scores
    assert total is not None, "guidance gives at least one pass"
    return total
