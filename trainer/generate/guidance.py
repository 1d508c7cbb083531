"""Guidance: scores as a weighted sum over passes of the model that see different conditions.

One weight for everything given (classifier-free guidance): u + s (c - u). Weights of several conditions, negative ones
too: u + sum of w_i (c_i - u), where u sees what has no weight of its own. Passes whose weight comes out as 0 are not
computed: s = 1 is one pass with everything, s = 0 one with nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Pass:
    """One pass: its factor in the sum of scores, and the given streams it sees."""

    factor: float
    shows: frozenset[str]


def passes(given: Sequence[str], guidance: float = 1.0, weights: Mapping[str, float] | None = None) -> list[Pass]:
    """The passes of a target's guidance. given: streams that are there. ConfigError for a weight of another stream."""
    everything = frozenset(given)
    if not weights:
        return _needed([Pass(guidance, everything), Pass(1 - guidance, frozenset())])
    for name in weights:
        if name not in everything:
            raise ConfigError(
                f"guidance weight of {name}: it is not among what is given ({', '.join(given) or 'nothing'})"
            )
    base = everything - set(weights)
    found = [Pass(weight, base | {name}) for name, weight in weights.items()]
    return _needed([*found, Pass(1 - sum(weights.values()), base)])


def _needed(found: Sequence[Pass]) -> list[Pass]:
    """Passes that see the same are one; those without weight are none."""
    factors: dict[frozenset[str], float] = {}
    for one in found:
        factors[one.shows] = factors.get(one.shows, 0.0) + one.factor
    return [Pass(factor, shows) for shows, factor in factors.items() if abs(factor) > 1e-9]
