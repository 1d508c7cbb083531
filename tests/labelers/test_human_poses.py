"""BlazePose: its geometry in numpy alone, then people in real photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.core import blazepose as bp
from labelers.core.modality import LabelError
from labelers.core.weights import resolve_all
from labelers.human_poses import POSES, HumanPoses, HumanPosesParams, _tiles, draw, letterbox, rotated_crop


@pytest.fixture(scope="module")
def blazepose() -> HumanPoses:
    labeler = HumanPoses(files={slot: weight.path for slot, weight in resolve_all(HumanPoses.weights).items()})
    labeler.setup()
    return labeler


def read(path: Path) -> np.ndarray:
    import cv2

    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def person(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(0, 1, (33, 3)).astype(np.float32) * np.array([60, 40, 1], np.float32)
    world = rng.normal(size=(33, 3)).astype(np.float32)
    return {
        "box": bp.box_of(keypoints, 60, 40),
        "score": float(np.float32(0.9)),
        "keypoints": keypoints,
        "keypoints_3d": world,
    }


# Geometry -------------------------------------------------------------------------------------------------------------


def test_anchors() -> None:
    anchors = bp.anchors()
    assert anchors.shape == (2254, 2)
    assert anchors.min() > 0
    assert anchors.max() < 1
    np.testing.assert_allclose(anchors[[0, 1, 2]] * 28, [[0.5, 0.5], [0.5, 0.5], [1.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(anchors[1568 + 392 :][[0, 5, 6]] * 7, [[0.5, 0.5], [0.5, 0.5], [1.5, 0.5]], rtol=1e-6)


def test_decoding_adds_the_anchor() -> None:
    raw, logits = np.zeros((2254, 12), np.float32), np.full(2254, -9, np.float32)
    logits[2] = 9
    raw[2] = [0, 0, 22.4, 44.8, 22.4, 0, 0, -22.4, 0, 0, 0, 0]
    detections, scores = bp.decode_detections(raw, logits, 0.5)
    x, y = 1.5 / 28, 0.5 / 28
    expected = [x - 0.05, y - 0.1, x + 0.05, y + 0.1, x + 0.1, y, x, y - 0.1, x, y, x, y]
    np.testing.assert_allclose(detections, [expected], atol=1e-6)
    assert scores == pytest.approx([1 / (1 + np.exp(-9))])


def test_suppression_averages_one_person_and_keeps_the_other() -> None:
    boxes = np.zeros((3, 12), np.float32)
    boxes[:, :4] = [[0, 0, 1, 1], [0.2, 0, 1.2, 1], [5, 5, 6, 6]]
    merged, scores = bp.weighted_suppression(boxes, np.array([0.9, 0.3, 0.5], np.float32))
    np.testing.assert_allclose(merged[:, :4], [[0.05, 0, 1.05, 1], [5, 5, 6, 6]], atol=1e-6)
    np.testing.assert_allclose(scores, [0.9, 0.5])
    assert bp.weighted_suppression(boxes[:0], scores[:0])[0].shape == (0, 12)
    assert bp.weighted_suppression(np.zeros((2, 12), np.float32), np.ones(2, np.float32))[0].shape == (2, 12)


@given(st.integers(1, 40), st.integers(0, 10_000))
def test_suppression_ends_with_boxes_of_the_input(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 1, (count, 2))
    boxes = np.zeros((count, 12), np.float32)
    boxes[:, :4] = np.concatenate([corners, corners + rng.uniform(0, 0.5, (count, 2))], axis=1)
    merged, scores = bp.weighted_suppression(boxes, rng.uniform(0.1, 1, count).astype(np.float32))
    assert 1 <= len(merged) == len(scores) <= count
    assert (np.diff(scores) <= 0).all()
    assert merged[:, :4].min() >= boxes[:, :4].min() - 1e-6


def test_iou() -> None:
    box = np.array([0, 0, 2, 2], np.float32)
    others = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 3, 3], [1, 1, 1, 1]], np.float32)
    np.testing.assert_allclose(bp.iou(box, others), [1, 1 / 3, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("dx", "dy", "angle"), [(0, -10, 0), (10, 0, np.pi / 2), (-10, 0, -np.pi / 2), (0, 10, -np.pi)]
)
def test_the_crop_stands_the_body_up(dx: float, dy: float, angle: float) -> None:
    hips = np.array([50, 60], np.float32)
    roi = bp.roi_of(hips, hips + np.array([dx, dy], np.float32))
    assert (roi.x, roi.y, roi.size) == (50, 60, 25)
    assert roi.angle == pytest.approx(angle)
    head = roi.to_image(np.array([[0.5, 0.5 - 10 / 25]], np.float32))[0]  # straight up in the crop
    np.testing.assert_allclose(head, np.add(hips, [dx, dy]), atol=1e-4)


@given(st.floats(-3, 3), st.floats(60, 240), st.integers(0, 1000))
def test_what_the_crop_shows_lies_where_to_image_says(angle: float, size: float, seed: int) -> None:
    """A blob painted into the image is found in the crop at the place that leads back to it."""
    at = np.random.default_rng(seed).uniform(-0.25, 0.25, 2).astype(np.float32)
    roi = bp.Roi(150, 130, size, angle)
    x, y = roi.to_image(at[None] + 0.5)[0]
    rows, columns = np.mgrid[:260, :300] + 0.5
    blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4.0**2))
    crop = rotated_crop((blob[..., None] * [255, 255, 255]).astype(np.uint8), roi)[..., 0].astype(np.float64)
    rows, columns = np.mgrid[:256, :256] + 0.5
    found = np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum() / 256
    np.testing.assert_allclose((found - 0.5 - at) * size, 0, atol=0.3)  # image pixels


def test_a_large_crop_is_not_aliased() -> None:
    stripes = np.zeros((2048, 2048, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = rotated_crop(stripes, bp.Roi(1024, 1024, 1800, 0.0))
    assert crop.std() < 10
    assert abs(crop.mean() - 127) < 3


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (1, 1), (1, 3000), (100, 100)])
def test_letterbox_keeps_the_whole_image(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 200, np.uint8)
    square, scale, left, top = letterbox(image)
    assert square.shape == (224, 224, 3)
    right, bottom = left + shape[1] * scale[0], top + shape[0] * scale[1]
    inside = square[top : round(bottom), left : round(right)]
    assert inside.min() == 200
    assert square.astype(int).sum() == inside.astype(int).sum()


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 4))
def test_tiles_cover_the_image(width: int, height: int, count: int) -> None:
    seen = np.zeros((height, width), bool)
    tiles = list(_tiles(width, height, count))
    assert tiles[0] == (0, 0, width, height)
    assert len(tiles) == 1 + (count**2 if count > 1 else 0)
    for x0, y0, x1, y1 in tiles[1:] or tiles:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        seen[y0:y1, x0:x1] = True
    assert seen.all()


def test_refinement_moves_to_the_heat() -> None:
    heat = np.full((64, 64, 2), -20, np.float32)
    heat[30, 33, 0] = 8
    points = np.array([[32 / 64, 31 / 64], [0.2, 0.2]], np.float32)
    refined = bp.refine(points, heat)
    np.testing.assert_allclose(refined, [[33 / 64, 30 / 64], [0.2, 0.2]], atol=1e-3)
    outside = np.array([[-0.1, 0.5], [1.2, 0.5]], np.float32)
    assert np.array_equal(bp.refine(outside, heat), outside)


def test_the_world_turns_with_the_crop() -> None:
    up = np.array([[0, -1, 0.3]], np.float32)
    np.testing.assert_allclose(bp.turn_world(up, np.pi / 2), [[1, 0, 0.3]], atol=1e-6)


def test_one_person_found_twice_is_kept_once() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10]], np.float32)
    assert bp.distinct(boxes, np.array([0.8, 0.9, 0.7], np.float32), 0.5) == [1, 2]


def test_landmark_names_pair_up() -> None:
    assert len(bp.NAMES) == 33 == len(set(bp.NAMES))
    swapped = {n.replace("left", "*").replace("right", "left").replace("*", "right") for n in bp.NAMES}
    assert swapped == set(bp.NAMES)
    assert {i for edge in bp.EDGES for i in edge} == set(range(33))


# Encoding -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 1000), max_size=3))
def test_round_trip_through_arrow(seeds: list[int]) -> None:
    label = [person(seed) for seed in seeds]
    POSES.check(label)
    stored = pa.array([POSES.encode(label), None], POSES.arrow)
    back = POSES.decode(stored[0].as_py())
    POSES.check(back)
    assert len(back) == len(label)
    assert stored[1].as_py() is None
    for one, other in zip(label, back, strict=True):
        assert one["score"] == other["score"]
        assert all(one[name].tobytes() == other[name].tobytes() for name in ("box", "keypoints", "keypoints_3d"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("box", np.array([5, 0, 1, 9], np.float32)),
        ("box", [0, 0, 1, 1]),
        ("score", 1.5),
        ("keypoints", np.zeros((33, 2), np.float32)),
        ("keypoints", np.full((33, 3), 2, np.float32)),
        ("keypoints_3d", np.full((33, 3), np.nan, np.float32)),
        ("extra", 1),
    ],
)
def test_wrong_people_are_refused(field: str, value: object) -> None:
    with pytest.raises(LabelError, match="human_poses"):
        POSES.check([{**person(), field: value}])


def test_show() -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    before = image.copy()
    cell = POSES.show([person(), person(1)], image)
    assert cell.caption == "2 people"
    assert cell.pixels.shape == image.shape
    assert not np.array_equal(cell.pixels, image)
    assert np.array_equal(image, before)
    empty = POSES.show([], image)
    assert empty.caption == "no person"
    assert np.array_equal(empty.pixels, image)
    assert POSES.show([person()], None).caption == "1 person"
    assert draw([], np.zeros((3000, 1000, 3), np.uint8)).shape == (640, 213, 3)


def test_left_and_right_have_their_colours() -> None:
    someone = person()
    someone["keypoints"][:, 2] = 0
    someone["keypoints"][[11, 13]] = [[10, 5, 1], [10, 35, 1]]  # left upper arm
    someone["keypoints"][[12, 14]] = [[50, 5, 1], [50, 35, 1]]  # right upper arm
    drawn = draw([someone], np.zeros((40, 60, 3), np.uint8)).astype(int)
    assert drawn[20, 10, 0] > drawn[20, 10, 2] + 100
    assert drawn[20, 50, 2] > drawn[20, 50, 0] + 100


# Real networks --------------------------------------------------------------------------------------------------------


def test_odd_images_have_no_person(blazepose: HumanPoses) -> None:
    for shape in [(1, 1), (1, 900), (900, 2), (300, 300)]:
        assert blazepose.people(np.full((*shape, 3), 127, np.uint8)) == []


def test_a_person_in_a_photo(blazepose: HumanPoses, assets: Path) -> None:
    image = read(assets / "images" / "skimage_astronaut.png")
    (found,) = blazepose.people(image)
    POSES.check([found])
    points = {name: found["keypoints"][i] for i, name in enumerate(bp.NAMES)}
    assert np.hypot(*(points["nose"][:2] - [224, 127])) < 20  # where the nose is in this photo
    assert points["left_shoulder"][0] > points["right_shoulder"][0]  # facing us: her left is on our right
    world = dict(zip(bp.NAMES, found["keypoints_3d"], strict=True))
    hips = (world["left_hip"] + world["right_hip"]) / 2
    assert np.linalg.norm(hips) < 0.05
    assert 0.2 < np.linalg.norm(world["left_shoulder"] - world["right_shoulder"]) < 0.6
    assert world["nose"][1] < world["left_shoulder"][1] < 0  # y points down, in metres


def test_landmarks_turn_with_the_image(blazepose: HumanPoses, assets: Path) -> None:
    image = read(assets / "images" / "skimage_astronaut.png")
    upright = blazepose.people(image)[0]
    turned = blazepose.people(np.ascontiguousarray(np.rot90(image, -1)))  # clockwise: (x, y) -> (height - y, x)
    assert len(turned) == 1
    expected = np.stack([image.shape[0] - upright["keypoints"][:, 1], upright["keypoints"][:, 0]], axis=1)
    face = slice(0, 13)
    assert np.abs(turned[0]["keypoints"][face, :2] - expected[face]).max() < 30
    world, before = turned[0]["keypoints_3d"], upright["keypoints_3d"]
    assert np.abs(world[face, :2] - np.stack([-before[face, 1], before[face, 0]], axis=1)).max() < 0.2


def test_several_people_and_the_limit(blazepose: HumanPoses, assets: Path) -> None:
    image = read(assets / "images" / "coco_000000000241.jpg")
    found = blazepose.people(image)
    assert len(found) >= 3
    areas = [float(np.prod(p["box"][2:] - p["box"][:2])) for p in found]
    assert areas == sorted(areas, reverse=True)
    assert [p["keypoints"].tobytes() for p in blazepose.people(image)] == [p["keypoints"].tobytes() for p in found]
    few = HumanPoses(HumanPosesParams(max_people=1), blazepose.files)
    few.setup()
    assert len(few.people(image)) == 1


def test_people_who_fill_a_fifth_of_a_photo_are_found(blazepose: HumanPoses, assets: Path) -> None:
    """At least 80 % of the photos whose largest person box covers 1/5 of the image."""
    truth = json.loads((assets / "gt" / "coco_instances_train128.json").read_text())
    sizes = {
        image["id"]: (image["width"] * image["height"], Path(image["file_name"]).name) for image in truth["images"]
    }
    (human,) = (category["id"] for category in truth["categories"] if category["name"] == "person")
    share: dict[int, float] = {}
    for note in truth["annotations"]:
        if note["category_id"] == human and not note.get("iscrowd"):
            covered = note["bbox"][2] * note["bbox"][3] / sizes[note["image_id"]][0]
            share[note["image_id"]] = max(covered, share.get(note["image_id"], 0))
    large = sorted(i for i, covered in share.items() if covered >= 0.2)
    found = [bool(blazepose.people(read(assets / "images" / f"coco_{sizes[i][1]}"))) for i in large]
    assert len(large) == 24
    assert np.mean(found) >= 0.8
