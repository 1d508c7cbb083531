"""A stream: what the masking and the model must know of one token modality. Pure data.

Also the fixed start of the text vocabulary that all sequence streams share (the 4M layout).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

PAD, UNK, SOS, EOS, SENTINEL = 0, 1, 2, 3, 4  # [S_0] is 4
SENTINELS = 200  # [S_0]..[S_199]
TEXT = "text"  # name of the one table of all sequence streams

Ids = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Stream:
    """One token modality as the model sees it.

    name: "tok_rgb". kind: "image" (tokens on a grid), "vector" (tokens in fixed slots), "sequence" (ragged, text
    vocabulary). vocab: token ids are 0..vocab-1. length: tokens of a sample; for sequences the most it can have,
    without [SOS] and [EOS]. grid: (rows, columns), rows * columns = length, images only. pairs: a sequence of (field,
    value) pairs in any order, masked pair by pair and never split (metadata).

    Two kinds are shown and never predicted, and have vectors in place of tokens: "patches" (raw pixels on a grid) and
    "embedding" (vectors of a text encoder, one after another). width: numbers in such a vector; their vocab is 0.

    own_table: a sequence with a table and head of its own (as published), not the one all sequences share. learned:
    learned positions, one set for each side of the model, in place of sin-cos.
    """

    name: str
    kind: Literal["image", "vector", "sequence", "patches", "embedding"]
    vocab: int
    length: int
    grid: tuple[int, int] | None = None
    pairs: bool = False
    width: int = 0
    own_table: bool = False
    learned: bool = False

    def __post_init__(self) -> None:
        on_grid = self.kind in ("image", "patches")
        if on_grid and (self.grid is None or self.grid[0] * self.grid[1] != self.length):
            raise ValueError(f"stream {self.name}: grid {self.grid} does not hold its {self.length} tokens")
        if self.kind == "sequence" and self.vocab <= SENTINEL + SENTINELS:
            raise ValueError(f"stream {self.name}: text vocabulary of {self.vocab} has no room for the special tokens")
        if self.length < 1 or not (self.vocab == 0 and self.width > 0 if self.values else 1 < self.vocab <= 65536):
            raise ValueError(
                f"stream {self.name}: vocab {self.vocab}, width {self.width} or length {self.length} out of range"
            )

    @property
    def values(self) -> bool:
        """Whether it holds vectors, is only ever shown, and has no tokens."""
        return self.kind in ("patches", "embedding")

    @property
    def table(self) -> str:
        """The embedding table and output head it uses: one for all sequences, its own otherwise."""
        return TEXT if self.kind == "sequence" and not self.own_table else self.name

    @property
    def positions(self) -> int:
        """How many positions can occur: sequences are counted over their visible tokens, [SOS] and sentinels included."""
        return self.length + 2 if self.kind == "sequence" else self.length

    def to_json(self) -> dict[str, Any]:
        """As it comes back from a JSON file, so that both compare equal."""
        return {**asdict(self), "grid": list(self.grid) if self.grid else None}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Stream:
        grid = data["grid"]
        return Stream(**{**data, "grid": tuple(grid) if grid else None})


def tables(streams: Sequence[Stream]) -> dict[str, int]:
    """Vocabulary size of each embedding table, in order of first use. ValueError where two sequences disagree about the
    text.
    """
    sizes: dict[str, int] = {}
    for stream in streams:
        if stream.values:
            continue
        if sizes.setdefault(stream.table, stream.vocab) != stream.vocab:
            raise ValueError(
                f"stream {stream.name} has a text vocabulary of {stream.vocab}, others {sizes[TEXT]}; "
                "tokenize all sequences with one vocabulary"
            )
    return sizes


@dataclass(frozen=True)
class Tokens:
    """One stream of a batch. ids: (B, W) uint16, garbage beyond a row's length. length: (B,) int64, 0 where missing.

    valid: (B,) bool; False: the sample lacks the modality (an empty text is valid and has length 0). values: of value
    streams, (B, W, width) float16, zero beyond a row's length; ids are then the places in it.
    """

    ids: Ids
    length: npt.NDArray[np.int64]
    valid: npt.NDArray[np.bool_]
    values: npt.NDArray[np.float16] | None = None


Batch = Mapping[str, Tokens]
