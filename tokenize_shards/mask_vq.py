"""Tokenizer of instance masks: a mask cropped to its box, 64 x 64, to 16 codes of 1,024, and back.

The box is written beside the codes by the grammar, so that a mask costs its shape alone. The network is that of ViT-VQ
(vit_vq_network.py) on patches of 16, its loss binary cross-entropy on pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenize_shards.tokenizer import Tokenizer
from tokenize_shards.vit_vq import ViTVQ
from tokenize_shards.vit_vq_network import ViTVQConfig


@dataclass(frozen=True)
class MaskVQConfig:
    """side: pixels of a cropped mask. tokens: codes of a mask, a square number. vocab: codes. Others as in ViTVQConfig."""

    modality: str = "sam_instance"
    side: int = 64
    tokens: int = 16
    vocab: int = 1024
    size: str = "micro"
    batch: int = 64
    lr: float = 1e-3

    def network(self) -> ViTVQConfig:
        """The ViT-VQ that does the work."""
        grid = math.isqrt(self.tokens)
        if grid * grid != self.tokens or self.side % grid:
            raise ValueError(f"{self.modality}: {self.tokens} tokens are no square grid over {self.side} pixels")
        return ViTVQConfig(
            self.modality, "masks", self.side, 1, self.side // grid, self.vocab, self.size, batch=self.batch, lr=self.lr
        )


class MaskVQ(ViTVQ):
    """Tokens of cropped masks: bool (n, side, side) to uint16 (n, tokens), rows first, and back."""

    kind = "mask_vq"

    def __init__(self, config: MaskVQConfig, settings: dict[str, float] | None = None) -> None:
        super().__init__(config.network(), settings)
        self.masks = config

    def config(self) -> dict[str, Any]:
        return {**asdict(self.masks), "settings": self.content.settings}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Tokenizer:
        config = dict(config)
        settings = config.pop("settings")
        return cls(MaskVQConfig(**config), settings)._loaded(tensors)


def crop_mask(mask: NDArray[np.bool_], box: NDArray[np.floating], side: int = 64) -> NDArray[np.bool_]:
    """The part of a mask (H, W) under a box x0 y0 x1 y1 in its pixels, stretched to (side, side).

    A cell is set where at least half of it is; thin things that would vanish that way keep their strongest cell.
    """
    import cv2

    height, width = mask.shape
    x0, y0 = math.floor(max(0.0, float(box[0]))), math.floor(max(0.0, float(box[1])))
    x1, y1 = math.ceil(min(float(width), float(box[2]))), math.ceil(min(float(height), float(box[3])))
    if x1 <= x0 or y1 <= y0:
        return np.zeros((side, side), np.bool_)
    region = mask[y0:y1, x0:x1].astype(np.float32)
    # Enlarge first to a multiple of the side, so that averaging over areas is exact where the region is small.
    rows, columns = (-(-n // side) * side for n in region.shape)
    fine = cv2.resize(region, (columns, rows), interpolation=cv2.INTER_NEAREST)
    share = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(share >= min(0.5, max(1e-6, float(share.max()))))


def paste_mask(cropped: NDArray[np.bool_], box: NDArray[np.floating], height: int, width: int) -> NDArray[np.bool_]:
    """The inverse: a mask (height, width) with the cropped one in its box; each pixel takes the cell its centre is in."""
    x0, y0, x1, y1 = (float(v) for v in box)
    found = np.zeros((height, width), np.bool_)
    if x1 <= x0 or y1 <= y0:
        return found
    side = len(cropped)
    rows = np.floor((np.arange(height) + 0.5 - y0) / (y1 - y0) * side).astype(int)
    columns = np.floor((np.arange(width) + 0.5 - x0) / (x1 - x0) * side).astype(int)
    inside_r, inside_c = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
    found[np.ix_(inside_r, inside_c)] = cropped[np.ix_(rows[inside_r], columns[inside_c])]
    return found
