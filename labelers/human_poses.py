"""human_poses: every person found, as 33 landmarks in the image and in metres, by BlazePose (MediaPipe's two networks).

A detector proposes people in the whole image (and, where asked, in overlapping tiles, for small ones); each proposal is
turned upright, cropped and given to the landmark network, which says whether a person is there at all. Run with
ai-edge-litert on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from labelers.core import blazepose as bp
from labelers.core.compare import people
from labelers.core.labeler import Labeler, Licence, Params, Resources, Sample
from labelers.core.modality import Label, Modality, Null, require
from labelers.core.show import Cell, Picture

LEFT, RIGHT, MIDDLE = (255, 138, 0), (0, 217, 231), (255, 255, 255)  # MediaPipe's orange and cyan
SHOWN = 640  # longest side of a drawn picture
_WHEEL = "pypi:mediapipe==0.10.21!mediapipe/modules"

ARROW = pa.list_(
    pa.struct(
        [
            ("box", pa.list_(pa.float32(), 4)),
            ("score", pa.float32()),
            ("keypoints", pa.list_(pa.float32(), bp.BODY * 3)),
            ("keypoints_3d", pa.list_(pa.float32(), bp.BODY * 3)),
        ]
    )
)
SHAPES = {"box": (4,), "keypoints": (bp.BODY, 3), "keypoints_3d": (bp.BODY, 3)}


def _check(label: Label) -> None:
    require(isinstance(label, list), f"human_poses: expected a list of people, got {type(label).__name__}")
    for i, person in enumerate(label):
        require(
            isinstance(person, dict) and set(person) == {*SHAPES, "score"}, f"human_poses: person {i} has wrong fields"
        )
        for name, shape in SHAPES.items():
            value = person[name]
            require(
                isinstance(value, np.ndarray) and value.dtype == np.float32,
                f"human_poses: person {i}: {name} is not float32",
            )
            require(value.shape == shape, f"human_poses: person {i}: {name} has shape {value.shape}, expected {shape}")
            require(bool(np.isfinite(value).all()), f"human_poses: person {i}: {name} is not finite")
        x0, y0, x1, y1 = person["box"]
        require(x0 <= x1 and y0 <= y1, f"human_poses: person {i}: box {person['box']} is not x0, y0, x1, y1")
        require(0 <= person["score"] <= 1, f"human_poses: person {i}: score {person['score']} is not in 0..1")
        seen = person["keypoints"][:, 2]
        require(seen.min() >= 0 and seen.max() <= 1, f"human_poses: person {i}: a visibility is not in 0..1")


def _encode(label: Label) -> list[dict[str, Any]]:
    return [{k: v.ravel().tolist() if isinstance(v, np.ndarray) else v for k, v in person.items()} for person in label]


def _decode(raw: Any) -> Label:
    return [
        {k: np.asarray(v, np.float32).reshape(SHAPES[k]) if k in SHAPES else float(v) for k, v in person.items()}
        for person in raw
    ]


def _side_colour(a: int, b: int) -> tuple[int, int, int]:
    sides = {bp.NAMES[i].partition("_")[0] for i in (a, b)} | {bp.NAMES[i].rpartition("_")[2] for i in (a, b)}
    if "left" in sides and "right" in sides:
        return MIDDLE
    return LEFT if "left" in sides else RIGHT if "right" in sides else MIDDLE


def draw(label: Label, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The skeletons on the image (made smaller if it is large):

    the person's left side orange, right side cyan, the rest white.
    """
    import cv2

    scale = min(1.0, SHOWN / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    canvas = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image.copy())
    for person in label:
        points = person["keypoints"][:, :2] * (np.array(size) / (image.shape[1], image.shape[0]))
        spots = [(round(float(x) * 16), round(float(y) * 16)) for x, y in points]  # shift=4: sixteenths of a pixel
        visible = person["keypoints"][:, 2] >= 0.5
        reach = float(np.ptp(points[visible], axis=0).max()) if visible.any() else 0.0
        width = int(np.clip(reach / 80, 1, 4))
        limbs = [edge for edge in bp.EDGES if visible[list(edge)].all()]
        for colours, extra in ((False, 2), (True, 0)):  # a dark rim first, so that the colours stand out on any photo
            for a, b in limbs:
                colour = _side_colour(a, b) if colours else (20, 20, 20)
                cv2.line(canvas, spots[a], spots[b], colour, width + extra, cv2.LINE_AA, 4)
        for i in np.flatnonzero(visible):
            cv2.circle(canvas, spots[i], 16 * width, _side_colour(int(i), int(i)), -1, cv2.LINE_AA, 4)
    return np.asarray(canvas, np.uint8)


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    if image is None:
        reach = max((float(p["keypoints"][:, :2].max()) for p in label), default=1.0)
        side = int(np.clip(np.ceil(reach), 1, 8192))
        image = np.full((side, side, 3), 32, np.uint8)
    people = f"{len(label)} {'person' if len(label) == 1 else 'people'}"
    return Picture(draw(label, image), people if label else "no person")


