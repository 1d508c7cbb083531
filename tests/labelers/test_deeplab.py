"""DeepLab: VOC's classes in COCO's numbers, the frame, and the real network on real photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelers.core.class_map import NAMES, SEMSEG
from labelers.core.images import decode
from labelers.core.labeler import Sample
from labelers.deeplab import MEAN, STORED, Deeplab, framed, load_network


def test_vocs_classes_are_cocos() -> None:
    assert len(STORED) == 21 and STORED[0] == 0
    assert [NAMES[STORED[i]] for i in (1, 6, 8, 15, 20)] == ["airplane", "bus", "cat", "person", "tv"]


def test_the_photo_keeps_its_shape_in_the_frame() -> None:
    frame, rows, columns = framed(np.full((10, 20, 3), 250, np.uint8), 64, 64)
    assert (rows, columns) == (32, 64)
    assert (frame[:32] == 250).all() and (frame[32:] == MEAN).all()
    assert framed(np.zeros((1, 5000, 3), np.uint8), 64, 64)[1:] == (1, 64)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no network")
    with pytest.raises(ValueError, match=r"no \.tflite network"):
        load_network(tmp_path / "text")


def test_the_real_one_on_real_photos(assets: Path) -> None:
    labeler = Deeplab(None, {"model": assets / "weights" / "coral_deeplabv3_mnv2_pascal_quant.tflite"})
    labeler.setup()
    street = decode((assets / "images" / "coco_000000000073.jpg").read_bytes()).image
    photos = [Sample("street", street), Sample("pixel", np.full((1, 1, 3), 255, np.uint8))]
    maps = [row["semseg"] for row in labeler.label(photos)]
    for sample, found in zip(photos, maps, strict=True):
        SEMSEG.check(found)
        assert found.shape == sample.image.shape[:2]  # type: ignore[union-attr]
    share = np.bincount(maps[0].ravel(), minlength=len(NAMES)) / maps[0].size  # type: ignore[union-attr]
    assert NAMES[1 + int(share[1:].argmax())] == "motorcycle" and share[1:].max() > 0.2
