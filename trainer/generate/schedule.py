"""How many tokens a round of decoding keeps, and how warm it is. Pure numpy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError

Counts = Literal["cosine", "linear"]
Cooling = Literal["constant", "linear", "inverse"]


def reveal_counts(tokens: int, steps: int, kind: Counts = "cosine") -> npt.NDArray[np.int64]:
    """Tokens each of `steps` rounds keeps: (steps,), at least 1 while any is left, then 0; they sum to `tokens`.

    "linear": an equal share a round. "cosine": few at first, when little is known, and many at the end (MaskGIT):
    after a share r of the rounds, cos(r pi / 2) of the tokens are still open.
    """
    if steps < 1:
        raise ConfigError(f"steps: {steps} is less than 1")
    rounds = min(steps, tokens)
    counts = np.zeros(steps, np.int64)
    if not rounds:
        return counts
    done = np.arange(1, rounds + 1) / rounds
    left = tokens * (np.cos(done * np.pi / 2) if kind == "cosine" else 1 - done)
    ends = np.rint(tokens - left).astype(np.int64)
    for i in range(rounds):  # every round keeps one at least, and leaves one for each round that follows
        ends[i] = min(max(ends[i], (ends[i - 1] if i else 0) + 1), tokens - (rounds - 1 - i))
    counts[:rounds] = np.diff(ends, prepend=0)
    return counts


def temperatures(start: float, steps: int, kind: Cooling = "constant") -> npt.NDArray[np.float64]:
    """Temperature of each round: (steps,). "linear": from `start` down to start / steps. "inverse": start / round."""
    rounds = np.arange(steps)
    if kind == "linear":
        return start * (1 - rounds / steps)
    return start / (rounds + 1) if kind == "inverse" else np.full(steps, start)
