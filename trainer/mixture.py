"""Which modalities a training sample shows and which it asks for: mixtures of Dirichlet budgets, for whole batches.

A component gives each stream two alphas. For every sample a component is drawn by weight, and then, from
Dirichlet(alpha of the inputs) and Dirichlet(alpha of the targets), the share of each stream in the two budgets. What a
stream cannot take is given to the others in the same proportions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Component:
    """One way to mask. weight: how often, relative to the others.

    inputs, targets: stream name or shell pattern -> alpha; an exact name wins over patterns, the first pattern over
    later ones. A stream without an alpha, or with 0, is never used there. keep: streams (patterns) that are shown whole
    in the input. few: how often little is shown beside them: of the rest of the input budget each sample uses a share of U^few, U
    uniform in 0..1, so all of it for 0. What is to be generated from a palette has to be learned from a palette alone, and
    from it and the first few tokens.
    """

    name: str
    weight: float = 1.0
    inputs: Mapping[str, float] = field(default_factory=lambda: {"*": 1.0})
    targets: Mapping[str, float] = field(default_factory=lambda: {"*": 1.0})
    keep: tuple[str, ...] = ()
    few: float = 0.0


def all2all(alpha: float, weight: float = 1.0) -> Component:
    """Any streams to any streams. A small alpha makes few streams share a budget, a large one all of them evenly."""
    return Component(f"all2all({alpha:g})", weight, {"*": alpha}, {"*": alpha})


def from_one(source: str, weight: float = 1.0, alpha: float = 0.5) -> Component:
    """From one stream alone to all the others (4M's rgb2all)."""
    return Component(f"{source}2all", weight, {source: 1000.0}, {source: 0.0, "*": alpha})


def biased(source: str, weight: float = 0.5) -> Component:
    """One stream shown whole, traces of the others (4M's caption- and T5-biased components)."""
    return Component(f"{source}-biased", weight, {source: 5.0, "*": 0.05}, {"*": 0.5}, (source,))


def steered(source: str, target: str, weight: float = 1.0, few: float = 8.0) -> Component:
    """A target from one short stream shown whole, and from none to all of what can be shown of itself, mostly little: the
    states that a generation from that stream goes through.
    """
    return Component(f"{source}2{target}", weight, {target: 1.0}, {target: 1.0}, (source,), few)


def published(
    rgb: str = "tok_rgb", caption: str = "tok_caption", embedding: str | None = None
) -> tuple[Component, ...]:
    """The mixture of 4M-21. embedding: the stream that takes the place of its T5 embeddings; None: the component they have
    is left out.
    """
    shown = (caption,) if embedding is None else (caption, embedding)
    return (*(all2all(alpha) for alpha in (0.01, 0.1, 1.0, 10.0)), from_one(rgb), *map(biased, shown))


def demo(rgb: str = "tok_rgb", caption: str = "tok_caption") -> tuple[Component, ...]:
    """For minutes of training that will be judged by what is predicted from RGB: two thirds of the samples start from
    RGB.
    """
    return (from_one(rgb, 4.0), all2all(0.1), all2all(1.0, 0.5), biased(caption, 0.5))


def steering(
    rgb: str = "tok_rgb", palette: str = "tok_color_palette", shape: str = "tok_canny_edge", says: str | None = None
) -> tuple[Component, ...]:
    """For minutes of training whose pictures will be steered: half of the samples are pictures from a palette and little
    else, the others keep what guidance, shapes and chains need. says: a short stream of the whole picture, from which a
    chain makes a palette, and a picture from both; None: those components are left out.
    """
    parts = (
        from_one(rgb), all2all(0.3, 0.5), steered(palette, rgb, 3.5),
        Component(f"{palette}+{shape}2{rgb}", 0.7, {rgb: 0.5, shape: 1.0}, {rgb: 1.0}, (palette,)),
    )  # fmt: skip
    if says is None:
        return parts
    return (
        *parts,
        Component(f"{says}+{palette}2{rgb}", 0.7, {rgb: 1.0}, {rgb: 1.0}, (palette, says), 8.0),
        Component(f"{says}2{palette}+{rgb}", 1.0, {says: 1.0}, {palette: 1000.0, rgb: 1.0}, (says,)),
    )


def _alpha(table: Mapping[str, float], stream: str) -> float:
    if stream in table:
        return table[stream]
    return next((alpha for pattern, alpha in table.items() if fnmatchcase(stream, pattern)), 0.0)


class Mixture:
    """The alphas of some components for some streams, as arrays."""

    def __init__(self, components: Sequence[Component], streams: Sequence[str], shown: Sequence[str] = ()) -> None:
        """shown: the streams that are never asked for. ValueError for a component that can show or ask for none of the
        streams (it is then a wrong name), or weight <= 0.
        """
        for part in components:
            if part.weight <= 0:
                raise ValueError(f"mixture component {part.name}: weight {part.weight} is not positive")
            if part.few < 0:
                raise ValueError(f"mixture component {part.name}: few {part.few} is negative")
            for side, table in (("inputs", part.inputs), ("targets", part.targets)):
                if not any(_alpha(table, s) > 0 for s in streams if side == "inputs" or s not in shown):
                    known = ", ".join(streams)
                    raise ValueError(
                        f"mixture component {part.name}: its {side} name no stream of this data set ({known})"
                    )
        if not components:
            raise ValueError("a mixture needs at least one component")
        weights = np.array([part.weight for part in components])
        self.names = [part.name for part in components]
        self.weights: Floats = weights / weights.sum()
        self.alpha_in: Floats = np.array([[_alpha(part.inputs, s) for s in streams] for part in components])
        self.alpha_out: Floats = np.array(
            [[0.0 if s in shown else _alpha(part.targets, s) for s in streams] for part in components]
        )
        self.few: Floats = np.array([part.few for part in components])
        self.keep: Bools = np.array(
            [[any(fnmatchcase(s, k) for k in part.keep) for s in streams] for part in components]
        )

    def usable(self, has: Bools) -> Bools:
        """Which components can mask samples of data sets that have some of the streams: (S, C) from (S, M).

        A component can where the data set has a stream it shows, and one it asks for that is not shown whole.
        """
        shows = has.astype(float) @ ((self.alpha_in > 0) | self.keep).T > 0
        asks: Bools = has.astype(float) @ ((self.alpha_out > 0) & ~self.keep).T > 0
        return shows & asks

    def draw(
        self, batch: int, rng: np.random.Generator, source: Ints | None = None, usable: Bools | None = None
    ) -> Ints:
        """A component for each sample: (B,) int64. source: the data set of each; usable: of `usable`."""
        weights = self.weights[None] if usable is None else self.weights * usable
        bounds = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
        rows = bounds[np.zeros(batch, np.int64) if source is None else source]
        drawn = (rng.random(batch)[:, None] >= rows).sum(axis=1)
        return np.minimum(drawn, len(self.weights) - 1).astype(np.int64)


def log_dirichlet(alpha: Floats, rng: np.random.Generator) -> Floats:
    """Unnormalised log shares of a Dirichlet draw in each row: (B, M), -inf where alpha is 0.

    In logarithms because Gamma(0.01) is below the smallest float half of the time: Gamma(a) = Gamma(a + 1) * U^(1/a).
    """
    positive = alpha > 0
    safe = np.where(positive, alpha, 1.0)
    uniform = rng.random(alpha.shape)
    draw = np.log(rng.standard_gamma(safe + 1.0)) + np.log1p(-uniform) / safe
    return np.where(positive, draw, -np.inf)


def used_share(few: Floats, rng: np.random.Generator) -> Floats:
    """The share of a budget that each row uses: (B,) in 0..1, U^few, all of it where few is 0."""
    return np.asarray(rng.random(len(few)) ** few)


def share(log_weight: Floats, room: Ints, budget: Ints) -> Ints:
    """Divide a budget of each row over streams in proportion to exp(log_weight), no stream getting more than its room.

    log_weight: (B, M), -inf excludes. room: (B, M) >= 0. budget: (B,). Returns (B, M) int64; a row sums to its budget,
    or to the room of its streams if that is less. What a full stream leaves is divided over the others in the same
    proportions; fractions are rounded by the largest remainder. A row depends on nothing but itself.
    """
    quota = np.zeros_like(room)
    free = np.isfinite(log_weight) & (room > 0)
    while True:
        exact = (budget - quota.sum(axis=1))[:, None] * _proportions(log_weight, free)
        full = free & (exact >= room)
        if not full.any():
            break
        quota = np.where(full, room, quota)
        free = free & ~full
    whole = np.floor(exact).astype(np.int64)
    quota = quota + whole
    left = (budget - quota.sum(axis=1))[:, None]  # less than one token for each free stream
    rank = np.argsort(np.argsort(np.where(free, whole - exact, 1.0), axis=1, kind="stable"), axis=1, kind="stable")
    return quota + (free & (rank < left))


def _proportions(log_weight: Floats, free: Bools) -> Floats:
    """exp(log_weight) normalised over the free streams of each row, 0 elsewhere."""
    masked = np.where(free, log_weight, -np.inf)
    top = masked.max(axis=1, keepdims=True)
    weight = np.exp(masked - np.where(np.isfinite(top), top, 0.0))
    total = weight.sum(axis=1, keepdims=True)
    return weight / np.where(total > 0, total, 1.0)
