"""The photos kept out of learning are few, fixed, and never all."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tokenize_shards.holdout import held_out

IDS = [hashlib.sha256(bytes([i])).hexdigest()[:32] for i in range(100)]


def test_counts() -> None:
    assert held_out(IDS, 0.1).sum() == 10
    assert held_out(IDS[:16], 0.05).sum() == 1
    assert held_out(IDS[:16], 0.25).sum() == 4
    assert held_out(IDS, 0).sum() == 0
    assert held_out(IDS[:2], 0.99).tolist().count(True) == 1
    assert held_out(IDS[:1], 0.5).tolist() == [False]
    assert held_out([], 0.5).shape == (0,)


def test_order_does_not_matter() -> None:
    chosen = {id for id, held in zip(IDS, held_out(IDS, 0.2), strict=True) if held}
    turned = IDS[::-1]
    assert {id for id, held in zip(turned, held_out(turned, 0.2), strict=True) if held} == chosen
    more = {id for id, held in zip(IDS, held_out(IDS, 0.4), strict=True) if held}
    assert chosen < more
    assert held_out(IDS, 0.2).dtype == np.bool_


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0])
def test_a_wrong_share_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="held out"):
        held_out(IDS, fraction)
