"""The bounded cache of copies."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from pipeline.errors import ConfigError, StorageError
from pipeline.storage.cache import Cache, default_limit


def add(cache: Cache, name: str, data: bytes, version: str = "v1", age: float = 0.0) -> Path:
    def fill(sink: IO[bytes]) -> tuple[str, str]:
        sink.write(data)
        return version, ""

    path = cache.add(name, fill)
    if age:
        stamp = path.stat().st_mtime - age
        os.utime(path, (stamp, stamp))
    return path


def test_found_by_name_version_and_content(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    assert cache.find("s3://b/x.tar") is None
    path = add(cache, "s3://b/x.tar", b"one", 'odd"/version')
    assert path.name == "x.tar" and path.read_bytes() == b"one"
    assert cache.find("s3://b/x.tar") == (path, "odd%22%2Fversion")
    digest = hashlib.sha256(b"one").hexdigest()
    assert cache.find("s3://b/x.tar", digest) is not None
    assert cache.find("s3://b/x.tar", "0" * 64) is None
    assert cache.find("s3://b/y.tar", digest) is None


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100, grace_s=0)
    old, used = add(cache, "a", bytes(40), age=300), add(cache, "b", bytes(40), age=200)
    assert cache.find("a") is not None  # touches it, so b is the oldest now
    add(cache, "c", bytes(40))
    assert old.exists() and not used.exists()
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) <= 100


def test_what_was_just_handed_out_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100, grace_s=60)
    paths = [add(cache, name, bytes(60)) for name in "abc"]
    assert all(path.exists() for path in paths)


def test_a_mapped_file_outlives_its_name(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10, grace_s=0)
    with add(cache, "a", b"0123456789", age=100).open("rb") as held:
        add(cache, "b", bytes(10))
        assert cache.find("a") is None
        assert held.read() == b"0123456789"


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    def full(sink: IO[bytes]) -> tuple[str, str]:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(StorageError, match="MANYMODAL_CACHE"):
        Cache(tmp_path, 10).add("a", full)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_limit_is_a_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MANYMODAL_S3_CACHE_GB", "2.5")
    assert default_limit(tmp_path) == 2_500_000_000
    monkeypatch.setenv("MANYMODAL_S3_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="MANYMODAL_S3_CACHE_GB: 'much'"):
        default_limit(tmp_path)


def test_a_copy_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noted(call: Callable[..., None]) -> Callable[..., None]:
        return lambda *args: (calls.append(call.__name__), call(*args))[1]

    monkeypatch.setattr(os, "fsync", noted(os.fsync))
    monkeypatch.setattr(os, "replace", noted(os.replace))
    add(Cache(tmp_path), "a", b"one")
    assert calls == ["fsync", "replace"]


def test_what_a_power_cut_left_of_a_copy_is_not_sound(tmp_path: Path) -> None:
    path = add(Cache(tmp_path), "a", b"one")
    assert Cache(tmp_path).sound(path)
    os.truncate(path, 0)
    assert not Cache(tmp_path).sound(path)


def test_a_version_whose_copy_went_is_none(tmp_path: Path) -> None:
    """As it is between the two removals of making room, or for good where the process ended there."""
    cache = Cache(tmp_path)
    add(cache, "a", b"one").unlink()
    assert cache.find("a") is None
    again = add(cache, "a", b"two")
    found = cache.find("a")
    assert found is not None and found[0] == again
