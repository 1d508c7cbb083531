"""What a label looks like to a person: four kinds of cell, drawn by the gallery and by nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Picture:
    """An image cell. pixels: uint8 RGB, (H, W, 3). caption: a short line under it."""

    pixels: NDArray[np.uint8]
    caption: str = ""


@dataclass(frozen=True)
class Swatches:
    """A palette cell. rows: one palette a row, each a list of (r, g, b) in 0..255."""

    rows: tuple[tuple[tuple[int, int, int], ...], ...]


@dataclass(frozen=True)
class Chips:
    """A cell of named values, already formatted, in the order to show them."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Words:
    """A cell of text; `muted` marks text that explains a missing value rather than being one."""

    text: str
    muted: bool = False


Cell = Picture | Swatches | Chips | Words
