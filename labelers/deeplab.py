"""semseg by DeepLabV3 trained on Pascal VOC, from a .tflite file, on the CPU: 20 of COCO's things, the rest void.

VOC's classes are COCO things under other names, so the labels are those of semseg, and `diff` compares them with any
other backend's. What VOC calls background may be any of COCO's 113 other classes: it is void, never a class. Readers
that need all of them (metadata's walkability) see that most of such a map is void. No wheel carries the file.

Looked at in several sizes, and the class probabilities averaged, a photo's map is better: with scales of 0.75, 1 and
1.25, chosen on the 100 COCO photos that say so, mean IoU over VOC's classes is 0.613 after 0.604, of buses 0.865 after
0.838, for nine times the time. Averaging with the mirrored photo as well gained nothing there.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from labelers.core import labeler
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


def load_network(path: Path, scores: bool = False) -> Any:
    """A .tflite interpreter on one thread. scores: keep what the classes were chosen by. ValueError for a file that does
    not give VOC's classes a pixel.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that keeping tensors takes memory: 60 MB here
            network = Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=scores)
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


def scores_of(network: Any) -> dict[str, Any]:
    """The tensor that holds a score a class on the network's coarse grid, (1, g, g, 21), before it is enlarged.

    ValueError where the file has none.
    """
    found = [t for t in network.get_tensor_details() if len(t["shape"]) == 4 and t["shape"][3] == len(STORED)]
    if not found:
        raise ValueError(f"the network has no map of {len(STORED)} scores inside; leave params.scales at [1.0]")
    least = min(t["shape"][1] for t in found)
    return dict([t for t in found if t["shape"][1] == least][-1])


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


def tiles(length: int, side: int) -> list[int]:
    """Where tiles of `side` begin that cover a length, as few and as evenly as possible."""
    count = -(-length // side)
    return [round(i * (length - side) / (count - 1)) for i in range(count)] if count > 1 else [0]


def enlarged(grid: NDArray[np.float32], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values of a grid (g, g, n) between its points, linearly: float32 (len(y), len(x), n). y, x: in steps of the grid."""

    def along(values: NDArray[np.float32], place: NDArray[np.float64]) -> NDArray[np.float32]:
        place = np.clip(place, 0, len(values) - 1)
        low = np.minimum(place.astype(np.int64), len(values) - 2)
        part = (place - low).astype(np.float32)[:, None, None]
        return np.asarray(values[low] * (1 - part) + values[low + 1] * part)

    rows = along(grid, y)
    return np.ascontiguousarray(along(rows.transpose(1, 0, 2), x).transpose(1, 0, 2))


class DeeplabParams(labeler.Params):
    """scales: sizes at which the photo is looked at, 1 being that at which it just fits into the network; larger ones in
    tiles. The probabilities of several are averaged.
    """

    scales: tuple[Annotated[float, Field(ge=0.1, le=4)], ...] = Field((1.0,), min_length=1)


class Deeplab(Labeler):
    """Class maps by a quantised DeepLabV3 (VOC), stretched from the network's size to the photo's."""

    Params = DeeplabParams

    name = "deeplab"
    version = 1
    backend = "DeepLabV3 (VOC's 20 classes of 133)"
    produces = (SEMSEG,)
    sources = ("model",)
    resources = Resources(cpu=1.0, batch=16)
    licence = Licence("Apache-2.0", "Apache-2.0")
    default_on = False

    def setup(self) -> None:
        several = self.params.scales != (1.0,)
        self._network = load_network(self.files["model"], several)
        self._input = self._network.get_input_details()[0]
        self._output = self._network.get_output_details()[0]["index"]
        self._scores = scores_of(self._network) if several else None

    def classes(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The class map, stored numbers, of one photo, uint8 RGB (H, W, 3): uint8 (H, W)."""
        numbers = self._one_look(image) if self._scores is None else self._probabilities(image).argmax(axis=2)
        if int(numbers.max()) >= len(STORED) or int(numbers.min()) < 0:
            raise ValueError(f"the network gives class {numbers.max()}; expected VOC's 0..{len(STORED) - 1}")
        size = image.shape[1], image.shape[0]
        return np.asarray(cv2.resize(STORED[numbers], size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)

    def _one_look(self, image: NDArray[np.uint8]) -> NDArray[np.int64]:
        """VOC's numbers, as the network itself chooses them."""
        frame, rows, columns = framed(image, *self._input["shape"][1:3].tolist())
        self._run(frame)
        return np.asarray(self._network.get_tensor(self._output)[0, :rows, :columns])

    def _run(self, frame: NDArray[np.uint8]) -> None:
        self._network.set_tensor(self._input["index"], frame[None])
        self._network.invoke()

    def _probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Of each class, (h, w, 21), at the largest size that is looked at; the mean over the sizes, and where tiles
        overlap over those.
        """
        side = int(self._input["shape"][1])
        height, width = _fitted(image, side * max(self.params.scales))
        total = np.zeros((height, width, len(STORED)), np.float32)
        for scale in self.params.scales:
            rows, columns = _fitted(image, side * scale)
            filter_ = cv2.INTER_AREA if rows < image.shape[0] else cv2.INTER_LINEAR
            small = np.asarray(cv2.resize(image, (columns, rows), interpolation=filter_), np.uint8)
            y, x = (np.arange(height) + 0.5) * rows / height - 0.5, (np.arange(width) + 0.5) * columns / width - 0.5
            sums, looks = np.zeros_like(total), np.zeros((height, width, 1), np.float32)
            for top in tiles(rows, side):
                for left in tiles(columns, side):
                    tile = small[top : top + side, left : left + side]
                    here = np.ix_(_inside(y - top, tile.shape[0]), _inside(x - left, tile.shape[1]))
                    sums[here] += self._look(tile, y[here[0][:, 0]] - top, x[here[1][0]] - left)
                    looks[here] += 1
            total += sums / looks
        return total

    def _look(self, tile: NDArray[np.uint8], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float32]:
        """Probabilities at places of a tile, in its pixels."""
        assert self._scores is not None
        side = int(self._input["shape"][1])
        frame = np.full((side, side, 3), MEAN, np.uint8)
        frame[: tile.shape[0], : tile.shape[1]] = tile
        self._run(frame)
        scale, zero = self._scores["quantization"]
        raw = self._network.get_tensor(self._scores["index"])[0].astype(np.float32)
        step = (side - 1) / (raw.shape[0] - 1)  # the grid's corners lie on the frame's
        scores = enlarged((raw - zero) * np.float32(scale or 1), y / step, x / step)
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        return np.asarray(scores / scores.sum(axis=2, keepdims=True))

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [{"semseg": self.classes(sample.image)} for sample in samples]


def _fitted(image: NDArray[np.uint8], side: float) -> tuple[int, int]:
    """(rows, columns) of a photo whose longer side has that many pixels."""
    scale = side / max(image.shape[:2])
    return max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))


def _inside(places: NDArray[np.float64], length: int) -> NDArray[np.int64]:
    """Numbers of the places that lie on a tile of that length."""
    return np.flatnonzero((places >= -0.5) & (places < length - 0.5))
