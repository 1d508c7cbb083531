"""Folders: walked to the bottom, in one order, with side-cars; what is no plain file is named and never opened."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from labelers.core.images import DEFAULT_LIMITS
from pipeline.errors import ConfigError
from pipeline.ingest.candidate import MAX_SIDECAR, Payload
from pipeline.ingest.folder import walk
from tests.pipeline.ingest.gather import good, laion, outcomes, photo, reasons, source, write_photos, write_tar_of


def names(folder: Path) -> list[str]:
    """File names of the candidates of a folder, relative to it, in order."""
    return [
        os.path.relpath(os.fsdecode(unquote_to_bytes(uri.removeprefix("file://"))), folder) for uri, _ in source(folder)
    ]


def test_walks_to_the_bottom_in_the_order_of_names(tmp_path: Path) -> None:
    wanted = ["B.png", "a/deep/er/x.png", "a/z.png", "b.png", "c/1.png", "ü.png"]
    write_photos(tmp_path, *reversed(wanted))
    assert names(tmp_path) == wanted
    assert len(set(good(source(tmp_path)))) == len(wanted)


def test_takes_the_extensions_of_images_and_overlooks_the_rest(tmp_path: Path) -> None:
    images = ["1.JPG", "2.jpeg", "3.Png", "4.webp", "5.gif", "6.bmp", "7.TIFF", "8.heic", "v2.final.jpg"]
    write_photos(tmp_path, *images, "notes.md", "Thumbs.db", ".DS_Store", "jpg", "a.jpg.part", "b.json", "c.txt")
    assert names(tmp_path) == images


def test_sidecars_of_equal_stem_come_along_unchanged(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png", "b.c.png", "lonely.png")
    (tmp_path / "a.txt").write_bytes(b" a caption\xff\n")
    (tmp_path / "a.json").write_bytes(b'{"k": 1}')
    (tmp_path / "b.c.txt").write_bytes(b"two dots")
    (tmp_path / "b.txt").write_bytes(b"of nobody")
    (tmp_path / "a.xml").write_bytes(b"<no/>")
    found = [dict(payload.sidecars) for _, payload in source(tmp_path) if isinstance(payload, Payload)]
    assert found == [{"txt": b" a caption\xff\n", "json": b'{"k": 1}'}, {"txt": b"two dots"}, {}]


def test_a_sidecar_that_cannot_be_taken_along_is_said(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    (tmp_path / "a.txt").symlink_to("nowhere")
    (tmp_path / "b.json").mkdir()
    os.mkfifo(tmp_path / "c.txt")
    (tmp_path / "d.json").write_bytes(bytes(MAX_SIDECAR + 1))
    found = source(tmp_path)
    assert reasons(found) == ["bad_sidecar"] * 4
    assert good(found) == [photo(4)]


@pytest.mark.parametrize(
    "name",
    [b"with space.png", b"dots.in.the.name.png", b".hidden.png", b"-leading-dash.png", "ünï 图片.png".encode(),
     b"not-utf8-\xff\xfe.png", b"n" * 236 + b".png", b"n" * 251 + b".png", b"new\nline.png", b"percent%20#?.png",
     b"'\"<b>&;$(x).png"],
    ids=ascii,
)  # fmt: skip
def test_odd_names_are_read_and_named_in_ascii(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    Path(os.fsdecode(path)).write_bytes(photo())
    [(uri, payload)] = source(tmp_path)
    assert isinstance(payload, Payload)
    assert unquote_to_bytes(uri.removeprefix("file://")) == path


def test_a_folder_named_like_an_image_is_named_and_entered(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png", "x.jpg/inside.png", "z.png")
    found = source(tmp_path)
    assert [Path(uri).name for uri, _ in found] == ["a.png", "x.jpg", "inside.png", "z.png"]
    assert reasons(found) == ["directory"]


def test_links_lead_to_each_folder_once(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    write_photos(inside, "a.png", "real/b.png")
    write_photos(outside, "c.png", first=10)
    (inside / "up").symlink_to("..")  # would be endless
    (inside / "self").symlink_to(".")
    (inside / "1st").symlink_to(outside)
    (inside / "2nd").symlink_to(outside)
    (inside / "again").symlink_to("real")
    (inside / "alias.png").symlink_to("a.png")
    assert names(inside) == ["a.png", "alias.png", "real/b.png", "1st/c.png"]


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png", "z.png")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "loop_a.jpg").symlink_to("loop_b.jpg")
    (tmp_path / "loop_b.jpg").symlink_to("loop_a.jpg")
    (tmp_path / "loop.tar").symlink_to("loop.tar")
    (tmp_path / "loop_folder").symlink_to("loop_folder")
    found = source(tmp_path)
    assert reasons(found) == ["broken_link"] * 4
    assert good(found) == [photo(0), photo(1)]


@pytest.mark.parametrize("name", ["pipe.jpg", "pipe.tar", "link.jpg", "link.tar"])
def test_pipes_and_devices_are_never_opened(tmp_path: Path, name: str) -> None:
    write_photos(tmp_path, "a.png")
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)  # to open it would wait for a writer for ever
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    found = source(tmp_path)
    assert reasons(found) == ["not_a_file"]
    assert good(found) == [photo(0)]


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "big.jpg").open("wb") as handle:
        handle.truncate(DEFAULT_LIMITS.max_bytes + 1)
    assert reasons(source(tmp_path)) == ["too_many_bytes"]


def test_a_file_without_rights_is_a_reason_and_a_machine_in_trouble_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path, "a.png")
    codes = iter([errno.EACCES, errno.EMFILE])

    def fail(*_: object) -> None:
        code = next(codes)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", fail)
    assert reasons(source(tmp_path)) == ["unreadable"]
    with pytest.raises(OSError, match="Too many open files"):
        source(tmp_path)


def test_a_folder_that_cannot_be_listed_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path, "a.png")

    def fail(folder: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(ConfigError, match="Permission denied") as found:
        source(tmp_path)
    assert str(tmp_path) in str(found.value)


def test_tars_in_a_folder_are_read_in_their_place(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png", "c.png")
    write_tar_of(tmp_path / "b.tar", laion(2, first=20))
    assert good(source(tmp_path)) == [photo(0), photo(20), photo(21), photo(1)]


def test_the_excluded_folder_is_not_entered(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png", "ds/b.png")
    (tmp_path / "by_link").symlink_to("ds")
    assert good(outcomes(walk(tmp_path, exclude=tmp_path / "ds"))) == [photo(0)]
