"""rgb as a modality: how pictures that were decoded from tokens are stored, shown and compared. The images themselves are
what ingest took in, and no labeler makes them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labelers.core.compare import psnr
from labelers.core.images import decode, encode_png
from labelers.core.modality import Label, Modality, require
from labelers.core.show import Cell, Picture


def _check(label: Label) -> None:
    require(isinstance(label, np.ndarray) and label.dtype == np.uint8, "rgb: expected a uint8 array")
    require(label.ndim == 3 and label.shape[2] == 3 and label.size > 0, f"rgb: expected (H, W, 3), got {label.shape}")


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    return Picture(label)


RGB = Modality(
    name="rgb", kind="map", container="tar", ext="png", encode=encode_png, decode=lambda data: decode(data).image,
    check=_check, show=_show, compare=psnr, about="uint8 (H, W, 3); PNG of 8-bit RGB",
)  # fmt: skip
