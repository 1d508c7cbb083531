"""Decoding of sequences token by token: the encoder's context once, keys and values cached.

A whole sequence starts from [SOS]; one with gaps shows its known tokens to the encoder with a sentinel for each gap,
as in training, and starts from [S_0]. A forced beginning (a prompt) goes through the decoder like what it wrote itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.blocks import Cache
from trainer.generate.context import Rows, Shown, encode
from trainer.generate.decoding import Decoding, Part
from trainer.generate.guidance import Pass
from trainer.generate.sampling import Head, Noise, Picker
from trainer.model import Model
from trainer.streams import EOS, PAD, SENTINEL, SENTINELS, SOS, Stream

Ids = npt.NDArray[np.uint16]
ShownOf = Callable[[Pass, Sequence[int]], Rows]


class Track:
    """One pass of the decoder over a growing batch of sequences: context, mask and cache."""

    def __init__(self, model: Model, rows: Rows, device: torch.device) -> None:
        self.model = model
        context, self.mask = encode(model, rows, device)
        self.contexts = model.contexts(context)
        self.past: list[Cache] | None = None

    def step(self, x: Tensor) -> Tensor:
        hidden, self.past = self.model.step(x, self.past, self.contexts, self.mask)
        return hidden


def decode_text(
    model: Model, index: int, stream: Stream, shown: ShownOf, how: Decoding, passes: Sequence[Pass], pick: Picker,
    head: Head, noise: Noise, parts: Sequence[Part | None], prompts: Sequence[Ids | None],
    most: int | None = None,
) -> list[Ids]:  # fmt: skip
    """Ragged uint16 ids of each sample, without [SOS] and [EOS]: known tokens, prompts and what was written."""
    how.order_for(stream)
    batch = len(parts)
    if not batch:
        return []
    hints = [hint(index, stream, part) for part in parts]
    tracks = [
        Track(model, [[*a, *b] for a, b in zip(shown(p, range(batch)), hints, strict=True)], _device(model))
        for p in passes
    ]
    starts = [SENTINEL if has_gaps(stream, part) else SOS for part in parts]
    most = stream.length if most is None else min(most, stream.length)
    written = _write(
        model, index, stream, tracks, [p.factor for p in passes], how, pick, head, noise, starts, prompts, most
    )
    return [assemble(stream, part, row)[: stream.length] for part, row in zip(parts, written, strict=True)]


def _device(model: Model) -> torch.device:
    return next(model.parameters()).device


def _write(
    model: Model, index: int, stream: Stream, tracks: Sequence[Track], factors: Sequence[float], how: Decoding,
    pick: Picker, head: Head, noise: Noise, starts: Sequence[int], prompts: Sequence[Ids | None], most: int,
) -> list[list[int]]:  # fmt: skip
    """What follows the first symbol of each sample, up to [EOS] or `most` tokens."""
    device, batch = _device(model), len(starts)
    last = torch.tensor(starts, device=device)[:, None]
    which, real = torch.full((batch, 1), index, device=device), torch.ones((batch, 1), dtype=torch.bool, device=device)
    forced = _forced(prompts, most + 1, device)
    uniform = noise.uniform("pick", 0, most + 1) if how.temperature else np.zeros((batch, most + 1))
    done = torch.zeros(batch, dtype=torch.bool, device=device)
    written: list[Tensor] = []
    for at in range(most + 1):
        x = model.query(last, which, torch.full((batch, 1), at, device=device), real)
        hidden = [track.step(x)[:, 0] for track in tracks]
        logits = [head.scores(h) for h in hidden]
        if len(tracks) > 1:
            logits = [sum(f * score.float() for f, score in zip(factors, logits, strict=True))]  # type: ignore[list-item]
        token = head.ids(pick(logits[0], how.temperature, uniform[:, at])[0])
        token = torch.where(forced[:, at] >= 0, forced[:, at], token)
        token = torch.where(done, PAD, token)
        done = done | (token == EOS)
        written.append(token)
        last = token[:, None]
        if bool(done.all()):
            break
    table = torch.stack(written, dim=1).cpu().tolist()
    return [[t for t in row[: row.index(EOS) if EOS in row else None] if t not in (PAD, SOS)][:most] for row in table]


def _forced(prompts: Sequence[Ids | None], width: int, device: torch.device) -> Tensor:
    """(B, width) int64: the token that must stand there, -1 for none."""
    table = np.full((len(prompts), width), -1, np.int64)
    for row, prompt in enumerate(prompts):
        if prompt is not None:
            table[row, : len(prompt)] = prompt
    return torch.from_numpy(table).to(device)


# -- sequences with gaps


def has_gaps(stream: Stream, part: Part | None) -> bool:
    """Whether it is filled in by spans; pairs are not, theirs are just more of them."""
    return part is not None and not stream.pairs and not bool(part.known.all()) and bool(part.known.any())


def _runs(known: npt.NDArray[np.bool_]) -> list[tuple[bool, list[int]]]:
    return [(key, [i for i, _ in run]) for key, run in groupby(enumerate(known.tolist()), key=lambda pair: pair[1])]


def hint(index: int, stream: Stream, part: Part | None) -> list[Shown]:
    """What the encoder sees of a sequence's own known tokens, laid out as the masking does."""
    if part is None or not part.known.any():
        return []
    if stream.pairs or part.known.all():
        ids = part.ids[part.known].astype(np.int64)
        return [Shown(index, np.arange(len(ids)), ids)]
    symbols: list[int] = []
    spans = 0
    for known, run in _runs(part.known):
        symbols += part.ids[run].tolist() if known else [SENTINEL + spans]
        spans += not known
    return [Shown(index, np.arange(len(symbols)), np.array(symbols))]


def assemble(stream: Stream, part: Part | None, written: Sequence[int]) -> Ids:
    """The whole sequence from its known tokens and what was written."""
    if part is None or not part.known.any():
        return np.array([t for t in written if not SENTINEL <= t < SENTINEL + SENTINELS], np.uint16)
    own = part.ids[part.known].tolist()
    if stream.pairs:
        fields = set(own[::2])
        more = [t for i in range(0, len(written) - 1, 2) if written[i] not in fields for t in written[i : i + 2]]
        return np.array([*own, *more], np.uint16)
    if part.known.all():
        return part.ids
    spans: list[list[int]] = [[]]
    for token in written:
        if SENTINEL <= token < SENTINEL + SENTINELS:
            spans.append([])
        else:
            spans[-1].append(token)
    ids: list[int] = []
    number = 0
    for known, run in _runs(part.known):
        ids += part.ids[run].tolist() if known else (spans[number] if number < len(spans) else [])
        number += not known
    return np.array(ids, np.uint16)
