"""Which photos are kept out of all learning: of fitting tokenizers and of training the model alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def held_out(ids: Sequence[str], fraction: float) -> NDArray[np.bool_]:
    """bool (n,): True for the max(1, round(fraction * n)) ids of a shard with the smallest sha256("holdout" + id).

    None are where fraction is 0, and never the only sample of a shard, so that something is left to learn from.
    Depends on the set of ids and not on their order. ValueError unless 0 <= fraction < 1.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the share of photos held out is {fraction}; use a number from 0 to less than 1")
    chosen = np.zeros(len(ids), bool)
    if fraction == 0 or len(ids) < 2:
        return chosen
    digests = [hashlib.sha256(f"holdout{id}".encode()).digest() for id in ids]
    count = min(max(1, round(fraction * len(ids))), len(ids) - 1)
    chosen[sorted(range(len(ids)), key=lambda i: digests[i])[:count]] = True
    return chosen
