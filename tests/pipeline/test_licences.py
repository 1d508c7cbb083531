"""Licences: what a backend says, what is true of other weights, and a word before the first use that is not for business."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelers.clip import Clip
from labelers.core.registry import all_labelers
from labelers.imagebind import Imagebind
from pipeline.config import Config, LabelerConfig
from pipeline.dataset import Dataset
from pipeline.doctor import examine
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from pipeline.licences import first_uses, own_weights, terms, terms_of
from pipeline.recipes import recipe_of
from tests.world import FakeBase, fake_photos


def recipe(labeler: str, **urls: str) -> dict[str, object]:
    return {"labeler": labeler, "weights": {slot: {"url": url, "sha256": "0" * 64} for slot, url in urls.items()}}


def test_terms_follow_the_weights() -> None:
    assert terms(Clip) == "code MIT, weights MIT"
    assert terms(Imagebind) == "code CC-BY-NC-4.0, weights CC-BY-NC-4.0, NOT for commercial use"
    later = "hf:openai/clip-vit-base-patch16@" + "ab" * 20 + "#sha256=" + "0" * 64
    assert own_weights(Clip, {"model": later})
    assert terms_of(recipe("clip", model=later)) == terms(Clip)
    assert terms_of(recipe("clip", model="file:mine")) == "code MIT, weights of the file that the configuration names"
    assert terms_of(recipe("imagebind", checkpoint="file:mine")) == terms(Imagebind)
    assert terms_of(recipe("nobody")) == ""


def test_a_recipe_does_not_call_other_weights_by_the_backends_name() -> None:
    modality = Clip.produces[0]
    own = recipe_of(Clip(), modality, {"model": {"url": Clip.weights["model"], "sha256": "0"}}, {})
    other = recipe_of(Clip(), modality, {"model": {"url": "hf:me/my-clip@main", "sha256": "0"}}, {})
    assert (own["backend"], other["backend"]) == (Clip.backend, f"{Clip.backend}; other weights")


def test_doctor_lists_every_backend() -> None:
    rows = {row["labeler"]: row for row in examine()["backends"]}
    assert set(rows) >= set(all_labelers())
    assert (rows["imagebind"]["commercial"], rows["imagebind"]["weights"]) == (False, "CC-BY-NC-4.0")
    yours = [name for name, cls in all_labelers().items() if cls.sources]
    assert {"yolox", "imagebind", "import_det"} <= set(yours)
    assert {rows[name]["at_hand"] for name in yours} == {"yours to name"}
    assert rows["canny_edge"]["at_hand"] == "none needed"
    assert (rows["clip"]["commercial"], rows["clip"]["at_hand"]) == (True, "fetched at first use")


class NotForBusiness(FakeBase):
    name = "not_for_business"
    licence = Imagebind.licence


def test_it_is_said_before_the_first_use_and_not_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(all_labelers(), "not_for_business", NotForBusiness)
    settings = {name: LabelerConfig(enabled=name == "not_for_business") for name in all_labelers()}
    config = Config(root=str(tmp_path / "data"), shard_size=4, executor="local", labelers=settings)
    ds = Dataset.create(config.root, "n", 4)
    ingest(ds, [str(fake_photos(tmp_path / "photos", 3))])
    said: list[str] = []
    label(ds, config, say=said.append)
    (sentence,) = said
    assert sentence.startswith(
        "not_for_business: fake is under code CC-BY-NC-4.0, weights CC-BY-NC-4.0, NOT for commercial use."
    )
    label(ds, config, say=said.append)
    assert len(said) == 1
    assert first_uses(ds, []) == []
