"""One coordinate image as every kind of label: whatever is stored, what a view shows of it is at the same place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelers.core.boxes import DET
from labelers.core.class_map import SEMSEG
from labelers.core.depth_map import DEPTH, DepthMap
from labelers.core.masks import edges_modality, instance, largest_first
from labelers.core.modality import Modality
from labelers.core.normal_map import NORMAL
from labelers.core.rle import encode_rle
from labelers.human_poses import POSES
from labelers.sam import SAM_INSTANCE
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.records import Commit
from pipeline.shard_task import replace
from pipeline.shards import label_file, verify_labels, write_labels
from tokenize_shards.grammar_boxes import cut_detections
from tokenize_shards.grammar_masks import cut_instances
from tokenize_shards.grammar_people import cut_people
from tokenize_shards.inputs import ShardViews
from tokenize_shards.table import TokenSpec, image_row, sequence_row
from tokenize_shards.views import BLAZEPOSE_MIRROR, View

WIDTH, HEIGHT, SIZE, VIEWS = 240, 180, 60, 8
NARROW = (30, 45)  # an image smaller than the view
SCALES = {"depth": 1.5, "normal": 0.5, "semseg": 0.5, "canny_edge": 1.0}  # resolution of the map over the image's
CELL = 20  # pixels of a class


def grid(width: int, height: int, scale: float) -> np.ndarray:
    """x, y in pixels of the image at the centre of each pixel of a map, (h, w, 2)."""
    w, h = round(width * scale), round(height * scale)
    x, y = np.meshgrid((np.arange(w) + 0.5) * width / w, (np.arange(h) + 0.5) * height / h)
    return np.stack([x, y], -1)


def labels_of(width: int, height: int) -> dict[str, Any]:
    """Every label says where it is."""
    maps = {name: grid(width, height, scale) for name, scale in SCALES.items()}
    cells = maps["semseg"] // CELL
    normal = np.stack(
        [maps["normal"][..., 0] / width, np.zeros(maps["normal"].shape[:2]), np.ones(maps["normal"].shape[:2])], -1
    )
    edge = np.zeros((height, width), np.uint8)
    edge[height // 2], edge[:, width // 3] = 255, 255
    disc = np.hypot(*(np.moveaxis(grid(width, height, 1) - (width / 2, height / 3), -1, 0))) < height / 5
    points = np.zeros((33, 3), np.float32)
    points[:] = (width / 3, height / 2, 0.9)
    points[11] = (width / 2, height / 3, 0.9)  # the left shoulder
    box = np.array([width / 3, height / 3, width * 0.6, height * 0.7], np.float32)
    return {
        "depth": DepthMap((1 + maps["depth"][..., 0]).astype(np.float32), "metre"),
        "normal": (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32),
        "semseg": (1 + cells[..., 0] + 13 * (cells[..., 1] % 10)).astype(np.uint8),
        "canny_edge": edge,
        "det": [{"box": box, "label": "person", "score": 0.5}],
        "sam_instance": largest_first([instance(encode_rle(disc), 0.5)]),
        "human_poses": [{"box": box, "score": 0.5, "keypoints": points, "keypoints_3d": points}],
    }  # fmt: skip


MODALITIES: tuple[Modality, ...] = (
    DEPTH, NORMAL, SEMSEG, edges_modality("canny_edge", ""), DET, SAM_INSTANCE, POSES,
)  # fmt: skip
ROWS: dict[str, TokenSpec] = {
    "rgb": image_row("rgb", SIZE, 4, 3, 16), "depth": image_row("depth", SIZE, 4, 1, 16, "depth"),
    "normal": image_row("normal", SIZE, 4, 3, 16, "normals"),
    "semseg": image_row("semseg", SIZE, 4, 134, 16, "classes"),
    "canny_edge": image_row("canny_edge", SIZE, 4, 1, 16, "edges"), "det": sequence_row("det", 99),
    "sam_instance": sequence_row("sam_instance", 99), "human_poses": sequence_row("human_poses", 99),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two coordinate photos, one smaller than the view, with all their labels committed."""
    folder = tmp_path_factory.mktemp("coordinates")
    (folder / "photos").mkdir()
    for number, (width, height) in enumerate(((WIDTH, HEIGHT), NARROW)):
        where = grid(width, height, 1).round()
        Image.fromarray(np.concatenate([where, where[..., :1] * 0], -1).astype(np.uint8)).save(
            folder / "photos" / f"{number}.png"
        )
    ds = Dataset.create(str(folder / "ds"), "coordinates", 8)
    ingest(ds, [str(folder / "photos")])
    made = [labels_of(row.width, row.height) for row in ds.index(0)]
    for modality in MODALITIES:
        recipe = ds.put_recipe({"modality": modality.name, "labeler": "test", "reads": {}})
        ds.update_manifest({modality.name: recipe})
        draft = Commit(modality.name, recipe, 0, label_file(modality, 0), 0, 0, "")
        labels = [one[modality.name] for one in made]
        write = partial(write_labels, modality=modality, ids=ds.ids(0), labels=labels, inputs={})
        replace(ds, draft, write, partial(verify_labels, modality=modality))
    return ds


