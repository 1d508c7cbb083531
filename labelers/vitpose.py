"""keypoints: COCO's 17 joints of every person that `det` found, by ViTPose.

Each person's box, widened by a quarter and brought to the network's shape, is cut out and answered with one heat map a
joint; its peak is refined from the shape of the map round it (DARK), with transformers' own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from labelers.core.boxes import Box
from labelers.core.keypoints import KEYPOINTS, NAMES, Joints
from labelers.core.labeler import Licence, Resources, Sample
from labelers.core.modality import Label, Null
from labelers.core.networks import NetworkLabeler, NetworkParams, quiet
from labelers.core.pixels import Preparation, in_batches

PADDING = 1.25  # of a box, as in training
COCO_EXPERT = 0  # of ViTPose+, whose backbone has one expert a data set


class VitPoseParams(NetworkParams):
    """score: least score of a person's box. most: people of an image, the surest. joint: least mean confidence of a
    person's joints.
    """

    score: float = Field(0.6, ge=0, le=1)
    most: int = Field(32, ge=1)
    joint: float = Field(0.0, ge=0, le=1)


class VitPose(NetworkLabeler):
    """Joints of people by ViTPose (or ViTPose+)."""

    name = "vitpose"
    version = 1
    backend = "ViTPose+ B (transformers) on person boxes"
    produces = (KEYPOINTS,)
    reads = ("det",)
    resources = Resources(cpu=1.0, gpu=0.25, batch=32)
    weights = {"model": "hf:usyd-community/vitpose-plus-base@main"}
    licence = Licence("Apache-2.0", "Apache-2.0")
    architecture = "VitPoseForPoseEstimation"
    prepare = Preparation(256, 192, resample=Image.Resampling.BILINEAR)
    Params = VitPoseParams

    def setup(self) -> None:
        super().setup()
        from transformers import VitPoseImageProcessorPil

        if self.network.config.num_labels != len(NAMES):
            raise ValueError(
                f"the checkpoint has {self.network.config.num_labels} joints; keypoints needs COCO's {len(NAMES)}"
            )
        size = {"height": self.preparation.height, "width": self.preparation.width}
        with quiet():
            self._published = VitPoseImageProcessorPil(size=size)

    def run(self, pixels: Any) -> Any:
        import torch

        experts = self.network.config.backbone_config.num_experts
        index = torch.full((len(pixels),), COCO_EXPERT, device=self.device) if experts > 1 else None
        return self.network(pixels, dataset_index=index)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        found = [s.labels.get("det", Null("not labelled")) for s in samples]
        people = [[] if isinstance(boxes, Null) else self._people(boxes) for boxes in found]
        crops = [self.crop(s.image, one["box"]) for s, boxes in zip(samples, people, strict=True) for one in boxes]
        maps = iter(
            in_batches(crops, lambda b: self.forward(b, lambda out: list(out.heatmaps.float())), self.step, full=True)
        )
        rows: list[dict[str, Label | Null]] = []
        for boxes, ours in zip(found, people, strict=True):
            if isinstance(boxes, Null):
                rows.append({"keypoints": Null(f"no det: {boxes.reason}")})
            else:
                joints = [self._joints(one, next(maps)) for one in ours]
                kept = [one for one in joints if one["keypoints"][:, 2].mean() >= self.params.joint]
                rows.append({"keypoints": kept})
        return rows

    def _people(self, boxes: Sequence[Box]) -> list[Box]:
        return [one for one in boxes if one["label"] == "person" and one["score"] >= self.params.score][
            : self.params.most
        ]

    def window(self, box: NDArray[np.float32]) -> tuple[float, float, float, float]:
        """What is cut for a box: left, top, width and height in pixels, in the network's shape, beyond the image too."""
        x, y = (box[:2] + box[2:]) / 2
        wide, high = (float(side) for side in box[2:] - box[:2])
        ratio = self.preparation.width / self.preparation.height
        wide, high = max(wide, high * ratio) * PADDING, max(high, wide / ratio) * PADDING
        return float(x) - wide / 2, float(y) - high / 2, wide, high

    def crop(self, image: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The window of a box at the network's size, black outside the image. Its corner pixels are the window's corners
        (unbiased data processing, as in training).
        """
        width, height = self.preparation.width, self.preparation.height
        left, top, wide, high = self.window(box)
        scale_x, scale_y = (width - 1) / wide, (height - 1) / high
        matrix = np.array([[scale_x, 0, -left * scale_x], [0, scale_y, -top * scale_y]], np.float64)
        shrink = int(min(1 / scale_x, 1 / scale_y))
        if shrink > 1:  # sampling a large window at single pixels would alias
            size = (max(1, image.shape[1] // shrink), max(1, image.shape[0] // shrink))
            ratio = np.array([image.shape[1] / size[0], image.shape[0] / size[1]])
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            matrix[:, 2] += matrix[:, :2] @ ((ratio - 1) / 2)  # OpenCV counts from pixel centres
            matrix[:, :2] *= ratio
        return np.asarray(cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR), np.uint8)

    def _joints(self, person: Box, heat: Any) -> Joints:
        """A person's joints from heat maps, tensor (17, h, w)."""
        left, top, wide, high = self.window(person["box"])
        centre, scale = np.array([[left + wide / 2, top + high / 2]]), np.array([[wide, high]]) / 200  # its unit
        points, sure = self._published.keypoints_from_heatmaps(heat.cpu().numpy()[None], centre, scale)
        keypoints = np.concatenate([points[0], np.clip(sure[0], 0, 1)], axis=1).astype(np.float32)
        keypoints[~np.isfinite(keypoints).all(axis=1)] = 0
        return {"box": person["box"], "score": person["score"], "keypoints": keypoints}
