"""Decoding written out plainly, one sample and one token at a time, as a check of what the fast ways give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trainer.generate.decoding import Decoding
from trainer.generate.sampling import Noise
from trainer.generate.schedule import reveal_counts, temperatures
from trainer.model import Model
from trainer.streams import EOS, SOS

Seen = list[tuple[int, int, int]]  # (stream, position, token) of what a sample shows


def context(model: Model, seen: Seen) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Context of one sample; padding where it shows nothing."""
    stream, place, ids = (torch.tensor([[s[i] for s in seen or [(0, 0, 0)]]]) for i in range(3))
    return model.encode(ids, stream, place, torch.full(ids.shape, bool(seen)))


def draw(scores: np.ndarray, heat: float, uniform: float) -> tuple[int, float]:
    """One token and its log-probability without temperature."""
    wide = scores.astype(np.float64)
    log = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    if heat == 0:
        return int(scores.argmax()), float(log[scores.argmax()])
    share = np.exp((wide - wide.max()) / heat)
    ends = np.cumsum(share / share.sum())
    token = min(int(np.searchsorted(ends, uniform * ends[-1], side="right")), len(ends) - 1)
    return token, float(log[token])


@torch.no_grad()
def maskgit(model: Model, given: Seen, target: int, how: Decoding, key: str = "", guidance: float = 1.0) -> list[int]:
    """Fixed slots of one sample, from the conditions `given`."""
    stream = model.streams[target]
    noise = Noise(how.seed, [key], stream.name)
    known: dict[int, int] = {}
    counts = reveal_counts(stream.length, how.steps, how.counts)
    for step, heat in enumerate(temperatures(how.temperature, how.steps, how.cooling)):
        open_at = [p for p in range(stream.length) if p not in known]
        if not open_at:
            break
        place = torch.tensor([open_at])
        which, real = torch.full_like(place, target), torch.ones_like(place, dtype=torch.bool)
        scores = np.zeros((len(open_at), stream.vocab), np.float32)
        for factor, seen in ((guidance, given), (1 - guidance, [])):
            if factor:
                own = [(target, p, t) for p, t in sorted(known.items())]
                hidden = model.decode(torch.zeros_like(place), which, place, real, *context(model, [*seen, *own]))
                scores += factor * model.logits(hidden, stream.table)[0].numpy()
        uniform = noise.uniform("pick", step, stream.length)[0]
        found = [(p, *draw(row, float(heat), uniform[p])) for p, row in zip(open_at, scores, strict=True)]
        for p, token, _ in sorted(found, key=lambda f: (-f[2], f[0]))[: counts[step]]:
            known[p] = token
    return [known[p] for p in range(stream.length)]


@torch.no_grad()
def autoregressive(
    model: Model, given: Seen, target: int, allowed: Sequence[int], how: Decoding, key: str = "", stop: bool = True
) -> list[int]:
    """A sequence of one sample, the whole prefix decoded again for each token."""
    stream = model.streams[target]
    uniform = Noise(how.seed, [key], stream.name).uniform("pick", 0, stream.length + 1)[0]
    seen = context(model, given)
    symbols, chosen = [SOS], np.asarray(allowed)
    while len(symbols) <= stream.length and not (stop and symbols[-1] == EOS):
        ids = torch.tensor([symbols])
        which, real = torch.full_like(ids, target), torch.ones_like(ids, dtype=torch.bool)
        hidden = model.decode(ids, which, torch.arange(len(symbols))[None], real, *seen)
        scores = model.logits(hidden[0, -1], stream.table).numpy()[chosen]
        symbols.append(int(chosen[draw(scores, how.temperature, uniform[len(symbols) - 1])[0]]))
    return [t for t in symbols[1:] if t != EOS][: stream.length]
