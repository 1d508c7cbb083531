"""keypoints by ViTPose on boxes, and the plug for SMPL bodies."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from labelers.core.boxes import Box, detection
from labelers.core.keypoints import KEYPOINTS
from labelers.core.labeler import Sample
from labelers.core.modality import LabelError, Null
from labelers.smpl_poses import SMPL_POSES, SmplParams, SmplPoses
from labelers.vitpose import VitPose
from tests.labelers import tiny, tiny_more


def box(x0: float, y0: float, x1: float, y1: float, label: str = "person", score: float = 0.9) -> Box:
    found = detection((x0, y0, x1, y1), label, score, (4000, 4000))
    assert found is not None
    return found


def test_vitpose_on_odd_images(tmp_path: Path) -> None:
    labeler = tiny.ready(VitPose, tiny_more.vitpose(tmp_path), most=2)
    people = [
        box(0, 0, 1, 1),
        box(0.2, 0, 0.9, 1),
        box(0, 0, 0.5, 0.5),
        box(0, 0, 1, 1, "dog"),
        box(0, 0, 1, 1, score=0.5),
    ]
    for sample in tiny.odd_samples():
        height, width = sample.image.shape[:2]
        ours = [{**one, "box": one["box"] * np.float32([width, height] * 2)} for one in people]
        (row,) = labeler.label([Sample(sample.id, sample.image, labels={"det": ours})])
        KEYPOINTS.check(row["keypoints"])
        assert len(row["keypoints"]) == 2  # at most two, no dog, nobody unsure
    nobody = [Sample("a", tiny.photo(), labels={"det": []}), Sample("b", tiny.photo(), labels={"det": Null("bad")}),
              Sample("c", tiny.photo())]  # fmt: skip
    rows = [row["keypoints"] for row in labeler.label(nobody)]
    assert rows == [[], Null("no det: bad"), Null("no det: not labelled")]


@pytest.mark.parametrize("experts", [1, 3])
def test_joints_agree_with_transformers(experts: int, tmp_path: Path) -> None:
    """The library's own cutting (scipy) and reading, with the same network; ViTPose+ asks its COCO expert."""
    import torch
    from transformers import VitPoseImageProcessorPil

    labeler = tiny.ready(VitPose, tiny_more.vitpose(tmp_path, experts))
    image, one = (
        tiny.photo((120, 160)),
        box(60, 30, 90, 90),
    )  # with a margin: at a border scipy does not blend with black
    (row,) = labeler.label([Sample("a", image, labels={"det": [one]})])
    theirs = VitPoseImageProcessorPil.from_pretrained(tmp_path)
    corners = [[[60.0, 30.0, 30.0, 60.0]]]
    inputs = theirs(image, boxes=corners, return_tensors="pt")
    ours = labeler.pixels(labeler.crop(image, one["box"])[None])
    assert (ours - inputs["pixel_values"]).abs().max() < 0.04  # one step of 255, and OpenCV's 32 steps between pixels
    with torch.inference_mode():
        out = labeler.run(inputs["pixel_values"])
    (((found,)),) = theirs.post_process_pose_estimation(out, boxes=corners)
    away = np.linalg.norm(row["keypoints"][0]["keypoints"][:, :2] - found["keypoints"].numpy(), axis=1)
    assert np.median(away) < 1.0
    np.testing.assert_allclose(
        row["keypoints"][0]["keypoints"][:, 2], np.clip(found["scores"].numpy(), 0, 1), atol=0.02
    )


def test_a_peak_lies_where_the_image_says(tmp_path: Path) -> None:
    """A heat map with a peak at a place of the crop is a joint at the place of the image that was cut there."""
    import torch

    labeler = tiny.ready(VitPose, tiny_more.vitpose(tmp_path))
    one = box(40, 20, 90, 110)
    rows, columns = np.mgrid[:16, :12]
    heat = torch.from_numpy(np.exp(-((columns - 6) ** 2 + (rows - 4) ** 2) / 4)[None].repeat(17, 0).astype(np.float32))
    x, y = labeler._joints(one, heat)["keypoints"][0, :2]
    left, top, wide, high = labeler.window(one["box"])
    assert (x, y) == (pytest.approx(left + wide * 6 / 11, abs=0.5), pytest.approx(top + high * 4 / 15, abs=0.5))


def test_other_joints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 joints; keypoints needs COCO's 17"):
        tiny.ready(VitPose, tiny_more.vitpose(tmp_path, joints=5))


# SMPL -----------------------------------------------------------------------------------------------------------------


class Bodies:
    """What a user's package brings."""

    def __init__(self, folder: Path, device: str) -> None:
        self.betas = np.full(10, float((folder / "betas.txt").read_text()))

    def people(self, image: np.ndarray, boxes: np.ndarray) -> list[Any]:
        turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float64)
        body = {
            "global_orient": turn,
            "body_pose": np.tile(np.eye(3), (23, 1, 1)),
            "betas": self.betas,
            "camera": [1, 0, 2],
        }
        return [body if edges[0] > 0 else None for edges in boxes]


@pytest.fixture
def bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmplPoses:
    module = ModuleType("my_bodies")
    module.Bodies = Bodies  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_bodies", module)
    (tmp_path / "betas.txt").write_text("0.5")
    labeler = SmplPoses(SmplParams(model="my_bodies:Bodies"), {"model": tmp_path})
    labeler.setup()
    return labeler


def test_bodies_through_the_plug(bodies: SmplPoses) -> None:
    people = [box(3, 4, 20, 30), box(0, 4, 20, 30), box(5, 5, 20, 30, "dog")]
    image = tiny.photo()
    (row, empty, missing) = bodies.label(
        [Sample("a", image, labels={"det": people}), Sample("b", image, labels={"det": []}), Sample("c", image)]
    )
    label = row["smpl_poses"]
    SMPL_POSES.check(label)
    assert [one["box"].tolist() for one in label] == [[3, 4, 20, 30]]
    assert label[0]["betas"].tolist() == [0.5] * 10
    back = SMPL_POSES.decode(pa.array([SMPL_POSES.encode(label)], SMPL_POSES.arrow)[0].as_py())
    SMPL_POSES.check(back)
    assert SMPL_POSES.compare(label, back) == {"count_difference": 0.0, "angle_deg": 0.0}
    assert SMPL_POSES.show(label, image).caption == "1 body"
    assert (empty["smpl_poses"], missing["smpl_poses"]) == ([], Null("no det: not labelled"))
    with pytest.raises(LabelError, match="a rotation is no rotation"):
        SMPL_POSES.check([{**label[0], "global_orient": np.zeros((3, 3), np.float32)}])


def test_a_plug_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name a class of yours as .package\.module:Class"):
        SmplPoses(files={"model": tmp_path}).setup()
    with pytest.raises(ImportError, match="nowhere:Bodies cannot be imported"):
        SmplPoses(SmplParams(model="nowhere:Bodies"), {"model": tmp_path}).setup()
    assert SmplPoses(SmplParams(model="numpy:ndarray")).code() == {"numpy": np.__version__}
