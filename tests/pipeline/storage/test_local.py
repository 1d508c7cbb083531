"""The local storage: whole or absent, never over another, and the system's errors as one sentence."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, StorageError
from pipeline.storage import LocalStorage, open_storage


def test_put_read_list_delete(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    assert storage.list("depth") == {}
    assert storage.put_if_absent("depth/b.json", b"22")
    assert storage.put_if_absent("depth/a.json", b"1")
    assert storage.put_if_absent("depth/_commits/c.json", b"333")
    listed = {key: entry.size for key, entry in storage.list("depth").items()}
    assert listed == {"depth/_commits/": 0, "depth/a.json": 1, "depth/b.json": 2}
    assert (storage.read_bytes("depth/b.json"), storage.size("depth/b.json")) == (b"22", 2)
    storage.delete("depth/b.json")
    storage.delete("depth/b.json")
    assert not storage.exists("depth/b.json")
    for call in (storage.read_bytes, storage.size, storage.local):
        with pytest.raises(FileNotFoundError):
            call("depth/b.json")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    assert storage.put_if_absent("k", b"first")
    assert not storage.put_if_absent("k", b"second")
    other = tmp_path / "other"
    other.write_bytes(b"third")
    assert not storage.publish(other, "k")
    assert storage.read_bytes("k") == b"first"
    assert other.exists(), "publish leaves the file it was given"


def test_eight_racers_one_winner(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.put_if_absent("k", str(i).encode() * 1000), range(8)))
    assert won.count(True) == 1
    assert storage.read_bytes("k") == str(won.index(True)).encode() * 1000


def test_scratch_is_swept_even_after_an_error(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)

    def fail_half_way() -> None:
        with storage.scratch() as folder:
            (folder / "half").write_bytes(b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failing_disk_is_one_sentence_and_exit_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*args: object) -> None:
        raise OSError(code, os.strerror(code), "somewhere")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(StorageError, match=r"again") as found:
        LocalStorage(tmp_path).put_if_absent("depth/a", b"1")
    assert found.value.exit_code == 4
    assert str(tmp_path) in str(found.value)
    assert LocalStorage(tmp_path).list("depth") == {}


def test_a_file_where_the_root_should_be_is_a_wrong_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in ("file", "file/below"):
        with pytest.raises(ConfigError, match="a file where a folder must be"):
            LocalStorage(tmp_path / root).put_if_absent("k", b"")


def test_folders_and_buckets(tmp_path: Path) -> None:
    assert open_storage(f"file://{tmp_path}").url == str(tmp_path)
    assert open_storage("s3://bucket/a/b/").url == "s3://bucket/a/b"
    with pytest.raises(ConfigError, match="gs://: a data set lies in a folder or at s3://"):
        open_storage("gs://bucket/x")


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd"])
def test_keys_stay_inside(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="leaves the data set"):
        LocalStorage(tmp_path).put_if_absent(key, b"")


def test_the_last_attempt_may_sweep_while_another_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the making of `_tmp` and of the folder in it, another attempt takes the empty `_tmp` away, twice."""
    storage, mkdir, swept = LocalStorage(tmp_path), os.mkdir, [0]

    def raced(path: str | Path, *mode: int, **given: int) -> None:
        mkdir(path, *mode, **given)
        if Path(path).name == LocalStorage.SCRATCH and swept[0] < 2:
            swept[0] += 1
            os.rmdir(path)

    monkeypatch.setattr(os, "mkdir", raced)
    with storage.scratch() as folder:
        assert folder.is_dir() and swept == [2]
