"""segment_anything without torchvision.

The package asks torchvision for four small functions. Its CPU builds are missing from many indexes, and a CUDA build
beside CPU torch breaks other imports, so this project never requires it: where it cannot be imported, the functions
below stand in for it, under its name, for as long as the import of segment_anything takes and no longer.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelers.core.suppression import suppress

if TYPE_CHECKING:
    from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Areas of boxes (n, 4) given as x0, y0, x1, y1: (n,)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression among boxes of one group: indices of the boxes kept, int64 (k,), best score first.

    boxes: float (n, 4) x0, y0, x1, y1. scores: (n,); of equal ones the first wins. idxs: (n,), the group of each box.
    A box goes where its intersection over union with a kept one is greater than the threshold.
    """
    import torch

    box, score, group = (part.detach().cpu().numpy() for part in (boxes, scores, idxs))
    rows = [np.flatnonzero(group == one) for one in np.unique(group)]
    kept = np.concatenate(
        [np.zeros(0, np.int64), *(own[suppress(box[own], score[own], iou_threshold)] for own in rows)]
    )
    best = kept[np.lexsort((kept, -score[kept]))]
    return torch.from_numpy(best).to(boxes.device)


def to_pil_image(image: NDArray[np.uint8]) -> Image.Image:
    """uint8 RGB (H, W, 3) as a Pillow image."""
    return Image.fromarray(image)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at (height, width), bilinear over the whole footprint of a pixel, as torchvision does with Pillow."""
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def segment_anything() -> ModuleType:
    """The package segment_anything, with the real torchvision where that imports."""
    if "segment_anything" in sys.modules:
        return sys.modules["segment_anything"]
    if _torchvision_works():
        return importlib.import_module("segment_anything")
    with _stand_in():
        return importlib.import_module("segment_anything")


def _torchvision_names() -> set[str]:
    return {name for name in sys.modules if name.partition(".")[0] == "torchvision"}


def _torchvision_works() -> bool:
    """Whether torchvision can be imported; if not, nothing of the attempt is left behind."""
    before = _torchvision_names()
    try:
        importlib.import_module("torchvision.ops.boxes")
        importlib.import_module("torchvision.transforms.functional")
    except Exception:  # a build for another torch raises RuntimeError and OSError as well as ImportError
        for name in _torchvision_names() - before:
            del sys.modules[name]
        return False
    return True


@contextmanager
def _stand_in() -> Iterator[None]:
    """Modules named torchvision that hold the four functions, gone again at the end."""
    held = {
        "torchvision": {},
        "torchvision.ops": {},
        "torchvision.ops.boxes": {"batched_nms": batched_nms, "box_area": box_area},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {"resize": resize, "to_pil_image": to_pil_image},
    }
    for name, functions in held.items():
        module = ModuleType(name)
        module.__dict__.update(functions)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in held:
            sys.modules.pop(name, None)