POSES = Modality(
    name="human_poses",
    kind="record",
    container="parquet",
    arrow=ARROW,
    encode=_encode,
    decode=_decode,
    check=_check,
    show=_show,
    compare=people,
    about="list of people, largest box first, empty = nobody: box float32 (4,) x0, y0, x1, y1 pixels round the visible "
    "landmarks; "
    "score 0..1; keypoints float32 (33, 3) x, y pixels and visibility 0..1; keypoints_3d float32 (33, 3) metres, origin between "
    "the hips, x right, y down, z away from the camera; left and right are the person's",
)


class HumanPosesParams(Params):
    """max_people: people kept. detection, presence: least scores of the two networks. same_person: boxes that overlap
    by more are one person. tiles: 1 looks at the whole image only, n > 1 also at n x n overlapping tiles, for small
    people.

    The detector may guess freely because the landmark network judges each guess: on 128 COCO photos 0.2 and 0.7 find a
    fifth more people than MediaPipe's 0.5 and 0.5, with the same share of false ones. tiles=2 finds more small people
    at 3 to 4 times the cost.
    """

    max_people: int = Field(8, ge=1, le=64)
    detection: float = Field(0.2, ge=0.05, le=1)
    presence: float = Field(0.7, ge=0, le=1)
    same_person: float = Field(0.5, gt=0, lt=1)
    tiles: int = Field(1, ge=1, le=4)


