"""The configuration: what is refused, and that the sentence helps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from labelers.core.registry import all_labelers
from pipeline.config import Config, load_config, validate
from pipeline.demo.photos import PHOTOS
from pipeline.demo.settings import count_photos, demo_config_text, train_settings
from pipeline.errors import ConfigError
from pipeline.template import config_template
from trainer.config import TrainConfig


def write(folder: Path, text: str) -> str:
    (folder / "manymodal.yaml").write_text(text)
    return str(folder / "manymodal.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shard_sise: 3", "shard_sise: unknown key; did you mean 'shard_size'"),
        ("tokens: {veiws: 2}", "tokens.veiws: unknown key; did you mean 'views'"),
        ("labelers: {canny_edge: {params: {hihg: 3}}}", "labelers.canny_edge.params.hihg: unknown key; did you mean 'high'"),
        ("labelers: {canny_egde: {}}", "did you mean 'canny_edge'"),
        ("labelers: {canny_edge: {enabld: true}}", "did you mean 'enabled'"),
        ("labelers: {canny_edge: {weights: {net: 'file:x'}}}", "unknown slot 'net'"),
        ("labelers: {canny_edge: {params: {low: 300}}}", "low (300.0) is above high"),
        ("shard_size: 0", "shard_size: Input should be greater than or equal to 1, got 0"),
        ("executor: rya", "executor"),
        ("- a", "expected keys and values"),
        ("a: [", "not YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as found:
        load_config(write(tmp_path, text))
    assert says in str(found.value)
    assert found.value.exit_code == 2


def test_of_a_union_the_branch_that_fits_is_named() -> None:
    for value, says in (
        ([{"name": "mine", "input": {"tok_rgb": 1.0}}], "train.mixture.0.input: unknown key; did you mean 'inputs'?"),
        ([{"name": "mine", "few": "x"}], "train.mixture.0.few: Input should be a valid number"),
        ("dmeo", "train.mixture: Input should be 'demo', 'published' or 'steering', got 'dmeo'"),
    ):
        with pytest.raises(ConfigError) as found:
            validate(TrainConfig, {"mixture": value}, "train")
        assert str(found.value).startswith(says)


def test_the_template_is_the_default(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, config_template()))
    assert Path(config.root).resolve() == tmp_path.resolve()
    assert config.enabled_labelers().keys() == Config().enabled_labelers().keys()
    for name in all_labelers():
        assert config.labeler(name).params == Config().labeler(name).params
        assert config.labelers[name].weights == dict(all_labelers()[name].weights)
    plain = Config(root=config.root, labelers=config.labelers)
    assert config == plain


def test_the_demo_changes_what_it_says() -> None:
    values = yaml.safe_load(demo_config_text())
    assert (values["name"], values["shard_size"], values["tokens"]["views"]) == ("demo", 16, 8)
    assert values["train"] == yaml.safe_load(f"{{{train_settings(len(PHOTOS))}}}")
    TrainConfig(**values["train"])


def test_the_demo_trains_longer_on_more_photos(tmp_path: Path) -> None:
    settings = [TrainConfig(**yaml.safe_load(f"{{{train_settings(n)}}}")) for n in (1, 14, 56, 80, 320, 10**6)]
    tokens = [config.steps * config.batch * config.n_out for config in settings]
    steps = [config.steps for config in settings]
    assert tokens == sorted(tokens) and (steps[0], steps[-1]) == (400, 4000)
    assert steps[2] == pytest.approx(2 * steps[1], abs=10) and steps[4] == pytest.approx(2 * steps[3], abs=10)
    (tmp_path / "deep").mkdir()
    for name in ("a.jpg", "deep/b.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert count_photos(str(tmp_path)) == 2
    assert count_photos("s3://lab/photos") == count_photos(str(tmp_path / "none")) == len(PHOTOS)


def test_set_overrides_and_root_counts_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "root: data\ntokens: {views: 2}")
    config = load_config(path, ["tokens.views=8", "labelers.canny_edge.params.low=10", "executor=local"])
    assert (config.tokens.views, config.labelers["canny_edge"].params["low"], config.executor) == (8, 10, "local")
    assert Path(config.root) == tmp_path / "data"
    for text in ("name=a: b: c", "labelers={a"):
        with pytest.raises(ConfigError, match=f"--set {text}: the value is not YAML"):
            load_config(path, [text])
    with pytest.raises(ConfigError, match="expected key"):
        load_config(path, ["tokens.views"])
    with pytest.raises(ConfigError, match="no section"):
        load_config(path, ["executor.x=1", "executor.x.y=1"])


def test_a_root_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load_config(write(tmp_path, "root: ~/data")).root == "/home/somebody/data"


def test_a_folder_is_its_own_root(tmp_path: Path) -> None:
    write(tmp_path, "root: elsewhere\nname: n")
    config = load_config(str(tmp_path))
    assert (config.root, config.name) == (str(tmp_path), "n")
    with pytest.raises(ConfigError, match="no such file"):
        load_config(str(tmp_path / "absent.yaml"))


def test_a_root_in_the_copy_that_ray_makes_for_a_job_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    (copy / "mine.yaml").write_text("root: data\n")
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError, match="Give an absolute path"):
        load_config("mine.yaml")
    (copy / "mine.yaml").write_text(f"root: {tmp_path}/data\n")
    assert load_config("mine.yaml").root == f"{tmp_path}/data"
