"""What every storage promises, asked of a folder and of a bucket (moto's)."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import ManymodalError, StorageError
from pipeline.storage import LocalStorage, Storage
from pipeline.storage.cache import Cache
from pipeline.storage.s3 import S3Storage
from pipeline.storage.s3_client import BadKey


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    if request.param == "folder":
        yield LocalStorage(tmp_path / "root")
        return
    monkeypatch.setattr("pipeline.storage.s3_write.WHOLE", 6 << 20)
    monkeypatch.setattr("pipeline.storage.s3_write.PART", 5 << 20)
    monkeypatch.setattr("pipeline.storage.s3_read.PART", 2 << 20)
    bucket = request.getfixturevalue("moto_bucket")
    yield S3Storage(f"{bucket}/some/where", Cache(tmp_path / "cache", 1 << 30))


def file(folder: Path, data: bytes) -> Path:
    path = folder / f"f{len(list(folder.iterdir()))}"
    path.write_bytes(data)
    return path


def test_put_read_list_delete(storage: Storage) -> None:
    assert storage.list("depth") == {}
    assert storage.put_if_absent("depth/b.json", b"22")
    assert storage.put_if_absent("depth/a ü+%.json", b"1")
    assert storage.put_if_absent("depth/_commits/c.json", b"")
    assert storage.put_if_absent("depths", b"another")
    listed = {key: entry.size for key, entry in storage.list("depth").items()}
    assert listed == {"depth/_commits/": 0, "depth/a ü+%.json": 1, "depth/b.json": 2}
    assert {key: e.size for key, e in storage.list("").items()} == {"depth/": 0, "depths": 7}
    assert (storage.read_bytes("depth/b.json"), storage.size("depth/b.json")) == (b"22", 2)
    assert storage.local("depth/b.json").read_bytes() == b"22"
    assert storage.local("depth/b.json").name == "b.json"
    assert storage.local("depth/_commits/c.json").read_bytes() == storage.read_bytes("depth/_commits/c.json") == b""
    assert storage.exists("depth/b.json") and storage.modified("depth/b.json") < float("inf")
    storage.delete("depth/b.json")
    storage.delete("depth/b.json")
    assert not storage.exists("depth/b.json") and storage.modified("depth/b.json") == float("inf")
    for call in (storage.read_bytes, storage.size, storage.local):
        with pytest.raises(FileNotFoundError):
            call("depth/b.json")


def test_a_stamp_changes_when_other_bytes_are_written(storage: Storage) -> None:
    storage.put("a/x", b"one")
    first = storage.list("a")["a/x"]
    storage.delete("a/x")
    storage.put_if_absent("a/x", b"two")
    assert storage.list("a")["a/x"] != first
    assert storage.local("a/x").read_bytes() == b"two", "no old copy passes for the new bytes"


def test_nothing_is_written_over(storage: Storage, tmp_path: Path) -> None:
    storage.check()
    assert storage.list("_tmp") == {}
    assert storage.put_if_absent("k", b"first")
    assert not storage.put_if_absent("k", b"second")
    other = file(tmp_path, b"third")
    assert not storage.publish(other, "k")
    assert storage.read_bytes("k") == b"first"
    assert other.exists(), "publish leaves the file it was given"
    storage.put("k", b"a page is another matter")
    assert storage.read_bytes("k") == b"a page is another matter"


def test_large_files_are_whole_or_absent_and_never_written_over(storage: Storage, tmp_path: Path) -> None:
    one, two = (bytes([i]) * (7 << 20) + b"end" for i in (1, 2))
    assert storage.publish(file(tmp_path, one), "rgb/shard-000000.tar")
    assert not storage.publish(file(tmp_path, two), "rgb/shard-000000.tar")
    assert storage.local("rgb/shard-000000.tar").read_bytes() == one == storage.read_bytes("rgb/shard-000000.tar")
    assert storage.sweep(float("inf")) == []


def test_eight_racers_one_winner(storage: Storage, tmp_path: Path) -> None:
    paths = [file(tmp_path, bytes([i]) * 10) for i in range(8)]  # moto itself is no match for racing multipart uploads
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda path: storage.publish(path, "k"), paths))
    assert won.count(True) == 1
    assert storage.read_bytes("k") == paths[won.index(True)].read_bytes()


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b"])
def test_keys_stay_inside(storage: Storage, key: str) -> None:
    for call in (lambda: storage.put_if_absent(key, b""), lambda: storage.read_bytes(key), lambda: storage.list(key)):
        with pytest.raises(ValueError, match="leaves the data set"):
            call()


def test_a_folder_is_replaced_whole(storage: Storage, tmp_path: Path) -> None:
    assert not storage.fetch_folder("_models/m").exists()
    for number in range(4):
        made = tmp_path / f"made{number}"
        (made / "deep").mkdir(parents=True)
        (made / "a").write_bytes(b"a%d" % number)
        (made / "deep" / "b").write_bytes(b"b%d" % number)
        storage.put_folder("_models/m", made)
    found = storage.fetch_folder("_models/m")
    assert {str(p.relative_to(found)): p.read_bytes() for p in found.rglob("*") if p.is_file()} == {
        "a": b"a3", "deep/b": b"b3"
    }  # fmt: skip
    (found / "a").write_bytes(b"changed in place")
    storage.put_folder("_models/m", found)
    assert (storage.fetch_folder("_models/m") / "a").read_bytes() == b"changed in place"


def test_scratch_is_swept_even_after_an_error(storage: Storage) -> None:
    kept: list[Path] = []

    def fail_half_way() -> None:
        with storage.scratch() as folder:
            kept.append(folder)
            (folder / "half").write_bytes(b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert not kept[0].exists()
    assert storage.list("") == {}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_under_a_temporary_file_is_said(storage: Storage, code: int) -> None:
    with pytest.raises(StorageError, match="Free some|again"), storage.scratch():
        raise OSError(code, os.strerror(code), "somewhere")
    with pytest.raises(BrokenPipeError), storage.scratch():
        raise BrokenPipeError(errno.EPIPE, "nothing of the disk's")


def test_requests_are_as_large_as_the_sizing_counts_them() -> None:
    from pipeline import sizing
    from pipeline.storage import s3_read, s3_write

    assert s3_read.PART == s3_write.PART == s3_write.WHOLE == sizing.PART


def test_damaged_copies_are_fetched_again(moto_bucket: str, tmp_path: Path) -> None:
    """As a power cut leaves them: what was at hand of a file, and of a folder."""
    (tmp_path / "model").mkdir()
    file(tmp_path / "model", b"weights")
    S3Storage(moto_bucket).put_folder("_models/m", tmp_path / "model")
    S3Storage(moto_bucket).put("index/a", b"rows")
    for _ in range(2):
        storage = S3Storage(moto_bucket, Cache(tmp_path / "cache", 1 << 30))
        assert storage.local("index/a").read_bytes() == b"rows"
        folder = storage.fetch_folder("_models/m")
        assert (folder / "f0").read_bytes() == b"weights"
        shutil.rmtree(folder)  # so that it is made of copies again
        for copy in (tmp_path / "cache" / "copies").glob("*/*/*"):
            os.truncate(copy, 0)


def test_errors_come_back_whole_from_another_process() -> None:
    for kind in kinds(ManymodalError):
        made = kind("s3://b/k", "archived", "restore it") if kind is BadKey else kind("s3://b/k: gone")
        back = pickle.loads(pickle.dumps(made))  # noqa: S301, made here
        assert (type(back), str(back), vars(back)) == (kind, str(made), vars(made))


def kinds(base: type[Exception]) -> list[type[Exception]]:
    return [base, *(kind for child in base.__subclasses__() for kind in kinds(child))]
