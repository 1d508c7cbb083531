"""Weights in a data set: folders by digest, and hub URLs that mean for ever what they meant first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from labelers.core import hub
from labelers.core.weights import digest
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.weights import resolve_weights

COMMITS = {"main": "ab" * 20}


@pytest.fixture
def ds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("MANYMODAL_CACHE", str(tmp_path / "cache"))
    return Dataset.create(str(tmp_path / "data"), "n", 4)


def folder(at: Path, text: str = "weights") -> Path:
    (at / "sub").mkdir(parents=True)
    (at / "config.json").write_text("{}")
    (at / "sub" / "a name.safetensors").write_text(text)
    return at


def test_a_folder_of_weights_comes_back_whole(ds: Dataset, tmp_path: Path) -> None:
    source = folder(tmp_path / "net")
    sha = digest(source)
    ds.put_weights(source, sha)
    ds.put_weights(source, sha)
    shutil.rmtree(source)
    path = Dataset.open(ds.storage.url).weights_path(sha)
    assert digest(path) == sha
    assert (path / "sub" / "a name.safetensors").read_text() == "weights"
    assert ds.weights_path(sha) == path


def test_links_into_a_data_set_that_is_gone_are_made_again(ds: Dataset, tmp_path: Path) -> None:
    source = folder(tmp_path / "net")
    sha = digest(source)
    ds.put_weights(source, sha)
    ds.weights_path(sha)
    Path(ds.storage.url).rename(tmp_path / "moved")
    assert digest(Dataset.open(str(tmp_path / "moved")).weights_path(sha)) == sha


def test_damage_and_wrong_digests_are_refused(ds: Dataset, tmp_path: Path) -> None:
    source = folder(tmp_path / "net")
    with pytest.raises(DamageError, match="its digest is not"):
        ds.put_weights(source, "0" * 64)
    sha = digest(source)
    ds.put_weights(source, sha)
    file = Path(ds.storage.url) / "_weights" / digest(source / "sub" / "a name.safetensors")
    file.write_text("spoiled")
    with pytest.raises(DamageError, match="do not have the committed sha256"):
        Dataset.open(ds.storage.url).weights_path(sha)


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """A hub whose branches can be moved; without "main" it is out of reach."""
    branches = dict(COMMITS)

    def fetch(name: str, commit: str, member: str, cache: Path, local: bool = False) -> Path:
        at = cache / "hf" / commit
        if not at.exists():
            if local or not branches:
                raise hub.HubError("no route")
            folder(at, commit)
        return at

    def head(name: str, revision: str) -> str:
        if not branches:
            raise hub.HubError("no route")
        return branches[revision]

    monkeypatch.setattr(hub, "commit_of", head)
    monkeypatch.setattr(hub, "fetch", fetch)
    return branches


def test_a_branch_stays_where_the_data_set_found_it(ds: Dataset, reach: dict[str, str], tmp_path: Path) -> None:
    urls = {"model": "hf:org/name@main"}
    first = resolve_weights(lambda: ds.storage, urls)["model"]
    assert first.url == f"hf:org/name@{COMMITS['main']}#sha256={first.sha256}"
    reach["main"] = "cd" * 20
    assert resolve_weights(lambda: ds.storage, urls)["model"] == first
    other = Dataset.create(str(tmp_path / "other"), "n", 4)
    assert resolve_weights(lambda: other.storage, urls)["model"].sha256 != first.sha256


def test_without_a_hub_the_data_set_has_its_weights(ds: Dataset, reach: dict[str, str], tmp_path: Path) -> None:
    urls = {"model": "hf:org/name@main"}
    first = resolve_weights(lambda: ds.storage, urls)["model"]
    ds.put_weights(first.path, first.sha256)
    reach.clear()
    shutil.rmtree(tmp_path / "cache")
    again = resolve_weights(lambda: ds.storage, urls)["model"]
    assert (again.url, again.sha256) == (first.url, first.sha256)
    assert digest(again.path) == first.sha256
    with pytest.raises(ConfigError, match="no route"):
        resolve_weights(lambda: ds.storage, {"model": "hf:org/other@main"})
