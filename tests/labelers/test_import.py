"""Labels that people have: every format, matching by id, path and stem, and entries that cannot be used."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelers.core.annotations import filled
from labelers.core.class_map import NUMBER_OF
from labelers.core.modality import Null
from labelers.core.rle import decode_rle, encode_rle
from labelers.core.sources import Matcher, MatchParams, SourceError
from labelers.import_caption import ImportCaption
from labelers.import_det import ImportDet
from labelers.import_instances import ImportInstances
from labelers.import_keypoints import ImportKeypoints
from labelers.import_semseg import ImportSemseg
from tests.labelers.having import H, W, coco, made, npy, one, photo, png

# Matching


@pytest.mark.parametrize(
    ("names", "params", "uri", "wanted"),
    [
        (["x/1.png", "x/2.png"], {}, "file:///photos/1.jpg", "x/1.png"),
        (["a/1.png", "b/1.png"], {}, "file:///photos/b/1.jpg", "b/1.png"),
        (["a/1.png", "b/1.png"], {}, "file:///photos/c/1.jpg", "ambiguous"),
        (["a/1.png", "b/1.png"], {"match": "path"}, "file:///photos/b/1.jpg", "b/1.png"),
        (["x/1.png"], {"match": "path"}, "file:///photos/1.jpg", "unmatched"),
        (["1.png"], {"match": "id"}, "file:///photos/1.jpg", "unmatched"),
        (["a_mask.png"], {"photo": "IMG_(.*)", "entry": "(.*)_mask"}, "s3://bucket/IMG_a.jpeg", "a_mask.png"),
        (["a.png"], {"photo": "IMG_(.*)"}, "file:///a.jpg", "unmatched"),
        (["train/1.txt"], {}, "file:///photos/shard.tar#train/1.jpg", "train/1.txt"),
        (["with space é.txt"], {}, "file:///p/with%20space%20%C3%A9.jpg", "with space é.txt"),
        (["dots.in.it.png"], {}, "file:///dots.in.it.jpg", "dots.in.it.png"),
        (["a/1.png", "a/1.npy"], {}, "file:///a/1.jpg", "ambiguous"),
    ],
)
def test_entries_find_their_photos(names: list[str], params: dict[str, Any], uri: str, wanted: str) -> None:
    found = Matcher(names, MatchParams(**params)).find(photo(uri))
    if wanted in ("ambiguous", "unmatched"):
        assert isinstance(found, Null) and found.reason.startswith(wanted)
    else:
        assert found == wanted


def test_a_samples_id_comes_before_its_name() -> None:
    names = [f"{'e' * 32}.png", "1.png"]
    assert Matcher(names, MatchParams()).find(photo(sample_id="e" * 32)) == names[0]
    with pytest.raises(ValueError, match="no regular expression"):
        MatchParams(photo="(")


# Boxes


def test_coco_boxes(tmp_path: Path) -> None:
    found = one(made(ImportDet, coco([
        {"image_id": 7, "category_id": 17, "bbox": [1, 2, 3, 4]},
        {"image_id": 7, "category_id": 1, "bbox": [8, 0, 100, 3], "score": 0.5},
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ]), tmp_path))  # fmt: skip
    assert isinstance(found, list)
    assert [(b["label"], b["box"].tolist(), b["score"]) for b in found] == [
        ("cat", [1, 2, 4, 6], 1.0), ("person", [8, 0, 10, 3], 0.5)
    ]  # fmt: skip


def test_a_photo_without_boxes_has_none_and_one_that_is_not_listed_is_a_null(tmp_path: Path) -> None:
    labeler = made(ImportDet, coco([]), tmp_path)
    assert one(labeler) == [] == one(labeler, photo("file:///photos/2.jpg"))
    missing = one(labeler, photo("file:///photos/3.jpg"))
    assert isinstance(missing, Null) and missing.reason.startswith("unmatched")


def test_a_photo_of_another_size_is_not_the_one(tmp_path: Path) -> None:
    found = one(made(ImportDet, coco([], height=W, width=H), tmp_path))
    assert isinstance(found, Null) and "size differs" in found.reason


def test_classes_that_coco_lacks_must_be_mapped(tmp_path: Path) -> None:
    data = coco([{"image_id": 7, "category_id": 500, "bbox": [1, 2, 3, 4]}])
    found = one(made(ImportDet, data, tmp_path))
    assert isinstance(found, Null) and "forklift" in found.reason and "params.classes" in found.reason
    mapped = one(made(ImportDet, data, tmp_path, classes={"forklift": "truck"}))
    assert isinstance(mapped, list) and mapped[0]["label"] == "truck"
    assert one(made(ImportDet, data, tmp_path, classes={"forklift": None})) == []


def test_yolo_boxes(tmp_path: Path) -> None:
    text = b"15 0.5 0.5 0.2 0.5\n\n0 0.1 0.25 0.2 0.5 0.75\n"
    found = one(made(ImportDet, {"labels/1.txt": text, "labels/2.txt": b""}, tmp_path))
    assert isinstance(found, list)
    assert [(b["label"], b["score"]) for b in found] == [("cat", 1.0), ("person", 0.75)]
    assert np.allclose([b["box"] for b in found], [[4, 2, 6, 6], [0, 0, 2, 4]])
    assert one(made(ImportDet, {"2.txt": b""}, tmp_path), photo("file:///2.jpg")) == []


@pytest.mark.parametrize(
    "line", ["0 1 2", "0 a b c d", "99 0.5 0.5 0.1 0.1", "0.5 0.5 0.5 0.1 0.1", "0 nan 0 1 1", "0 .5 .5 1 1 7"]
)
def test_a_bad_yolo_line_costs_its_photo_alone(line: str, tmp_path: Path) -> None:
    labeler = made(ImportDet, {"1.txt": line.encode(), "2.txt": b"0 0.5 0.5 0.1 0.1"}, tmp_path)
    bad, good = labeler.label([photo(), photo("file:///2.jpg")])
    assert isinstance(bad["det"], Null) and bad["det"].reason.startswith("bad entry")
    assert len(good["det"]) == 1  # type: ignore[arg-type]


def test_yolo_polygons_and_keypoints_are_no_boxes(tmp_path: Path) -> None:
    found = one(made(ImportDet, {"1.txt": b"0 .5 .5 .1 .1\n0 .1 .2 .5 .2 .5 .8\n"}, tmp_path))
    assert isinstance(found, Null) and "line 2: expected class x y w h [score], got 7 numbers" in found.reason


# Masks


def test_a_polygon_covers_the_pixels_whose_centre_it_holds() -> None:
    square = np.array([[1.2, 1.0], [4.2, 1.0], [4.2, 3.0], [1.2, 3.0]])
    wanted = np.zeros((H, W), bool)
    wanted[1:3, 1:4] = True
    assert np.array_equal(filled(square, (H, W)), wanted)
    assert np.array_equal(filled(square[::-1], (H, W)), wanted)
    huge = np.array([[-1e4, -1e4], [1e4, -1e4], [1e4, 1e4], [-1e4, 1e4]])
    assert filled(huge, (H, W)).all()
    triangle = filled(np.array([[0.0, 0], [10, 0], [0, 8]]), (H, W))
    assert abs(triangle.sum() - 40) <= 4


def test_coco_masks_as_polygons_and_runs(tmp_path: Path) -> None:
    mask = np.zeros((H, W), bool)
    mask[2:5, 3:9] = True
    rle = encode_rle(mask)
    plain = [int(n) for n in [3 * H + 2, *([3, 5] * 6)[:-1], W * H - (8 * H + 5)]]
    found = one(made(ImportInstances, coco([
        {"image_id": 7, "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2], [5, 5, 6, 5, 6, 6, 5, 6]]},
        {"image_id": 7, "category_id": 1, "segmentation": dict(rle)},
        {"image_id": 7, "category_id": 1, "segmentation": {"size": [H, W], "counts": plain}, "score": 0.25},
        {"image_id": 7, "category_id": 1, "segmentation": dict(rle), "iscrowd": 1},
    ]), tmp_path))  # fmt: skip
    assert isinstance(found, list)
    assert [(m["area"], m["score"]) for m in found] == [(18, 1.0), (18, 0.25), (5, 1.0)]
    assert all(np.array_equal(decode_rle(m["mask"]), mask) for m in found[:2])


def panoptic(tmp_path: Path) -> dict[str, bytes]:
    ids = np.zeros((H, W, 3), np.uint8)
    ids[:4, :5] = 1, 2, 0  # a cat
    ids[4:, :] = 9, 0, 1  # grass
    segments = [{"id": 513, "category_id": 17}, {"id": 65545, "category_id": 193}]
    record = {
        "images": [], "categories": [{"id": 17, "name": "cat"}, {"id": 193, "name": "grass-merged"}],
        "annotations": [{"file_name": "1.png", "image_id": 7, "segments_info": segments}],
    }  # fmt: skip
    return {"panoptic/1.png": png(ids), "panoptic.json": json.dumps(record).encode(), "other.png": b""}


def test_panoptic_pngs_give_masks_and_classes(tmp_path: Path) -> None:
    masks = one(made(ImportInstances, panoptic(tmp_path), tmp_path))
    assert isinstance(masks, list) and [m["area"] for m in masks] == [20]
    both = one(made(ImportInstances, panoptic(tmp_path), tmp_path, things_only=False))
    assert isinstance(both, list) and [m["area"] for m in both] == [40, 20]
    classes = one(made(ImportSemseg, panoptic(tmp_path), tmp_path))
    assert isinstance(classes, np.ndarray)
    assert (classes[0, 0], classes[7, 0], classes[0, 9]) == (NUMBER_OF["cat"], NUMBER_OF["grass-merged"], 0)


def test_maps_in_which_each_number_is_a_mask(tmp_path: Path) -> None:
    numbers = np.zeros((H, W), np.uint16)
    numbers[:2], numbers[4:, :3] = 700, 2
    found = one(made(ImportInstances, {"1.png": png(numbers)}, tmp_path))
    assert isinstance(found, list) and [m["area"] for m in found] == [20, 12]
    assert one(made(ImportInstances, {"1.png": png(np.zeros((H, W), np.uint8))}, tmp_path)) == []
    floats = one(made(ImportInstances, {"1.npy": npy(numbers / 7)}, tmp_path))
    assert isinstance(floats, Null) and "whole numbers" in floats.reason


# People and texts


def test_keypoints(tmp_path: Path) -> None:
    flat = [v for i in range(17) for v in (i, i / 2, i % 3)]
    people = [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 8], "keypoints": k} for k in (flat, [0] * 51)]
    found = one(made(ImportKeypoints, coco(people), tmp_path))
    assert isinstance(found, list) and len(found) == 1
    assert found[0]["keypoints"][:3, 2].tolist() == [0, 0.5, 1] and found[0]["box"].tolist() == [0, 0, 9, 8]
    with pytest.raises(SourceError, match="no annotation of the file has keypoints"):
        made(ImportKeypoints, coco([]), tmp_path)


def table(columns: Mapping[str, list[str]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("source", "params"),
    [
        ({"x/1.txt": "A cat.\n".encode("utf-8-sig")}, {}),
        (coco([{"image_id": 7, "caption": " A cat."}, {"image_id": 7, "caption": "A second, longer text."}]), {}),
        (json.dumps({"a/1.jpg": "A cat.", "2": ["x", "y"]}).encode(), {}),
        (b'{"file_name": "1.jpg", "caption": "A cat."}\n{"file_name": "2.jpg", "caption": null}\n', {}),
        (b"file_name,caption\n1.jpg,A cat.\n", {}),
        (b"photo\ttext\n1\tA cat.\n", {"name": "photo", "text": "text"}),
        (b'"file_name"\tcaption\n"1.jpg"\tA cat.\n', {}),
        (table({"file_name": ["1.jpg"], "caption": ["A cat."]}), {}),
    ],
)
def test_captions(source: Any, params: dict[str, Any], tmp_path: Path) -> None:
    assert one(made(ImportCaption, source, tmp_path, **params)) == "A cat."


def captions(source: str, folder: Path) -> list[str]:
    """The texts of photos 1, 2, ... of a table, "" for one that is not matched."""
    labeler = made(ImportCaption, source.encode(), folder)
    found = [one(labeler, photo(f"file:///{n}.jpg")) for n in range(1, source.count(".jpg") + 1)]
    return ["" if isinstance(text, Null) and text.reason.startswith("unmatched") else str(text) for text in found]


def test_quotation_marks_of_a_tab_table_are_the_captions_own(tmp_path: Path) -> None:
    lines = ['1.jpg\t"Stop" sign', '2.jpg\t"no end', "3.jpg\tA\ttab", '4.jpg\t"a ""red"" car"', '5.jpg\ta "blue" one']
    wanted = ['"Stop" sign', '"no end', "", 'a "red" car', 'a "blue" one']
    assert captions("\n".join(['"file_name"\tcaption', *lines]), tmp_path) == wanted
    two = captions('file_name\tcaption\n1.jpg\t"Stop\n2.jpg\tthe end"\n', tmp_path)
    assert two == ['"Stop', 'the end"'], "which csv would take for one field"


def test_a_tab_table_that_is_quoted_as_csv_is_read_as_such(tmp_path: Path) -> None:
    assert captions('file_name\tcaption\n1.jpg\t"A ""cat"".\nIt sits."\n', tmp_path) == ['A "cat".\nIt sits.']


def test_a_caption_that_a_comma_cuts_is_left_out(tmp_path: Path) -> None:
    assert captions('file_name,caption\n1.jpg,A cat, a dog\n2.jpg,"A cat, a dog"\n', tmp_path) == ["", "A cat, a dog"]


def test_captions_that_are_none(tmp_path: Path) -> None:
    labeler = made(ImportCaption, {"1.txt": b" \n", "2.txt": b"\xff\xfe\x00"}, tmp_path)
    empty, damaged = labeler.label([photo(), photo("file:///2.jpg")])
    assert isinstance(empty["caption"], Null) and "empty" in empty["caption"].reason
    assert isinstance(damaged["caption"], Null) and "UTF-8" in damaged["caption"].reason
    longest = made(ImportCaption, json.dumps({"1": ["a", "abc", "ab"]}).encode(), tmp_path, pick="longest")
    assert one(longest) == "abc"


@pytest.mark.parametrize(
    ("cls", "source", "words"),
    [
        (ImportDet, b"[1, 2]", "images and annotations"),
        (ImportDet, b"{", "no JSON"),
        (ImportDet, b'{"images": [{"id": 1}], "annotations": []}', "KeyError"),
        (ImportDet, {"photo.jpg": b""}, "no entry"),
        (ImportInstances, {"1.jpg": b""}, "no entry"),
        (ImportSemseg, {"notes.txt": b""}, "no entry"),
        (ImportCaption, b"a,b\n1,2\n", "no column 'file_name'"),
        (ImportCaption, b"", "no column 'file_name'"),
        (ImportCaption, b"file_name,caption\n1.jpg,a\rb\n", "line 2: "),
        (ImportCaption, b"file_name\tcaption\n1.jpg\ta\rb\n", "line 2: "),
        (ImportCaption, b"PAR1 and nothing else", "Parquet"),
        (ImportKeypoints, {"a.json": b"{}"}, "one COCO JSON"),
    ],
)
def test_a_source_of_something_else_is_refused_at_once(cls: Any, source: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=words):
        made(cls, source, tmp_path)
