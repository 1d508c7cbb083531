"""det by YOLOX: COCO's 80 classes from an ONNX file of its own export, run by onnxruntime on the CPU.

The file holds the network up to its raw answers; the grid decoding and the suppression are here. Any size of the family
will do (nano, tiny, s ...): input size and classes are read from the file. No wheel carries one, so the file is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from labelers.core.boxes import DET, Box, detection, sorted_boxes
from labelers.core.coco import CLASSES
from labelers.core.labeler import Labeler, Licence, Params, Resources, Sample
from labelers.core.modality import Label, Null
from labelers.core.suppression import suppress

STRIDES = (8, 16, 32)
FILL = 114  # grey of what the photo does not cover, as in training


class YoloxParams(Params):
    """score: least of a box, objectness times class. nms: of boxes of one class that overlap by more, the best stays.
    most: boxes kept.
    """

    score: float = Field(0.3, ge=0, le=1)
    nms: float = Field(0.45, gt=0, le=1)
    most: int = Field(300, ge=1)


def load_network(path: Path) -> tuple[Any, int]:
    """An onnxruntime session on one CPU thread, and the side of its square input. ValueError for another kind of file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # onnxruntime raises classes of its own, each for a file that it cannot use
        raise ValueError(f"{path} is no ONNX file that onnxruntime reads ({str(error)[:200]})") from error
    (shape,), outputs = [i.shape for i in session.get_inputs()], session.get_outputs()
    good = len(shape) == 4 and shape[1] == 3 and isinstance(shape[2], int) and shape[2] == shape[3]
    if not good or len(outputs) != 1 or outputs[0].shape[-1] != 5 + len(CLASSES):
        raise ValueError(
            f"{path} takes {shape} and gives {outputs[0].shape}; expected a YOLOX export: 1 x 3 x S x S to 1 x N x 85"
        )
    return session, int(shape[2])


def letterbox(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.float32], float]:
    """The photo, uint8 RGB (H, W, 3), in the upper left of a grey square, and by how much it was scaled.

    float32 BGR 0..255, (1, 3, side, side): what the network was trained on.
    """
    scale = min(side / image.shape[0], side / image.shape[1])
    size = max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale))
    square = np.full((side, side, 3), FILL, np.uint8)
    square[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(square[None, :, :, ::-1].transpose(0, 3, 1, 2), np.float32), scale


def decode_grid(raw: NDArray[np.float32], side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Raw answers (N, 85) of one image to boxes x0, y0, x1, y1 in pixels of the square (N, 4), and scores (N, 80)."""
    cells, steps = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: side // stride, : side // stride]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        steps.append(np.full((x.size, 1), stride))
    cell, step = np.concatenate(cells).astype(np.float32), np.concatenate(steps).astype(np.float32)
    if len(cell) != len(raw):
        raise ValueError(f"{len(raw)} answers for {len(cell)} grid cells of an input of {side} pixels")
    centre, half = (raw[:, :2] + cell) * step, np.exp(np.minimum(raw[:, 2:4], 20)) * step / 2
    return np.concatenate([centre - half, centre + half], axis=1), raw[:, 4:5] * raw[:, 5:]


class Yolox(Labeler):
    """Boxes by YOLOX, suppressed class by class."""

    name = "yolox"
    version = 1
    backend = "YOLOX (ONNX)"
    produces = (DET,)
    sources = ("model",)
    resources = Resources(cpu=1.0, batch=16)
    licence = Licence("Apache-2.0", "Apache-2.0")
    default_on = False
    Params = YoloxParams

    def setup(self) -> None:
        self._session, self._side = load_network(self.files["model"])
        self._input = self._session.get_inputs()[0].name

    def boxes(self, image: NDArray[np.uint8]) -> list[Box]:
        """What is in one photo, uint8 RGB (H, W, 3)."""
        pixels, scale = letterbox(image, self._side)
        raw = self._session.run(None, {self._input: pixels})[0][0]
        boxes, scores = decode_grid(raw, self._side)
        found: list[Box | None] = []
        for number in np.flatnonzero((scores >= self.params.score).any(axis=0)):
            sure = np.flatnonzero(scores[:, number] >= self.params.score)
            for i in suppress(boxes[sure], scores[sure, number], self.params.nms).tolist():
                score = min(1.0, float(scores[sure[i], number]))
                found.append(detection(boxes[sure[i]] / scale, CLASSES[number], score, image.shape[:2]))
        return sorted_boxes([one for one in found if one is not None])[: self.params.most]

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [{"det": self.boxes(sample.image)} for sample in samples]
