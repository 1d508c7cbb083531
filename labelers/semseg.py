"""semseg: the class of each pixel among COCO's 133, by Mask2Former.

Each of its queries is a mask with a class; a pixel takes the class with the most mask and class probability together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelers.core.class_map import NUMBER_OF, SEMSEG
from labelers.core.coco import PANOPTIC
from labelers.core.labeler import Licence, Resources, Sample
from labelers.core.modality import Label, Null
from labelers.core.networks import NetworkLabeler
from labelers.core.pixels import Preparation

if TYPE_CHECKING:
    import torch

BAND = 16 * 2**20  # numbers held at once when scores are enlarged to the image


def bilinear(out: int, size: int) -> NDArray[np.float32]:
    """The matrix (out, size) that stretches a row of `size` numbers to `out`, pixel edges aligned, borders repeated."""
    at = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
    low = np.minimum(at.astype(np.intp), max(size - 2, 0))
    matrix = np.zeros((out, size), np.float32)
    matrix[np.arange(out), low] = 1 - (at - low)
    matrix[np.arange(out), np.minimum(low + 1, size - 1)] += at - low
    return matrix


def enlarged_argmax(scores: torch.Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """Which channel of (c, h, w), stretched to (height, width), is the largest: uint8 (height, width).

    In bands of rows: 133 channels of a photo of 64 million pixels would be 34 GB.
    """
    import torch

    rows, columns = (
        torch.from_numpy(bilinear(out, size)).to(scores.device)
        for out, size in zip((height, width), scores.shape[1:], strict=True)
    )
    step = max(1, BAND // (len(scores) * width))
    found = np.empty((height, width), np.uint8)
    for top in range(0, height, step):
        band = torch.einsum("rh,chw,vw->crv", rows[top : top + step], scores, columns)
        found[top : top + step] = band.argmax(0).to(torch.uint8).cpu().numpy()
    return found


def check_classes(id2label: Mapping[Any, str]) -> None:
    """ValueError where a checkpoint's classes are not COCO's 133 in order."""
    names = [str(id2label[i]) for i in sorted(id2label)]
    if len(names) != len(PANOPTIC) or names[0] != PANOPTIC[0]:
        raise ValueError(
            f"the checkpoint has {len(names)} classes, the first {names[0] if names else '-'!r}; semseg needs COCO panoptic's "
            f"{len(PANOPTIC)}, the first {PANOPTIC[0]!r}"
        )


class Mask2Former(NetworkLabeler):
    """Class maps by Mask2Former, trained on COCO panoptic."""

    name = "mask2former"
    version = 1
    backend = "Mask2Former Swin-B, COCO panoptic (transformers)"
    produces = (SEMSEG,)
    resources = Resources(cpu=1.0, gpu=0.5, batch=8)
    weights = {"model": "hf:facebook/mask2former-swin-base-coco-panoptic@main"}
    licence = Licence("Apache-2.0", "MIT (the hub says: other)")
    architecture = "Mask2FormerForUniversalSegmentation"
    prepare = Preparation(800, 800, "short", longest=1333, multiple=32, resample=Image.Resampling.BILINEAR)

    def setup(self) -> None:
        super().setup()
        check_classes(self.network.config.id2label)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        scores = self.batched([s.image for s in samples], self._scores)
        return [{"semseg": _label(one, s.image)} for one, s in zip(scores, samples, strict=True)]

    def _scores(self, out: Any) -> list[Any]:
        """One tensor (133, h, w) an image, at half the resolution of the input, where masks are sharp enough."""
        import torch

        masks = out.masks_queries_logits.float()
        masks = torch.nn.functional.interpolate(masks, scale_factor=2, mode="bilinear", align_corners=False).sigmoid()
        classes = out.class_queries_logits.float().softmax(-1)[..., :-1]
        return list(torch.einsum("bqc,bqhw->bchw", classes, masks))


def _label(scores: torch.Tensor, image: NDArray[np.uint8]) -> Label | Null:
    if not bool(scores.isfinite().all()):
        return Null("the network gave values that are not finite")
    return enlarged_argmax(scores, *image.shape[:2]) + np.uint8(NUMBER_OF[PANOPTIC[0]])  # 0 is void
