"""Places a person names: brought here as they are now, and written to whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.storage import open_storage
from pipeline.storage.places import here, there


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _fail_half_way(folder: Path) -> None:
    (folder / "a").write_bytes(b"half")
    (folder / "b").read_bytes()


def test_a_file_and_a_folder_as_they_are_now(moto_bucket: str) -> None:
    store = open_storage(moto_bucket)
    for key in ("maps/a.png", "maps/deep/b.png", "mapsother"):
        store.put(key, key.encode())
    assert here(f"{moto_bucket}/maps/a.png").read_bytes() == b"maps/a.png"
    folder = here(f"{moto_bucket}/maps")
    assert folder == here(f"{moto_bucket}/maps/")
    assert contents(folder) == {"a.png": b"maps/a.png", "deep/b.png": b"maps/deep/b.png"}
    inode = folder.stat().st_ino
    assert here(f"{moto_bucket}/maps").stat().st_ino == inode, "nothing changed: readers keep what they have"
    store.put("maps/a.png", b"another")
    store.delete("maps/deep/b.png")
    assert contents(here(f"{moto_bucket}/maps")) == {"a.png": b"another"}
    assert not here(f"{moto_bucket}/nothing").exists()
    assert contents(here(moto_bucket)).keys() == {"maps/a.png", "mapsother"}
    with pytest.raises(ConfigError, match="names no bucket"):
        here("s3:///x")


def test_on_this_machine_a_place_is_itself(tmp_path: Path) -> None:
    assert here(str(tmp_path)) == tmp_path == here(tmp_path.as_uri())
    with there(str(tmp_path / "out")) as folder:
        assert folder == tmp_path / "out"


def test_what_is_written_is_there_at_the_end(moto_bucket: str) -> None:
    with there(f"{moto_bucket}/out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.json").write_text("{}")
        assert not open_storage(moto_bucket).list("")
    assert open_storage(moto_bucket).read_bytes("out/sub/a.json") == b"{}"
    with pytest.raises(FileNotFoundError), there(f"{moto_bucket}/half") as folder:
        _fail_half_way(folder)
    assert not open_storage(f"{moto_bucket}/half").list(""), "what failed is not written"
