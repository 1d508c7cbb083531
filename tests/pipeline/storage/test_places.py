"""Places a person names: brought here as they are now, and written to whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from pipeline.errors import ConfigError
from pipeline.storage import open_storage
from pipeline.storage.places import here, there


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of moto's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("MANYMODAL_CACHE", str(tmp_path / "cache"))
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="lab")
        yield "s3://lab"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _fail_half_way(folder: Path) -> None:
    (folder / "a").write_bytes(b"half")
    (folder / "b").read_bytes()


def test_a_file_and_a_folder_as_they_are_now(lab: str) -> None:
    store = open_storage(lab)
    for key in ("maps/a.png", "maps/deep/b.png", "mapsother"):
        store.put(key, key.encode())
    assert here(f"{lab}/maps/a.png").read_bytes() == b"maps/a.png"
    folder = here(f"{lab}/maps")
    assert folder == here(f"{lab}/maps/")
    assert contents(folder) == {"a.png": b"maps/a.png", "deep/b.png": b"maps/deep/b.png"}
    inode = folder.stat().st_ino
    assert here(f"{lab}/maps").stat().st_ino == inode, "nothing changed: readers keep what they have"
    store.put("maps/a.png", b"another")
    store.delete("maps/deep/b.png")
    assert contents(here(f"{lab}/maps")) == {"a.png": b"another"}
    assert not here(f"{lab}/nothing").exists()
    assert contents(here(lab)).keys() == {"maps/a.png", "mapsother"}
    with pytest.raises(ConfigError, match="names no bucket"):
        here("s3:///x")


def test_on_this_machine_a_place_is_itself(tmp_path: Path) -> None:
    assert here(str(tmp_path)) == tmp_path == here(tmp_path.as_uri())
    with there(str(tmp_path / "out")) as folder:
        assert folder == tmp_path / "out"


def test_what_is_written_is_there_at_the_end(lab: str) -> None:
    with there(f"{lab}/out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.json").write_text("{}")
        assert not open_storage(lab).list("")
    assert open_storage(lab).read_bytes("out/sub/a.json") == b"{}"
    with pytest.raises(FileNotFoundError), there(f"{lab}/half") as folder:
        _fail_half_way(folder)
    assert not open_storage(f"{lab}/half").list(""), "what failed is not written"
