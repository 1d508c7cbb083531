"""Every network labeler in half precision, on the tiny checkpoints: no layer is left in another number format; compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labelers.blip_caption import BlipCaption
from labelers.clip import Clip
from labelers.core.boxes import detection
from labelers.core.labeler import Labeler, Sample
from labelers.core.networks import NetworkLabeler
from labelers.core.registry import all_labelers
from labelers.depth import DepthAnything, Dpt
from labelers.det import Detr, RtDetr
from labelers.dinov2 import Dinov2Base
from labelers.florence_caption import FlorenceCaption
from labelers.normal import TipsNormal
from labelers.sam2 import Sam2
from labelers.semseg import Mask2Former
from labelers.t5_caption import T5Caption
from labelers.vitpose import VitPose
from tests.labelers import tiny, tiny_more

ALL: dict[type[Labeler], tuple[Callable[[Path], Path], dict[str, Any]]] = {
    DepthAnything: (tiny.depth_anything, {}), Dpt: (tiny.dpt, {}), RtDetr: (tiny.rt_detr, {}), Detr: (tiny.detr, {}),
    Mask2Former: (tiny.mask2former, {}), TipsNormal: (tiny_more.tips, {}), VitPose: (tiny_more.vitpose, {}),
    Clip: (tiny_more.clip, {}), Dinov2Base: (tiny_more.dinov2, {}), BlipCaption: (tiny_more.blip, {"max_tokens": 3}),
    T5Caption: (tiny_more.t5, {}), Sam2: (tiny_more.sam2, {"points_per_side": 2, "pred_iou_thresh": 0.0}),
    FlorenceCaption: (tiny_more.florence, {"max_tokens": 3}),
}  # fmt: skip


def test_none_is_left_out() -> None:
    assert {cls for cls in all_labelers().values() if issubclass(cls, NetworkLabeler)} == set(ALL)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name)
def test_half_precision(cls: type[Labeler], tmp_path: Path) -> None:
    build, params = ALL[cls]
    precision = "bfloat16" if cls is T5Caption else "float16"  # as the profiles have them
    labeler = tiny.ready(cls, build(tmp_path), precision=precision, **params)
    person = detection((5, 5, 30, 40), "person", 0.9, (48, 64))
    sample = Sample("a", tiny.photo(), labels={"det": [person], "caption": "a red cup"})
    assert str(labeler.network.dtype) == f"torch.{precision}"
    (row,) = labeler.label([sample])
    for modality in cls.produces:
        modality.check(row[modality.name])


@pytest.mark.parametrize("cls", [Clip, Sam2, FlorenceCaption], ids=lambda cls: cls.name)
def test_compiled(cls: type[Labeler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile of the whole network or of the part that does the work, traced here without generating code."""
    import torch

    build, params = ALL[cls]
    folder, compiled = build(tmp_path), list[Any]()

    def trace(module: Any) -> Any:
        compiled.append(type(module).__name__)
        return compile_(module, backend="eager")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", trace)
    sample = Sample("a", tiny.photo((64, 64)))
    plain, traced = (tiny.ready(cls, folder, compile=on, **params).label([sample])[0] for on in (False, True))
    assert len(compiled) == 1
    for modality in cls.produces:
        a, b = plain[modality.name], traced[modality.name]
        assert all(value in (0, 1) or value > 0.99 for value in modality.compare(a, b).values())
