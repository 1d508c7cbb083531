"""Cards say what is committed: names, counts, backends, weights, licences; and are written again only when that changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlcroissant
import pytest
import yaml

from labelers.core.labeler import Licence
from pipeline.cards.data_card import CARD, CROISSANT, data_card, write_cards
from pipeline.cli.data import carded
from pipeline.dataset import Dataset
from pipeline.label import label
from pipeline.status import status
from tests.faults.world import label_all, new_world
from tests.world import FakeBase, fake_config, snapshot


@pytest.fixture
def labelled(tmp_path: Path) -> Dataset:
    root, _ = new_world(tmp_path, 12)
    label_all(root)
    return Dataset.open(str(root))


def croissant_of(ds: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ds.storage.read_bytes(CROISSANT))
    return found


def test_the_card_names_every_modality_its_backend_and_counts(labelled: Dataset) -> None:
    write_cards(labelled)
    text = labelled.storage.read_bytes(CARD).decode()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "other" and head["size_categories"] == ["n<1K"] and "fake_vector" in head["tags"]
    found = status(labelled)["modalities"]
    for name in ("fake_vector", "fake_map", "fake_sum"):
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
        assert f"{12 - found[name]['nulls']} of 12" in row and found[name]["recipe"] in row and "fake" in row


def test_croissant_is_valid_and_names_the_files(labelled: Dataset, tmp_path: Path) -> None:
    write_cards(labelled)
    path = tmp_path / "croissant.json"
    path.write_bytes(labelled.storage.read_bytes(CROISSANT))
    dataset = mlcroissant.Dataset(jsonld=str(path))
    assert not dataset.metadata.ctx.issues.errors
    patterns = {d["name"]: d["includes"] for d in croissant_of(labelled)["distribution"]}
    for name, pattern in patterns.items():
        assert list(Path(labelled.storage.url).glob(pattern)), name
    assert {"index-files", "rgb-files", "fake_vector-files", "fake_map-files"} <= patterns.keys()


def test_written_again_only_when_something_changed(labelled: Dataset) -> None:
    root = Path(labelled.storage.url)
    assert write_cards(labelled) == [CARD, CROISSANT]
    before = snapshot(root)
    assert write_cards(labelled) == [] and snapshot(root) == before
    label(labelled, fake_config(root, "b"))
    assert write_cards(labelled) == [CARD, CROISSANT]


def test_a_licence_that_forbids_commercial_use_is_said(labelled: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Not for commercial use" not in data_card(status(labelled))
    monkeypatch.setattr(FakeBase, "licence", Licence("MIT", "CC-BY-NC-4.0", commercial=False))
    text = data_card(status(labelled))
    assert "**Not for commercial use**: fake_map, fake_vector" in text and "MIT / CC-BY-NC-4.0" in text


def test_the_card_follows_the_manifest_back(labelled: Dataset) -> None:
    config = fake_config(labelled.storage.url)
    before = labelled.current("fake_vector")
    write_cards(labelled)
    label(labelled, fake_config(labelled.storage.url, "b"))
    assert write_cards(labelled)
    version = labelled.manifest().version
    report = label(labelled, config)  # nothing to make: only the manifest goes back
    assert report.done == 0 and labelled.current("fake_vector") == before
    carded(labelled, version, report)
    assert before in labelled.storage.read_bytes(CARD).decode()
