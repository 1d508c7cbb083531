"""Images made ready for a network as its checkpoint says: size, filter, scale, mean and deviation.

transformers' own image processors come in two kinds, one of which needs torchvision, and neither guards against a strip
of 4000 x 1 pixels becoming a picture of 2 million x 518. So the numbers are read from the checkpoint's
preprocessor_config.json, and the few lines that use them are here. Resizing is Pillow's, as in the published processors.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import torch

CONFIGS = ("preprocessor_config.json", "processor_config.json")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0..1
LONGEST = 4  # a side of a prepared image is at most so many times the size a network asks for
T = TypeVar("T")


@dataclass(frozen=True)
class Preparation:
    """How an image becomes a network's input.

    height, width: of the input where `fit` is "squash" (the aspect ratio is lost) or "nearest" (the whole image is scaled
    by that of the two ratios which changes it less). fit "short": the shorter side becomes `height`, unless the longer
    one would exceed `longest`. multiple: sides are rounded to multiples of it. resample: Pillow's number of the filter.
    scale: what a byte is multiplied by; mean, std: subtracted and divided by after that.
    """

    height: int = 224
    width: int = 224
    fit: str = "squash"
    longest: int = 0
    multiple: int = 1
    resample: int = Image.Resampling.BICUBIC
    scale: float = 1 / 255
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) at which the network sees an image of that size."""
        if self.fit == "squash":
            return self._rounded(self.height), self._rounded(self.width)
        if self.fit == "short":
            ratio = self.height / min(height, width)
            ratio = min(ratio, (self.longest or LONGEST * self.height) / max(height, width))
        else:
            ratio = min(self.height / height, self.width / width, key=lambda r: abs(1 - r))
            ratio = min(ratio, LONGEST * max(self.height, self.width) / max(height, width))
        return self._rounded(height * ratio), self._rounded(width * ratio)

    def _rounded(self, side: float) -> int:
        return max(1, round(side / self.multiple)) * self.multiple

    def resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 RGB (H, W, 3) -> the same at `target`."""
        height, width = self.target(*image.shape[:2])
        if image.shape[:2] == (height, width):
            return image
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(self.resample)), np.uint8)

    def tensor(self, images: NDArray[np.uint8], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """uint8 (n, h, w, 3) -> (n, 3, h, w), scaled and normalised; the arithmetic is in float32."""
        import torch

        pixels = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() * self.scale
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((pixels - mean) / std).to(dtype)

    @staticmethod
    def read(folder: Path, default: Preparation) -> Preparation:
        """What the checkpoint's folder says; what it does not say is as in `default`. ValueError where it is no JSON."""
        for name in CONFIGS:
            path = folder / name
            if path.is_file():
                try:
                    values = json.loads(path.read_text(encoding="utf-8"))
                except ValueError as error:
                    raise ValueError(f"{path} is not JSON ({error}); fetch the checkpoint again") from error
                return _from_config(values.get("image_processor", values), default)
        return default


def _from_config(values: dict[str, Any], default: Preparation) -> Preparation:
    """A transformers image processor's settings as a Preparation."""
    found: dict[str, Any] = {}
    size = values.get("size")
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if size and "height" in size:
        keep = values.get("keep_aspect_ratio", default.fit == "nearest")
        found |= {"height": size["height"], "width": size["width"], "fit": "nearest" if keep else "squash"}
    elif size and "shortest_edge" in size:
        found |= {"height": size["shortest_edge"], "fit": "short", "longest": size.get("longest_edge") or 0}
    if "ensure_multiple_of" in values:
        found["multiple"] = values["ensure_multiple_of"] or 1
    if values.get("resample") is not None:
        found["resample"] = int(values["resample"])
    if values.get("do_rescale", True) and "rescale_factor" in values:
        found["scale"] = float(values["rescale_factor"])
    if values.get("do_normalize") is False:
        found |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    elif values.get("image_mean") and values.get("image_std"):
        found |= {"mean": tuple(values["image_mean"]), "std": tuple(values["image_std"])}
    return dataclasses.replace(default, **found)


def in_batches(
    images: Sequence[NDArray[np.uint8]],
    forward: Callable[[NDArray[np.uint8]], Sequence[T]],
    step: int,
    full: bool = False,
) -> list[T]:
    """Results of `forward`, which takes images of one size as uint8 (n, h, w, 3), for images of any sizes, in order.

    Images of equal size go together, at most `step` at once. A smaller batch is filled up with black images to the next
    power of two, or to `step` where `full`: the sums of a matrix product depend in their last bits on the number of its
    rows, so with step 1, or with `full` and one size, an image has the same result whatever its neighbours are.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        groups.setdefault(image.shape, []).append(i)
    found: dict[int, T] = {}
    for shape, members in groups.items():
        for start in range(0, len(members), step):
            part = members[start : start + step]
            size = step if full else 1 << (len(part) - 1).bit_length()
            batch = np.zeros((size, *shape), np.uint8)
            for row, i in enumerate(part):
                batch[row] = images[i]
            found.update(zip(part, forward(batch), strict=False))  # the fillers' results are left
    return [found[i] for i in range(len(images))]


def square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The whole image squeezed into a square: nothing is cut off, the aspect ratio is lost. uint8 (H, W, 3) -> (size,
    size, 3).

    A global vector for search and duplicates must have seen the borders too. Views are square already and pass
    undistorted.
    """
    import cv2

    if image.shape[:2] == (size, size):
        return image
    shrinks = image.shape[0] >= size and image.shape[1] >= size
    return np.asarray(
        cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8
    )
