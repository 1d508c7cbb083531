"""DeepLab: VOC's classes in COCO's numbers, the frame, and the real network on real photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelers.core.class_map import NAMES, SEMSEG
from labelers.core.images import decode
from labelers.core.labeler import Sample
from labelers.deeplab import MEAN, STORED, Deeplab, DeeplabParams, enlarged, framed, load_network, scores_of, tiles


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


def test_tiles_cover_a_length_evenly() -> None:
    assert (tiles(5, 10), tiles(10, 10), tiles(11, 10), tiles(25, 10)) == ([0], [0], [0, 1], [0, 8, 15])


def test_values_between_the_points_of_a_grid() -> None:
    y, x = np.mgrid[:4, :4].astype(np.float32)
    between = enlarged(np.stack([y, 2 * x], axis=-1), np.array([-1, 0.5, 3.0]), np.array([1.25, 9.0]))
    assert between.shape == (3, 2, 2)
    assert between[:, 0, 0].tolist() == [0, 0.5, 3] and between[0, :, 1].tolist() == [2.5, 6]


def test_impossible_scales_are_refused() -> None:
    for scales in ((), (0.0,), (5.0,)):
        with pytest.raises(ValueError, match="scales"):
            DeeplabParams(scales=scales)


def test_several_sizes_of_a_real_photo(assets: Path) -> None:
    """The network's own scores, enlarged here, give the map that the network gives; several sizes give a similar one."""
    files = {"model": assets / "weights" / "coral_deeplabv3_mnv2_pascal_quant.tflite"}
    image = decode((assets / "images" / "coco_000000000073.jpg").read_bytes()).image
    one, several = Deeplab(None, files), Deeplab(DeeplabParams(scales=(0.5, 1.0, 1.25)), files)
    for labeler in (one, several):
        labeler.setup()
    again = Deeplab(DeeplabParams(scales=(1.0,)), files)
    again._network = load_network(files["model"], scores=True)
    again._input, again._scores = one._input, scores_of(again._network)
    plain = one.classes(image)
    assert (again.classes(image) == plain).mean() > 0.99, "up to the rounding of its scores to 8 bits"
    found = several.classes(image)
    assert found.shape == plain.shape and 0.9 < (found == plain).mean() < 1
    assert several.classes(np.zeros((1, 900, 3), np.uint8)).shape == (1, 900)
    with pytest.raises(ValueError, match=r"no map of 21 scores inside; leave params.scales at \[1.0\]"):
        scores_of(type("Other", (), {"get_tensor_details": lambda self: []})())
