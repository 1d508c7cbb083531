"""sam_instance, sam_edge: everything in an image that SAM separates, as masks, and their outlines.

A grid of points is put to the network; what it is sure of, and what hardly changes with the threshold, is kept once, as
segment_anything's own automatic mask generator does it. The network is built from the shapes in the checkpoint, so
ViT-B, ViT-L and ViT-H weights, and tuned ones, need no option: name them in the configuration's weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from labelers.core.labeler import Labeler, Licence, Resources, Sample
from labelers.core.masks import SAM_EDGE, SAM_INSTANCE, Instance, edges_of, instances, largest_first
from labelers.core.modality import Label, Null
from labelers.core.networks import NetworkParams, device
from labelers.core.sam_encoder import hasten
from labelers.core.sam_masks import AutomaticMasks, Masks, Settings
from labelers.core.sam_network import load_network


class SamParams(NetworkParams):
    """precision: of the image encoder, and of the decoder where it works on the whole image; what is held against thresholds
    is float32. compile: of both. points_per_side: points of the grid along each side. points_per_batch: points at once, for
    memory; a CPU takes fewer. pred_iou_thresh: least quality the network gives its own mask. stability_score_thresh: least
    overlap of a mask with itself at a stricter threshold. min_area: least share of the image. nms: of masks whose boxes
    overlap by more, the best is kept. max_masks: the best are kept. crop_layers: layer i asks again on 4**i crops, for
    small things; of masks of one thing that of the smallest crop is kept. crop_points_downscale_factor: a layer has so many
    times fewer points a side than the one before.
    """

    points_per_side: int = Field(32, ge=1, le=256)
    points_per_batch: int = Field(256, ge=1)
    pred_iou_thresh: float = Field(0.88, ge=0, le=1)
    stability_score_thresh: float = Field(0.95, ge=0, le=1)
    min_area: float = Field(0.0001, ge=0, lt=1)  # 4M-21 keeps boxes of 0.0005 of a view; views cut and enlarge
    nms: float = Field(0.7, gt=0, le=1)
    max_masks: int = Field(256, ge=1)
    crop_layers: int = Field(0, ge=0, le=4)
    crop_points_downscale_factor: int = Field(1, ge=1)


class Sam(Labeler):
    """Masks of everything in an image, by segment-anything, and their outlines."""

    name = "sam"
    version = 2  # 2: sums of the decoder in another order, so that the last bits of scores, and rarely a pixel, differ
    backend = "SAM (segment-anything)"
    produces = (SAM_INSTANCE, SAM_EDGE)
    resources = Resources(cpu=1.0, gpu=0.5, batch=4)
    weights = {
        "checkpoint": "hf:ybelkada/segment-anything@7790786db131bcdc639f24a915d9f2c331d843ee"
        "!checkpoints/sam_vit_b_01ec64.pth#sha256=ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    }
    licence = Licence("Apache-2.0", "Apache-2.0")
    default_on = False
    Params = SamParams

    def setup(self) -> None:
        import torch

        p = self.params
        network = load_network(self.files["checkpoint"]).to(device())
        hasten(network.image_encoder, p.precision, p.compile)
        settings = Settings(
            p.points_per_side, p.points_per_batch, p.pred_iou_thresh, p.stability_score_thresh, p.nms, p.crop_layers,
            p.crop_points_downscale_factor, images=self.resources.batch if network.device.type == "cuda" else 1,
        )  # fmt: skip
        self.generator = AutomaticMasks(network, settings, getattr(torch, p.precision), p.compile)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        images = [sample.image for sample in samples]
        wide = [i for i, image in enumerate(images) if self.generator.fits(image)]
        found = self.generator.find([images[i] for i in wide], lambda _, masks: self._labels(masks))
        labels = dict(zip(wide, found, strict=True))
        return [labels[i] if i in labels else self._narrow(image) for i, image in enumerate(images)]

    def _narrow(self, image: NDArray[np.uint8]) -> dict[str, Label | Null]:
        height, width = image.shape[:2]
        reason = f"{width} x {height} pixels: no pixel is left of the short side at SAM's input size"
        return {modality.name: Null(reason) for modality in self.produces}

    def _labels(self, masks: Masks) -> dict[str, Label | Null]:
        """The labels of one image. Equal masks of several points are kept, where `nms` allows them."""
        chosen = self._chosen(masks)
        return {"sam_instance": chosen, "sam_edge": edges_of(chosen, masks.runs.size)}

    def _chosen(self, masks: Masks) -> list[Instance]:
        """The best masks that are large enough, largest first. Quality is a regression, which may leave 0..1."""
        areas, _ = masks.runs.areas_and_boxes()
        height, width = masks.runs.size
        large = np.flatnonzero(areas >= max(1, self.params.min_area * (height * width)))
        best = large[np.argsort(-masks.quality[large], kind="stable")][: self.params.max_masks]
        scores = np.clip(masks.quality[best], 0, 1).tolist()
        return largest_first(instances(masks.runs.take(best), scores, list(masks.points[best].astype(np.float32))))
