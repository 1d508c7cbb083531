"""Several makers of one modality: one in a run, the others' recipes beside, and labels that people have as one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelers.core import registry
from labelers.core.boxes import DET, detection
from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, Null, vector_modality
from labelers.core.registry import all_labelers
from pipeline.care.diff import diff, label_column
from pipeline.config import Config, LabelerConfig, load_config
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from pipeline.recipes import desired
from tests.world import fake_photos

OTHER = vector_modality("other_thing", 1, "for tests")


class Middle(Labeler):
    """A detector that always sees a cat in the middle, and makes something else besides; on by default."""

    name = "middle"
    version = 1
    backend = "fake"
    produces = (DET, OTHER)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [
            {"det": [detection([2, 1, 6, 5], "cat", 0.5, s.shape)], "other_thing": np.ones(1, np.float32)}
            for s in samples
        ]


class ReadsBoxes(Labeler):
    """Counts boxes, whoever made them."""

    name = "reads_boxes"
    version = 1
    backend = "fake"
    produces = (vector_modality("box_count", 1, "for tests"),)
    reads = ("det",)
    uses_pixels = False

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [{"box_count": np.array([len(s.labels["det"])], np.float32)} for s in samples]  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, Path]:
    """A data set of four photos, and COCO boxes for three of them."""
    for cls in (Middle, ReadsBoxes):
        monkeypatch.setitem(all_labelers(), cls.name, cls)
    ds = Dataset.create(str(tmp_path / "ds"), "makers", 3)
    ingest(ds, [str(fake_photos(tmp_path / "photos", 4))])
    source = tmp_path / "boxes.json"
    write_boxes(source, [2, 1, 4, 4])
    return ds, source


def write_boxes(path: Path, box: Sequence[float]) -> None:
    """The same cat in three of the photos (8 x 6 pixels), and a dog in one."""
    images = [{"id": i, "file_name": f"p{i:04d}.png", "height": 6, "width": 8} for i in range(3)]
    boxes = [{"image_id": i, "category_id": 17, "bbox": list(box)} for i in range(3)]
    boxes.append({"image_id": 0, "category_id": 18, "bbox": [0, 0, 2, 2]})
    names = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": names}))


def config(ds: Dataset, source: Path | None = None, **changed: LabelerConfig) -> Config:
    """Nothing on but the fakes, and the import where a source is given."""
    settings = {name: LabelerConfig(enabled=False) for name in all_labelers() if name not in ("middle", "reads_boxes")}
    if source is not None:
        settings["import_det"] = LabelerConfig(enabled=True, weights={"source": f"file:{source}"})
    return Config(root=ds.storage.url, executor="local", labelers=settings | changed)


def test_an_import_takes_the_defaults_place_and_both_recipes_stay(world: tuple[Dataset, Path]) -> None:
    ds, source = world
    assert label(ds, config(ds)).failed == 0
    first = ds.current("det")
    report = label(ds, config(ds, source))
    assert (report.failed, report.steps["import_det"]["nulls"]) == (0, 1)
    imported = ds.current("det")
    assert imported != first and ds.recipe(imported)["weights"]["source"]["url"] == f"file:{source}"
    # What the default labeler makes besides is still made by it, and what reads boxes reads the new ones.
    assert ds.recipe(ds.current("other_thing"))["labeler"] == "middle"
    counts = [float(x[0]) for k in ds.shards() for x in ds.labels(ReadsBoxes.produces[0], k) if not isinstance(x, Null)]
    assert sorted(counts) == [1, 1, 2]
    found = diff(ds, ("det", first), ("det", imported), label_column(ds, "det"))
    assert (found.samples, found.only_a) == (3, 1)
    assert found.metrics["precision"]["mean"] == 1.0
    assert found.pooled == pytest.approx({"precision": 1.0, "recall": 0.75, "ap50": 0.5, "ap": 0.5})
    assert sorted(found.by_class.values()) == [0, 1], "of one class every box, of the other none"
    assert label(ds, config(ds, source)).todo == 0


def test_a_changed_source_is_another_recipe(world: tuple[Dataset, Path]) -> None:
    ds, source = world
    label(ds, config(ds, source))
    before = ds.current("det")
    labels = ds.labels(DET, 0, before)
    write_boxes(source, [0, 0, 4, 4])
    label(ds, config(ds, source))
    assert ds.current("det") != before
    assert json.dumps(ds.labels(DET, 0, before), default=str) == json.dumps(labels, default=str)


def test_two_that_are_switched_on_for_one_modality_are_refused(world: tuple[Dataset, Path]) -> None:
    ds, source = world
    both = config(ds, source, middle=LabelerConfig(enabled=True))
    with pytest.raises(ConfigError, match=r"would both make det.*labelers\.import_det\.enabled=false"):
        both.makers()


def test_an_import_without_a_source_says_how_to_name_one(world: tuple[Dataset, Path], tmp_path: Path) -> None:
    ds, _ = world
    with pytest.raises(ConfigError, match=r"--set labelers\.import_det\.weights\.source=file:PATH"):
        desired(config(ds, None, import_det=LabelerConfig(enabled=True)))
    with pytest.raises(ConfigError, match="there is no file"):
        desired(config(ds, tmp_path / "nowhere.json"))
    assert load_config(ds.storage.url, ["labelers.import_det.weights.source=file:x"]).labelers["import_det"].weights
    with pytest.raises(ConfigError, match="Known: source"):
        load_config(ds.storage.url, ["labelers.import_det.weights.sauce=file:x"])


def test_one_name_has_one_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Homemade(Middle):
        name = "homemade"
        produces: Any = (vector_modality("det", 4, "something else"),)

    with pytest.raises(ValueError, match="both produce 'det'"):
        registry._agree([*all_labelers().values(), Homemade])
