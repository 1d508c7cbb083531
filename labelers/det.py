"""det: objects of COCO's 80 classes, by RT-DETR or by DETR. A configuration enables one of the two.

Both answer with a fixed number of queries, each a box in shares of the image and scores; there is no suppression to tune.
Classes are matched to COCO's by name, because checkpoints number them differently (DETR with COCO's gaps, RT-DETR without).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from labelers.core.boxes import DET, detection, sorted_boxes
from labelers.core.coco import CLASSES, NUMBER
from labelers.core.labeler import Licence, Resources, Sample
from labelers.core.modality import Label, Null
from labelers.core.networks import NetworkLabeler, NetworkParams
from labelers.core.pixels import Preparation

ALIASES = {
    "motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant",
    "diningtable": "dining table", "tvmonitor": "tv",
}  # fmt: skip


class DetParams(NetworkParams):
    """score: least score of a box, 4M-21's 0.6. most: boxes kept."""

    score: float = Field(0.6, ge=0, le=1)
    most: int = Field(300, ge=1)


def class_table(id2label: Mapping[Any, str]) -> NDArray[np.intp]:
    """COCO class 0..79 of each of a network's classes, -1 for one that COCO lacks. ValueError where a class is missing."""
    table = np.full(1 + max((int(i) for i in id2label), default=0), -1, np.intp)
    for number, name in id2label.items():
        known = ALIASES.get(str(name).lower(), str(name).lower())
        if known in NUMBER:
            table[int(number)] = NUMBER[known]
    missing = sorted(set(range(len(CLASSES))) - set(table.tolist()))
    if missing:
        raise ValueError(
            f"the checkpoint does not know COCO's class {CLASSES[missing[0]]!r}; name a detector trained on COCO"
        )
    return table


class QueryDetector(NetworkLabeler):
    """What detectors that answer with queries share."""

    produces = (DET,)
    resources = Resources(cpu=1.0, gpu=0.25, batch=16)
    Params = DetParams

    def setup(self) -> None:
        super().setup()
        self._classes = class_table(self.network.config.id2label)

    @abstractmethod
    def scores(self, logits: Any) -> Any:
        """logits (n, queries, classes) -> probabilities of the same classes."""

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        def read(out: Any) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
            scores, boxes = self.scores(out.logits.float()).cpu().numpy(), out.pred_boxes.float().cpu().numpy()
            return list(zip(scores, boxes, strict=True))

        found = self.batched([s.image for s in samples], read)
        return [
            {"det": self._boxes(scores, boxes, s.image.shape[:2])}
            for (scores, boxes), s in zip(found, samples, strict=True)
        ]

    def _boxes(self, scores: NDArray[np.float32], boxes: NDArray[np.float32], shape: tuple[int, int]) -> Label | Null:
        """scores (queries, classes), boxes (queries, 4) centre x, y, width, height in shares of the image -> label."""
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            return Null("the network gave values that are not finite")
        known = scores[:, : len(self._classes)] * (self._classes >= 0)
        query, number = np.nonzero(self._kept(known))
        half = boxes[:, 2:] / 2
        corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1) * (*shape[::-1], *shape[::-1])
        labels = [CLASSES[n] for n in self._classes[number]]
        made = [detection(b, name, float(known[q, n]), shape) for b, name, q, n in
                zip(corners[query], labels, query, number, strict=True)]  # fmt: skip
        return sorted_boxes([one for one in made if one is not None])[: self.params.most]

    def _kept(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which (query, class) pairs are boxes: as many of the best as there are queries, above the threshold."""
        least = np.partition(scores.reshape(-1), -len(scores))[-len(scores)]
        return np.asarray((scores > self.params.score) & (scores >= least))


class RtDetr(QueryDetector):
    """Objects by RT-DETR, whose queries may name several classes each."""

    name = "rt_detr"
    version = 1
    backend = "RT-DETR R50vd, COCO after Objects365 (transformers)"
    weights = {"model": "hf:PekingU/rtdetr_r50vd_coco_o365@457857cec8ac28ddede40ecee9eed2beca321af8"}
    licence = Licence("Apache-2.0", "Apache-2.0")
    architecture = "RTDetrForObjectDetection"
    prepare = Preparation(640, 640, "squash", resample=Image.Resampling.BILINEAR, mean=(0, 0, 0), std=(1, 1, 1))

    def scores(self, logits: Any) -> Any:
        return logits.sigmoid()


class Detr(QueryDetector):
    """Objects by DETR: one class a query, the last class being none. (Its checkpoint without the package timm.)"""

    name = "detr"
    version = 1
    backend = "DETR ResNet-50 (transformers)"
    weights = {"model": "hf:facebook/detr-resnet-50@no_timm"}
    licence = Licence("Apache-2.0", "Apache-2.0")
    architecture = "DetrForObjectDetection"
    prepare = Preparation(800, 800, "short", longest=1333, resample=Image.Resampling.BILINEAR)

    def scores(self, logits: Any) -> Any:
        return logits.softmax(-1)[..., :-1]

    def _kept(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        best = scores == scores.max(axis=1, keepdims=True)
        return np.asarray(best & (scores > self.params.score))