def cut(ds: Dataset, name: str, threads: int = 1) -> list[list[Any]]:
    """What the tokenizer of a modality looks at, by sample and view."""
    shard = ShardViews(ds, 0, range(VIEWS), 3, threads=threads)
    return shard.cut(ROWS[name], ds.current(name))  # type: ignore[return-value]


def expected(view: View) -> np.ndarray:
    """Where the centre of each output pixel lies in the image, (SIZE, SIZE, 2)."""
    return view.to_pixels(grid(SIZE, SIZE, 1) / SIZE)


def views(ds: Dataset) -> list[list[View]]:
    found = ShardViews(ds, 0, range(VIEWS), 3).views
    assert {view.flip for one in found for view in one} == {True, False}
    return found


def test_maps_of_any_resolution_show_the_same_place(world: Dataset) -> None:
    found = {name: cut(world, name) for name in ("rgb", "depth", "normal", "semseg", "canny_edge")}
    for sample, row in enumerate(views(world)):
        index = world.index(0)[sample]
        for number, view in enumerate(row):
            where, step = expected(view), max(1.0, view.side / SIZE)
            at = {name: cuts[sample][number] for name, cuts in found.items()}
            inner = slice(3, -3)  # at its own border an image is averaged with nothing beyond it
            assert np.abs(at["rgb"][..., :2] - where)[inner, inner].max() <= 1.6
            assert np.abs(at["depth"] - 1 - where[..., 0])[inner, inner].max() <= 0.15
            slope = at["normal"][..., 0] / at["normal"][..., 2]
            assert (
                np.abs((-slope if view.flip else slope) * index.width - where[..., 0])[inner, inner].max()
                <= 2 + 0.02 * index.width
            )
            cells = where // CELL
            sure = (np.abs(where - (cells + 0.5) * CELL) < CELL / 2 - 2).all(-1)  # half a pixel of the coarser map
            wanted = 1 + cells[..., 0] + 13 * (cells[..., 1] % 10)
            assert np.array_equal(at["semseg"][sure], wanted[sure].astype(np.uint8))
            lines = (np.abs(where[..., 1] - index.height // 2 - 0.5) <= step / 2) | (
                np.abs(where[..., 0] - index.width // 3 - 0.5) <= step / 2
            )
            far = (np.abs(where[..., 1] - index.height // 2 - 0.5) > step + 1) & (
                np.abs(where[..., 0] - index.width // 3 - 0.5) > step + 1
            )
            assert not at["canny_edge"][far].any() and (at["canny_edge"][lines] > 0).mean() > 0.4


def test_boxes_masks_and_people_move_with_the_maps(world: Dataset) -> None:
    found = {name: cut(world, name) for name in ("det", "sam_instance", "human_poses")}
    for sample, row in enumerate(views(world)):
        index = world.index(0)[sample]
        truth = labels_of(index.width, index.height)
        for number, view in enumerate(row):
            for name, cuts in found.items():
                used, sample_id, at = cuts[sample][number][1:]
                assert (used, sample_id, at) == (view, index.id, number), name
            corners = np.clip(view.to_unit(truth["det"][0]["box"].reshape(2, 2)), 0, 1)
            low, high = corners.min(0), corners.max(0)
            boxes = cut_detections(found["det"][sample][number][0], view)
            people = cut_people(found["human_poses"][sample][number][0], view)
            if boxes:
                assert np.allclose(boxes[0]["box"], [*low, *high], atol=1e-5)
                assert np.allclose(people[0]["box"], boxes[0]["box"])
                shoulder = people[0]["keypoints"][BLAZEPOSE_MIRROR[11] if view.flip else 11]
                assert np.allclose(shoulder[:2], view.to_unit(truth["human_poses"][0]["keypoints"][11, :2]), atol=1e-5)
            else:
                assert np.prod(high - low) < 0.15 and not people
            centre, radius = np.array([index.width / 2, index.height / 3]), index.height / 5
            inside = np.hypot(*np.moveaxis(expected(view) - centre, -1, 0)) / radius
            for mask in cut_instances(found["sam_instance"][sample][number][0], view):
                spots = (grid(SIZE, SIZE, 1) / SIZE * np.array(mask.mask.shape[::-1])).astype(int)
                shown = mask.mask[spots[..., 1], spots[..., 0]]
                edge = 1.5 / radius
                assert shown[inside < 1 - edge].all() and not shown[inside > 1 + edge].any()


@pytest.mark.parametrize("name", list(ROWS))
def test_threads_change_nothing(world: Dataset, name: str) -> None:
    def flat(cuts: Sequence[Sequence[Any]]) -> list[np.ndarray]:
        return [view for row in cuts for view in row if isinstance(view, np.ndarray)]

    one, four = flat(cut(world, name)), flat(cut(world, name, 4))
    assert len(one) == len(four) and all(np.array_equal(a, b) for a, b in zip(one, four, strict=True))
