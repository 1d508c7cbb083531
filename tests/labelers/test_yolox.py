"""YOLOX: grid decoding and suppression by hand, a tiny ONNX file through onnxruntime, and the real one on a real photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from labelers.core.boxes import DET
from labelers.core.coco import NUMBER
from labelers.core.images import decode
from labelers.core.labeler import Sample
from labelers.core.suppression import suppress
from labelers.yolox import Yolox, YoloxParams, decode_grid, letterbox, load_network

SIDE, CELLS = 32, 16 + 4 + 1  # of strides 8, 16, 32


def raw_answers() -> np.ndarray:
    """A cat 16 pixels wide and high round (20, 12), said by two cells of the first grid, one of them less sure."""
    raw = np.zeros((CELLS, 85), np.float32)
    for cell, score in ((6, 0.9), (7, 0.6)):
        x, y = cell % 4, cell // 4
        raw[cell, :4] = 20 / 8 - x, 12 / 8 - y, np.log(2), np.log(2)
        raw[cell, 4], raw[cell, 5 + NUMBER["cat"]] = 1.0, score
    raw[20, 4], raw[20, 5 + NUMBER["dog"]] = 0.5, 0.5  # below any score asked for
    return raw


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An ONNX file with YOLOX's interface, whose answers are raw_answers() and do not depend on the photo."""
    given = numpy_helper.from_array(raw_answers()[None], "answers")
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["answers", "nothing"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, CELLS, 85])],
        [given, numpy_helper.from_array(np.float32(0), "zero")],
    )  # fmt: skip
    path = tmp_path / "model"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(model)
    return path


def test_the_grid_is_decoded_to_pixels() -> None:
    boxes, scores = decode_grid(raw_answers(), SIDE)
    assert np.allclose(boxes[6], [12, 4, 28, 20]) and np.allclose(boxes[7], boxes[6], atol=1e-5)
    assert scores[6, NUMBER["cat"]] == pytest.approx(0.9) and scores[20, NUMBER["dog"]] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="grid cells"):
        decode_grid(raw_answers(), 64)


def test_of_boxes_that_overlap_the_best_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]], np.float32)
    assert suppress(boxes, np.array([0.5, 0.9, 0.7], np.float32), 0.45).tolist() == [1, 2]
    assert suppress(boxes, np.array([0.5, 0.9, 0.7], np.float32), 0.95).tolist() == [1, 2, 0]


def test_the_photo_lies_in_the_upper_left_on_grey_in_blue_green_red() -> None:
    image = np.full((10, 20, 3), (200, 100, 50), np.uint8)
    square, scale = letterbox(image, SIDE)
    assert square.shape == (1, 3, SIDE, SIDE) and scale == 1.6
    assert square[0, :, 0, 0].tolist() == [50, 100, 200] and square[0, :, 20, 0].tolist() == [114] * 3


def test_a_file_is_run_and_boxes_come_back_in_the_photos_pixels(tiny: Path) -> None:
    labeler = Yolox(None, {"model": tiny})
    labeler.setup()
    (row,) = labeler.label([Sample("a", np.zeros((64, 64, 3), np.uint8))])
    DET.check(row["det"])
    (box,) = row["det"]  # type: ignore[misc]
    assert box["label"] == "cat" and box["score"] == pytest.approx(0.9)
    assert np.allclose(box["box"], [24, 8, 56, 40], atol=1e-3)
    strict = Yolox(YoloxParams(score=0.95), {"model": tiny})
    strict.setup()
    assert strict.label([Sample("a", np.zeros((64, 64, 3), np.uint8))]) == [{"det": []}]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no network")
    with pytest.raises(ValueError, match="no ONNX file"):
        load_network(tmp_path / "text")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "other").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="expected a YOLOX export"):
        load_network(tmp_path / "other")


def test_the_real_one_on_a_real_photo(assets: Path) -> None:
    labeler = Yolox(None, {"model": assets / "weights" / "yolox_nano_416.onnx"})
    labeler.setup()
    image = decode((assets / "images" / "coco_000000000073.jpg").read_bytes()).image
    boxes = labeler.boxes(image)
    DET.check(boxes)
    assert "motorcycle" in {box["label"] for box in boxes}