class HumanPoses(Labeler):
    """Several people an image, each with 33 landmarks in 2D and 3D."""

    name = "human_poses"
    version = 1
    backend = "BlazePose full (from mediapipe 0.10.21)"
    produces = (POSES,)
    resources = Resources(cpu=1.0, batch=16)
    weights = {
        "detector": f"{_WHEEL}/pose_detection/pose_detection.tflite"
        "#sha256=9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        "landmarks": f"{_WHEEL}/pose_landmark/pose_landmark_full.tflite"
        "#sha256=e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    }
    licence = Licence("Apache-2.0", "Apache-2.0")
    Params = HumanPosesParams

    def setup(self) -> None:
        self._detector = _Network(self.files["detector"])
        self._landmarks = _Network(self.files["landmarks"])

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [{"human_poses": self.people(sample.image)} for sample in samples]

    def people(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The people in one image, uint8 RGB (H, W, 3), largest box first."""
        found = [person for roi in self._proposals(image) if (person := self._person(image, roi)) is not None]
        if not found:
            return []
        boxes, scores = np.stack([p["box"] for p in found]), np.array([p["score"] for p in found], np.float32)
        kept = [found[i] for i in bp.distinct(boxes, scores, self.params.same_person)]
        areas = [-float(np.prod(p["box"][2:] - p["box"][:2])) for p in kept]
        return [kept[i] for i in np.argsort(areas, kind="stable")[: self.params.max_people]]

    def _proposals(self, image: NDArray[np.uint8]) -> list[bp.Roi]:
        """Crops that may hold a person, best score first:

        those of the whole image and of each tile, one a person where they agree.
        """
        detections, scores = [], []
        for x0, y0, x1, y1 in _tiles(image.shape[1], image.shape[0], self.params.tiles):
            square, scale, left, top = letterbox(image[y0:y1, x0:x1])
            raw, logits = self._detector(square.astype(np.float32) / 127.5 - 1, (12, 1))
            found, score = bp.decode_detections(raw[0], logits[0, :, 0], self.params.detection)
            pixels = (found.reshape(-1, 6, 2) * bp.DETECTOR_SIZE - (left, top)) / scale + (x0, y0)
            detections.append(pixels.reshape(-1, 12).astype(np.float32))
            scores.append(score)
        merged, _ = bp.weighted_suppression(np.concatenate(detections), np.concatenate(scores))
        rois = [bp.roi_of(m[4:6], m[6:8]) for m in merged[: 2 * self.params.max_people]]
        return [roi for roi in rois if roi.size >= 8]

    def _person(self, image: NDArray[np.uint8], roi: bp.Roi) -> dict[str, Any] | None:
        """The landmarks of the person in a crop, or None where the network finds nobody there."""
        crop = np.asarray(rotated_crop(image, roi), np.float32) / np.float32(255)
        flat, presence, heatmaps, world = self._landmarks(crop, (195, 1, 39, 117))
        score = float(presence.ravel()[0])
        if not (np.isfinite(score) and score >= self.params.presence):
            return None
        raw = flat.reshape(-1, 5)[: bp.BODY]
        points = bp.refine(raw[:, :2] / np.float32(bp.LANDMARK_SIZE), heatmaps[0][..., : bp.BODY])
        keypoints = np.concatenate([roi.to_image(points), bp.sigmoid(raw[:, 3:4])], axis=1).astype(np.float32)
        return {
            "box": bp.box_of(keypoints, image.shape[1], image.shape[0]),
            "score": min(score, 1.0),
            "keypoints": keypoints,
            "keypoints_3d": bp.turn_world(world.reshape(-1, 3)[: bp.BODY], roi.angle),
        }


class _Network:
    """A .tflite network on one CPU thread: one float32 image in, its outputs by the size of their last axis."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = self._interpreter.get_output_details()

    def __call__(self, image: NDArray[np.float32], sizes: tuple[int, ...]) -> list[NDArray[np.float32]]:
        """image:

        (H, W, 3). Returns copies of the outputs whose last axes are `sizes`, the smallest output where two share one.
        """
        self._interpreter.set_tensor(self._input, image[None])
        self._interpreter.invoke()
        by_size: dict[int, Any] = {}
        for output in sorted(self._outputs, key=lambda o: -int(np.prod(o["shape"]))):
            by_size[int(output["shape"][-1])] = output["index"]
        return [self._interpreter.get_tensor(by_size[size]) for size in sizes]


def _tiles(width: int, height: int, count: int) -> Iterator[tuple[int, int, int, int]]:
    """The whole image as x0, y0, x1, y1, then count x count tiles of it (if count > 1), neighbours sharing a third of
    their side.
    """
    yield 0, 0, width, height
    if count == 1:
        return
    share = 1 / (1 + (count - 1) * 2 / 3)  # of the side
    for row in range(count):
        for column in range(count):
            x0, y0 = (int(size * (1 - share) * i / (count - 1)) for size, i in ((width, column), (height, row)))
            yield x0, y0, min(width, x0 + int(np.ceil(width * share))), min(height, y0 + int(np.ceil(height * share)))


def letterbox(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[float, float], int, int]:
    """The image in the middle of the detector's square, on black: (224, 224, 3), scale x, y, and the offset left, top.

    Pixel (x, y) of the image lies at (x * scale x + left, y * scale y + top).
    """
    import cv2

    height, width = image.shape[:2]
    ratio = bp.DETECTOR_SIZE / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
    left, top = (bp.DETECTOR_SIZE - size[0]) // 2, (bp.DETECTOR_SIZE - size[1]) // 2
    square = np.zeros((bp.DETECTOR_SIZE, bp.DETECTOR_SIZE, 3), np.uint8)
    square[top : top + size[1], left : left + size[0]] = small
    return square, (size[0] / width, size[1] / height), left, top


def rotated_crop(image: NDArray[np.uint8], roi: bp.Roi) -> NDArray[np.uint8]:
    """The square of the image turned upright, uint8 (256, 256, 3);

    the border's pixels repeat outside, as in MediaPipe.
    """
    import cv2

    shrink = max(1, int(roi.size // bp.LANDMARK_SIZE))
    if shrink > 1:  # sampling a large crop at single pixels would alias
        size = (max(1, image.shape[1] // shrink), max(1, image.shape[0] // shrink))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    else:
        small = image
    scale = np.array([small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]])
    linear = bp.rotation(roi.angle) * (roi.size / bp.LANDMARK_SIZE) * scale[:, None]
    middle = bp.LANDMARK_SIZE / 2
    offset = np.array([roi.x, roi.y]) * scale - linear @ (middle, middle)
    matrix = np.concatenate(
        [linear, (offset + linear @ (0.5, 0.5) - 0.5)[:, None]], axis=1
    )  # OpenCV counts from pixel centres
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    side = (bp.LANDMARK_SIZE, bp.LANDMARK_SIZE)
    return np.asarray(cv2.warpAffine(small, matrix, side, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)
