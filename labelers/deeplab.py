"""semseg by DeepLabV3 trained on Pascal VOC, from a .tflite file, on the CPU: 20 of COCO's things, the rest void.

VOC's classes are COCO things under other names, so the labels are those of semseg, and `diff` compares them with any
other backend's. What VOC calls background may be any of COCO's 113 other classes: it is void, never a class. Readers
that need all of them (metadata's walkability) see that most of such a map is void. No wheel carries the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from labelers.core.class_map import NUMBER_OF, SEMSEG
from labelers.core.labeler import Labeler, Licence, Resources, Sample
from labelers.core.modality import Label, Null

MEAN = 127  # of the training's pixels
# By VOC's number, 1..20, in COCO's words (aeroplane, diningtable, motorbike, pottedplant, sofa and tvmonitor in VOC's).
VOC = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog", "horse",
    "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv",
)  # fmt: skip
STORED = np.array([0, *(NUMBER_OF[name] for name in VOC)], np.uint8)  # VOC's number -> stored number


def load_network(path: Path) -> Any:
    """A .tflite interpreter on one thread. ValueError for a file that does not give VOC's classes a pixel."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        network = Interpreter(model_path=str(path), num_threads=1)
        network.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is no .tflite network ({str(error)[:200]})") from error
    (taken, *more), (given, *others) = network.get_input_details(), network.get_output_details()
    shape, answer = tuple(taken["shape"]), tuple(given["shape"])
    good = len(shape) == 4 and shape[3] == 3 and shape[:3] == answer and taken["dtype"] == np.uint8
    if more or others or not good or np.dtype(given["dtype"]).kind not in "iu":
        raise ValueError(
            f"{path} takes {shape} and gives {answer}; expected uint8 1 x S x S x 3 to class numbers 1 x S x S"
        )
    return network


def framed(image: NDArray[np.uint8], height: int, width: int) -> tuple[NDArray[np.uint8], int, int]:
    """The photo, shrunk or enlarged to fit and in the upper left of a frame of the training's mean grey, and the rows and
    columns that it covers. Squeezing it into the frame instead cost 2 points of mean IoU on COCO photos.
    """
    scale = min(height / image.shape[0], width / image.shape[1])
    rows, columns = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    frame = np.full((height, width, 3), MEAN, np.uint8)
    frame[:rows, :columns] = cv2.resize(
        image, (columns, rows), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    return frame, rows, columns


class Deeplab(Labeler):
    """Class maps by a quantised DeepLabV3 (VOC), stretched from the network's size to the photo's."""

    name = "deeplab"
    version = 1
    backend = "DeepLabV3 (VOC's 20 classes of 133)"
    produces = (SEMSEG,)
    sources = ("model",)
    resources = Resources(cpu=1.0, batch=16)
    licence = Licence("Apache-2.0", "Apache-2.0")
    default_on = False

    def setup(self) -> None:
        self._network = load_network(self.files["model"])
        self._input = self._network.get_input_details()[0]
        self._output = self._network.get_output_details()[0]["index"]

    def classes(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The class map, stored numbers, of one photo, uint8 RGB (H, W, 3): uint8 (H, W)."""
        frame, rows, columns = framed(image, *self._input["shape"][1:3].tolist())
        self._network.set_tensor(self._input["index"], frame[None])
        self._network.invoke()
        numbers = self._network.get_tensor(self._output)[0, :rows, :columns]
        if int(numbers.max()) >= len(STORED) or int(numbers.min()) < 0:
            raise ValueError(f"the network gives class {numbers.max()}; expected VOC's 0..{len(STORED) - 1}")
        size = image.shape[1], image.shape[0]
        return np.asarray(cv2.resize(STORED[numbers], size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [{"semseg": self.classes(sample.image)} for sample in samples]
