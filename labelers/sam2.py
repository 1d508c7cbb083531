"""sam_instance, sam_edge by SAM 2: everything in an image that can be told apart, from a grid of points.

The image is encoded once and its points are asked in batches. All that decides which masks stay (the network's own
estimate of quality, how little a mask changes with the threshold, overlap) is computed on the network's 256 x 256 maps;
only masks that stay are brought to the image's resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from labelers.core.labeler import Licence, Resources, Sample
from labelers.core.masks import (
    SAM_EDGE,
    SAM_INSTANCE,
    Instance,
    edges_of,
    instance,
    largest_first,
)
from labelers.core.modality import Label, Null
from labelers.core.networks import NetworkLabeler, NetworkParams
from labelers.core.pixels import Preparation
from labelers.core.rle import encode_rle
from labelers.core.sam_import import batched_nms

if TYPE_CHECKING:
    import torch

OFFSET = 1.0  # by how much the threshold is moved, in logits, to see how stable a mask is
ENLARGED = 64 * 2**20  # pixels of full-size masks held at once


class Sam2Params(NetworkParams):
    """points_per_side: points of the grid along each side. points_per_batch: points a batch. pred_iou_thresh: least
    quality the network gives its own mask. stability_score_thresh: least overlap of a mask with itself at a stricter
    threshold. min_area: least share of the image. nms: of masks whose boxes overlap by more, the best is kept. max_masks:
    the best are kept. The thresholds are those of the published generator.
    """

    points_per_side: int = Field(32, ge=1, le=256)
    points_per_batch: int = Field(64, ge=1)
    pred_iou_thresh: float = Field(0.8, ge=0, le=1)
    stability_score_thresh: float = Field(0.95, ge=0, le=1)
    min_area: float = Field(0.0001, ge=0, lt=1)
    nms: float = Field(0.7, gt=0, le=1)
    max_masks: int = Field(256, ge=1)


class Sam2(NetworkLabeler):
    """Masks of everything in an image, by SAM 2.1, and their outlines."""

    name = "sam2"
    version = 1
    backend = "SAM 2.1 Hiera-L (transformers)"
    produces = (SAM_INSTANCE, SAM_EDGE)
    resources = Resources(cpu=1.0, gpu=0.5, batch=4)
    weights = {"model": "hf:facebook/sam2.1-hiera-large@665f8e2ad61cf5f53d65644ff27c8ee525124610"}
    licence = Licence("Apache-2.0", "Apache-2.0")
    architecture = "Sam2Model"
    compiled = "vision_encoder"
    prepare = Preparation(1024, 1024, resample=Image.Resampling.BILINEAR)
    Params = Sam2Params

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        rows: list[dict[str, Label | Null]] = []
        for sample in samples:
            masks = self.masks(sample.image)
            rows.append({"sam_instance": masks, "sam_edge": edges_of(masks, sample.image.shape[:2])})
        return rows

    def masks(self, image: NDArray[np.uint8]) -> list[Instance]:
        """The masks in one image, uint8 RGB (H, W, 3), largest first."""
        import torch

        with torch.inference_mode():
            seen = self.network.get_image_embeddings(self.pixels(self.preparation.resized(image)[None]))
            side = self.params.points_per_side
            ticks = (torch.arange(side, device=self.device) + 0.5) / side
            points = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1).reshape(-1, 2)
            parts = [self._asked(seen, some) for some in points.split(self.params.points_per_batch)]
            maps, quality, origin = (torch.cat(part) for part in zip(*parts, strict=True))
            kept = self._distinct(maps, quality)
            return self._instances(maps[kept], quality[kept], origin[kept], image.shape[:2])

    def _asked(self, seen: Any, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Maps (m, h, w), their quality (m,) and points (m, 2) in shares of the image, of the answers good enough."""
        size = points.new_tensor([self.preparation.width, self.preparation.height])
        out = self.network(image_embeddings=seen, input_points=(points * size)[None, :, None].to(self.network.dtype))
        maps, quality = out.pred_masks[0].flatten(0, 1).float(), out.iou_scores[0].flatten().float()
        origin = points.repeat_interleave(out.pred_masks.shape[2], dim=0)
        whole = (maps > 0).flatten(1).float().mean(dim=1)
        inner, outer = ((maps > at).flatten(1).sum(dim=1) for at in (OFFSET, -OFFSET))
        good = (quality >= self.params.pred_iou_thresh) & (whole > 0) & (whole >= self.params.min_area)
        good &= inner / outer.clamp(min=1) >= self.params.stability_score_thresh
        return maps[good], quality[good], origin[good]

    def _distinct(self, maps: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        """Which masks stay, best first: of those whose boxes overlap much, one."""
        import torch

        boxes = _boxes(maps > 0)
        kept = batched_nms(boxes, quality, torch.zeros_like(quality), self.params.nms)
        return kept[: self.params.max_masks]

    def _instances(
        self, maps: torch.Tensor, quality: torch.Tensor, origin: torch.Tensor, shape: tuple[int, int]
    ) -> list[Instance]:
        """Masks at the image's resolution; one that has no pixel left there is dropped."""
        import torch

        found = []
        at = origin.float().cpu().numpy() * np.array([shape[1], shape[0]], np.float32)
        step = max(1, ENLARGED // (shape[0] * shape[1]))
        for start in range(0, len(maps), step):
            part = maps[start : start + step, None]
            full = torch.nn.functional.interpolate(part, size=shape, mode="bilinear", align_corners=False)[:, 0] > 0
            for i, mask in enumerate(full.cpu().numpy(), start):
                if mask.any():
                    score = float(quality[i].clamp(0, 1))
                    found.append(instance(encode_rle(mask), score, at[i].astype(np.float32)))
        return largest_first(found)


def _boxes(masks: torch.Tensor) -> torch.Tensor:
    """x0, y0, x1, y1 round each mask that is not empty: bool (n, h, w) -> float (n, 4)."""
    import torch

    rows, columns = masks.any(dim=2).int(), masks.any(dim=1).int()
    height, width = masks.shape[1:]
    edges = (columns.argmax(1), rows.argmax(1), width - columns.flip(1).argmax(1), height - rows.flip(1).argmax(1))
    return torch.stack(edges, dim=1).float()
