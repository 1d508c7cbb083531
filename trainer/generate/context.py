"""What the encoder sees of a batch, and the one call that makes the decoder's context of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.model import Model

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shown:
    """Tokens of one stream that one sample shows. index: of the stream; places: positions in it; ids: the tokens there.

    values: of a value stream, float32 (L, width); ids are then rows of it.
    """

    index: int
    places: npt.NDArray[np.integer]
    ids: npt.NDArray[np.integer]
    values: npt.NDArray[np.float32] | None = None


Rows = Sequence[Sequence[Shown]]  # one list a sample


def encode(model: Model, rows: Rows, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Context (B, n, d) and its mask, of samples that may show different numbers of tokens, or none."""
    width = max([1, *(sum(len(s.ids) for s in row) for row in rows)])
    ids, stream, pos = (np.zeros((len(rows), width), np.int64) for _ in range(3))
    mask = np.zeros((len(rows), width), bool)
    for r, row in enumerate(rows):
        at = 0
        for shown in row:
            part = slice(at, at + len(shown.ids))
            ids[r, part], stream[r, part], pos[r, part], mask[r, part] = shown.ids, shown.index, shown.places, True
            at += len(shown.ids)
    arrays = (torch.from_numpy(a).to(device) for a in (ids, stream, pos, mask))
    return model.encode(*arrays, values=_values(model, rows, device))


def _values(model: Model, rows: Rows, device: torch.device) -> dict[str, Tensor] | None:
    """(B, L, width) of each value stream that a sample shows, zero where one shows fewer; None where none does."""
    found: dict[str, Tensor] = {}
    for r, row in enumerate(rows):
        for shown in row:
            if shown.values is not None:
                s = model.streams[shown.index]
                if s.name not in found:
                    found[s.name] = torch.zeros(len(rows), s.length, s.width, device=device)
                found[s.name][r, : len(shown.values)] = torch.from_numpy(shown.values).to(device)
    return found or None
