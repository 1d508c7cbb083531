"""How a target is decoded, and what of it is there already. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from trainer.generate.schedule import Cooling, Counts
from trainer.streams import Stream

Order = Literal["auto", "maskgit", "roar", "ar"]


@dataclass(frozen=True)
class Decoding:
    """Settings of one target.

    order: "maskgit" predicts all open positions each round and keeps the surest; "roar" predicts and keeps a random
    part; "ar" goes token by token; "auto" is ar for sequences, roar for images, maskgit for the rest: of an image the
    surest places are the empty ones, which then make all the others look empty. steps: rounds. counts: how many
    tokens a round keeps. temperature: 0 takes the likeliest; cooling: how it falls over the rounds (over the tokens of
    a sequence it stays). top_k, top_p: see Picker. guidance, weights: see guidance.passes; weights by stream.
    """

    order: Order = "auto"
    steps: int = 8
    counts: Counts = "cosine"
    temperature: float = 0.0
    cooling: Cooling = "constant"
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"temperature: {self.temperature} is less than 0")
        if self.steps < 1:
            raise ConfigError(f"steps: {self.steps} is less than 1")

    def order_for(self, stream: Stream) -> Order:
        """The order of this stream. ConfigError where it cannot be decoded in the order that is asked for."""
        sequence = stream.kind == "sequence"
        if self.order == "auto":
            return "ar" if sequence else "roar" if stream.kind == "image" else "maskgit"
        if sequence != (self.order == "ar"):
            fit = "ar" if sequence else "maskgit or roar"
            raise ConfigError(f"{stream.name}: cannot be decoded in the order {self.order!r}; use {fit}")
        return self.order


@dataclass(frozen=True)
class Part:
    """What is known of one sample's target. ids: uint16 (n,); known: bool (n,), False where a token is to be filled in.

    Fixed slots: n is the stream's length. Sequences: a run of unknown tokens stands for a gap of any length, also at the
    end; of a stream of pairs only the known pairs count, and more are written.
    """

    ids: npt.NDArray[np.uint16]
    known: npt.NDArray[np.bool_]


def check_tokens(stream: Stream, ids: npt.NDArray[np.integer]) -> None:
    """ConfigError for a number of tokens or an id that the stream does not have."""
    sequence = stream.kind == "sequence"
    if len(ids) > stream.length if sequence else len(ids) != stream.length:
        most = "at most " if sequence else ""
        raise ConfigError(f"{stream.name}: {len(ids)} tokens where a sample has {most}{stream.length}")
    check_ids(stream, ids)


def check_values(stream: Stream, values: npt.NDArray[np.floating]) -> None:
    """ConfigError where vectors of a value stream (patches, embeddings) are not (L, width), finite."""
    exact = stream.kind == "patches"
    fits = values.ndim == 2 and values.shape[1] == stream.width
    if not fits or (len(values) != stream.length if exact else len(values) > stream.length):
        most = "" if exact else "at most "
        raise ConfigError(f"{stream.name}: {values.shape} where a sample has {most}({stream.length}, {stream.width})")
    if not np.isfinite(values).all():
        raise ConfigError(f"{stream.name}: has numbers that are not finite")


def check_ids(stream: Stream, ids: npt.NDArray[np.integer]) -> None:
    """ConfigError for an id outside the vocabulary."""
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < stream.vocab:
        wrong = int(ids.max()) if int(ids.max()) >= stream.vocab else int(ids.min())
        raise ConfigError(f"{stream.name}: token {wrong} is outside its vocabulary of {stream.vocab}")
