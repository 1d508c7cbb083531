"""Every labeler whose weights come from a hub or a user, with tiny random weights, on the odd images of test_odd_inputs;
what they read is odd too: no person, hundreds of people, a flat depth, a caption of one sign.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from labelers.core.boxes import detection
from labelers.core.depth_map import DepthMap
from labelers.core.modality import Label, Null
from labelers.core.registry import all_labelers
from labelers.smpl_poses import SmplParams, SmplPoses
from tests.labelers import tiny, tiny_more
from tests.labelers.test_features import stand_in
from tests.labelers.test_odd_inputs import FILES, WHEELS, assert_sound
from tests.labelers.test_sam import ANYTHING, tiny_network

ALL = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "min_area": 0.0, "nms": 1.0}
NETWORKS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "blip_caption": (tiny_more.blip, {"max_tokens": 3, "beams": 1}),
    "florence_caption": (tiny_more.florence, {"max_tokens": 3, "beams": 1}),
    "clip": (tiny_more.clip, {}),
    "dinov2_base": (tiny_more.dinov2, {}),
    "depth_anything": (tiny.depth_anything, {}),
    "dpt": (tiny.dpt, {}),
    "detr": (tiny.detr, {"score": 0.0}),
    "rt_detr": (tiny.rt_detr, {"score": 0.0}),
    "mask2former": (tiny.mask2former, {}),
    "tips_normal": (tiny_more.tips, {}),
    "vitpose": (tiny_more.vitpose, {"most": 40}),
    "sam2": (tiny_more.sam2, ALL),
    "t5_caption": (tiny_more.t5, {}),
}
OTHERS = {"sam", "imagebind", "smpl_poses", "normal_from_depth"}  # below, each in its own way
IMPORTS = {name for name in all_labelers() if name.startswith("import_")}  # in test_odd_inputs


def made(read: str, name: str, image: np.ndarray) -> Label | Null:
    """The label of a modality that a labeler reads."""
    height, width = image.shape[:2]
    if name == "black":
        return Null("not labelled")
    if read == "caption":
        return "." if name == "pixel" else "a red cup and the man " * (40 if name == "hundreds" else 1)
    if read == "depth":
        flat = np.ones((height, width), np.float32)
        return DepthMap(np.full_like(flat, np.nan) if name == "noise" else flat, "metre")
    if name in ("white", "noise"):
        return []
    many = 300 if name == "hundreds" else 1
    corners = np.random.default_rng(0).uniform(0, [width / 2, height / 2], (many, 2))
    found = [detection((x, y, x + width / 2, y + height / 2), "person", 0.9, (height, width)) for x, y in corners]
    return [one for one in found if one is not None]


def test_no_labeler_is_left_out() -> None:
    known = {name for name, cls in all_labelers().items() if cls.__module__.startswith("labelers.")}
    assert known <= {*WHEELS, *FILES, *NETWORKS, *OTHERS, *IMPORTS}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, tmp_path: Path) -> None:
    build, params = NETWORKS[name]
    rows = assert_sound(tiny.ready(all_labelers()[name], build(tmp_path), **params), made)
    assert not all(isinstance(label, Null) for row in rows.values() for label in row.values())


def test_sam(tmp_path: Path) -> None:
    import torch

    torch.save(tiny_network().state_dict(), tmp_path / "tiny.pth")
    assert_sound(tiny.ready(all_labelers()["sam"], tmp_path / "tiny.pth", **{**ANYTHING, "points_per_side": 2}))


def test_imagebind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    module = stand_in()
    for name in ("imagebind", "imagebind.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "imagebind.models.imagebind_model", module)
    torch.save(module.imagebind_huge(pretrained=False).state_dict(), tmp_path / "tiny.pth")
    assert_sound(tiny.ready(all_labelers()["imagebind"], tmp_path / "tiny.pth"))


class Nobody:
    """A plug that finds a body in the wide half of the boxes."""

    def __init__(self, folder: Path, device: str) -> None:
        self.body = {
            "global_orient": np.eye(3), "body_pose": np.tile(np.eye(3), (23, 1, 1)), "betas": np.zeros(10), "camera": [1, 0, 2],
        }  # fmt: skip

    def people(self, image: np.ndarray, boxes: np.ndarray) -> list[Any]:
        return [self.body if x1 - x0 > y1 - y0 else None for x0, y0, x1, y1 in boxes]


def test_bodies_and_slopes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("nobody")
    module.Nobody = Nobody  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nobody", module)
    bodies = SmplPoses(SmplParams(model="nobody:Nobody"), {"model": tmp_path})
    slopes = all_labelers()["normal_from_depth"]()
    for labeler in (bodies, slopes):
        labeler.setup()
        assert_sound(labeler, made)
