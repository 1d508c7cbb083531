"""Maps that people have: class numbers, depth of a declared unit, normals of other frames, and files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelers.core.class_map import NUMBER_OF
from labelers.core.depth_map import DEPTH, DepthMap
from labelers.core.modality import Null
from labelers.import_depth import ImportDepth
from labelers.import_normal import ImportNormal
from labelers.import_semseg import ImportSemseg
from tests.labelers.corpus import png16
from tests.labelers.having import H, W, made, npy, one, photo, png


@pytest.mark.parametrize(
    ("ids", "numbers", "wanted"),
    [("coco", [0, 17, 255, 200], [0, 16, 0, 133]), ("stored", [0, 1, 133, 2], [0, 1, 133, 2]),
     ("zero_based", [255, 0, 132, 1], [0, 1, 133, 2])],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["png", "npy"])
def test_class_maps(ids: str, numbers: list[int], wanted: list[int], kind: str, tmp_path: Path) -> None:
    pixels = np.resize(np.array(numbers, np.uint8), (H, W))
    files = {"1.png": png(pixels)} if kind == "png" else {"1.npy": npy(pixels.astype(np.int32))}
    found = one(made(ImportSemseg, files, tmp_path, ids=ids))
    assert np.array_equal(found, np.resize(np.array(wanted, np.uint8), (H, W)))  # type: ignore[arg-type]


def test_class_maps_with_a_table_of_their_own(tmp_path: Path) -> None:
    files = {"1.png": png(np.resize(np.array([3, 4], np.uint8), (H, W)))}
    found = one(made(ImportSemseg, files, tmp_path, ids="table", table={3: "road", 4: "void"}))
    assert np.array_equal(np.unique(found), [0, NUMBER_OF["road"]])  # type: ignore[arg-type]
    unknown = one(made(ImportSemseg, files, tmp_path, ids="table", table={3: "road"}))
    assert isinstance(unknown, Null) and "4 is no class" in unknown.reason
    with pytest.raises(ValueError, match="lava"):
        ImportSemseg.Params(table={1: "lava"})


def test_depth_in_millimetres_and_disparity(tmp_path: Path) -> None:
    pixels = np.arange(H * W, dtype=np.uint16).reshape(H, W) * 100
    found = one(made(ImportDepth, {"1.png": png(pixels)}, tmp_path))
    assert isinstance(found, DepthMap) and found.unit == "metre"
    assert np.isnan(found.values[0, 0]) and found.values[7, 9] == pytest.approx(7.9)
    floats = {"1.npy": npy(pixels.astype(np.float32) + 1)}
    disparity = one(made(ImportDepth, floats, tmp_path, unit="inverse", scale=1.0, missing=None))
    assert isinstance(disparity, DepthMap) and disparity.values[0, 0] > disparity.values[7, 9]


def test_depth_pngs_of_a_data_set_come_in_as_they_are(tmp_path: Path) -> None:
    mine = DepthMap(np.random.default_rng(0).random((H, W), np.float32), "relative")
    found = one(made(ImportDepth, {"1.png": DEPTH.encode(mine)}, tmp_path))
    assert isinstance(found, DepthMap) and found.unit == "relative"
    assert np.abs(found.values - mine.values).max() < 1e-4


def test_depth_pngs_of_a_data_set_are_stretched_too(tmp_path: Path) -> None:
    mine = DepthMap(np.arange(20, dtype=np.float32).reshape(4, 5) / 19, "inverse")
    files = {"1.png": DEPTH.encode(mine)}
    small = one(made(ImportDepth, files, tmp_path))
    assert isinstance(small, Null) and "size differs" in small.reason
    found = one(made(ImportDepth, files, tmp_path, resize=True))
    assert isinstance(found, DepthMap) and found.unit == "inverse"
    np.testing.assert_allclose(found.values, mine.values.repeat(2, axis=0).repeat(2, axis=1), atol=1e-4)


def test_normals_of_other_frames(tmp_path: Path) -> None:
    up = np.zeros((H, W, 3), np.float32)
    up[..., 1] = 2.0
    found = one(made(ImportNormal, {"1.npy": npy(up)}, tmp_path, negate=["y"]))
    assert np.array_equal(found, np.broadcast_to(np.array([0, -1, 0], np.float32), (H, W, 3)))  # type: ignore[arg-type]
    deep = np.full((H, W, 3), (32768, 32768, 65535), np.uint16)
    facing = one(made(ImportNormal, {"1.png": png16(deep)}, tmp_path))
    assert np.allclose(facing, [0, 0, 1], atol=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x89PNG\r\n\x1a\n", b"no picture", png(np.zeros((H, W), np.uint16))[:48], png(np.zeros((3, 3), np.uint8)),
        npy(np.zeros((H, W), object)), npy(np.zeros((H, W)))[:100], npy(np.zeros(5)), npy(np.zeros((H, W, 2, 2))),
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 99999999), }".ljust(128),
    ],
)  # fmt: skip
def test_maps_that_are_none_cost_their_photo_alone(data: bytes, tmp_path: Path) -> None:
    good = png(np.full((H, W), 7, np.uint16))
    name = "1.npy" if data.startswith(b"\x93") else "1.png"
    labeler = made(ImportDepth, {name: data, "2.png": good}, tmp_path)
    bad, fine = labeler.label([photo(), photo("file:///2.jpg")])
    assert isinstance(bad["depth"], Null) and bad["depth"].reason.startswith("bad entry")
    assert isinstance(fine["depth"], DepthMap)


def test_a_map_of_another_size_is_stretched_only_if_asked(tmp_path: Path) -> None:
    pixels = np.repeat(np.arange(1, 6, dtype=np.uint16)[None] * 1000, 4, axis=0)
    files = {"1.png": png(pixels)}
    assert isinstance(one(made(ImportDepth, files, tmp_path)), Null)
    found = one(made(ImportDepth, files, tmp_path, resize=True))
    assert isinstance(found, DepthMap) and found.values[0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
