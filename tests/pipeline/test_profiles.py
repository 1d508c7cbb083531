"""Profiles load, enable what they say with weights that are pinned or will be, and write the default where that is it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from labelers.core.networks import NetworkLabeler
from labelers.core.registry import all_labelers, all_modalities
from labelers.core.weights import parse
from pipeline.config import Config, load_config
from pipeline.profiles import PROFILES, Profile
from pipeline.template import _changed, config_template
from tokenize_shards.table import configure, specs

PUBLISHED = {
    "sam_instance", "sam_edge", "depth", "normal", "semseg", "det", "keypoints", "human_poses", "canny_edge", "color_palette",
    "metadata", "clip", "clip_global", "dinov2", "dinov2_global", "caption", "t5_caption",
}  # fmt: skip


def load(folder: Path, profile: str) -> Config:
    (folder / "manymodal.yaml").write_text(config_template(profile))
    return load_config(str(folder / "manymodal.yaml"))


def test_offline_is_the_default(tmp_path: Path) -> None:
    assert config_template("offline") == config_template()
    assert load(tmp_path, "offline").enabled_labelers().keys() == Config().enabled_labelers().keys()


@pytest.mark.parametrize("profile", ["one-gpu", "full"])
def test_a_profile_makes_every_modality_once(tmp_path: Path, profile: str) -> None:
    config = load(tmp_path, profile)
    makers = config.makers()
    assert set(makers) >= PUBLISHED
    assert {makers[m] for m in ("dinov2", "dinov2_global")} == {"dinov2_base"}
    assert set(PROFILES[profile].backends) <= set(makers.values())
    for name in set(makers.values()):
        cls = all_labelers()[name]
        assert cls.licence.commercial, f"{name} is on, and forbids commercial use"
        assert not cls.sources, f"{name} is on, and needs a file of the user's"
        params = config.labeler(name).params
        if issubclass(cls, NetworkLabeler):
            assert params.precision == ("bfloat16" if name == "t5_caption" else "float16")
        for url in config.labelers[name].weights.values():
            assert parse(url).sha256 or parse(url).scheme == "hf"


@pytest.mark.parametrize("profile", PROFILES)
def test_every_labeler_is_there_to_be_switched_on(tmp_path: Path, profile: str) -> None:
    config = load(tmp_path, profile)
    assert set(config.labelers) == set(all_labelers())
    text = config_template(profile)
    assert "imagebind:" in text
    assert "NOT for commercial use" in text
    for line in text.splitlines():
        if "@main" in line or "@no_timm" in line:
            before = text[: text.index(line)].splitlines()[-1]
            assert before.endswith("name one to choose it"), f"{line} moves, and the template does not say so"


@pytest.mark.parametrize("profile", ["one-gpu", "full"])
def test_its_tokens_fit_its_features(tmp_path: Path, profile: str) -> None:
    config = load(tmp_path, profile)
    assert config.tokens.profile == "published"
    table = specs(config.tokens.profile)
    rows = {name: configure(row, config.tokens.settings.get(name, {})) for name, row in table.items()}
    assert rows["tok_dinov2"].channels == rows["tok_dinov2_global"].channels == 768
    for row in rows.values():
        if row.modality != "rgb":
            assert row.modality in all_modalities()


def test_a_setting_that_is_not_in_the_template_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="0 lines 'shard_sise:'"):
        _changed("shard_size: 3\n", "x", Profile("", settings={"shard_sise:": "1"}))
    changed = _changed(
        "shard_size: 3   # samples\nname: a\n", "x", Profile("", settings={"shard_size:": "10", "name:": "b"})
    )
    assert yaml.safe_load(changed) == {"shard_size": 10, "name": "b"}
    assert "# samples" in changed
