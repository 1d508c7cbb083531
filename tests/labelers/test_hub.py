"""What is fetched from a model hub, and that nothing moves: a hub made of a folder stands in for the network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from labelers.core.hub import chosen
from labelers.core.weights import WeightError, at_hand, digest, parse, pin, resolve

COMMIT, LATER = "ab" * 20, "cd" * 20
FILES = {
    "config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle", "modeling_own.py": b"evil()",
    "README.md": b"# card", "tf_model.h5": b"tf", "onnx/model.onnx": b"onnx", "vocab.txt": b"a", "spiece.model": b"b",
}  # fmt: skip


class FolderHub:
    """The four functions of the hub's client that are used, over a dictionary; counts what crosses the network."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.head, self.asked = folder, COMMIT, list[str]()

    def snapshot(self, name: str, revision: str, cache_dir: Path) -> Path:
        return Path(cache_dir) / f"models--{name.replace('/', '--')}" / "snapshots" / revision

    def snapshot_download(self, name: str, *, revision: str, cache_dir: Path, local_files_only: bool = False,
                          allow_patterns: list[str] | None = None) -> str:  # fmt: skip
        at = self.snapshot(name, revision, cache_dir)
        if not local_files_only:
            self.asked.append(f"snapshot {revision}")
            for file in allow_patterns or []:
                (at / file).parent.mkdir(parents=True, exist_ok=True)
                (at / file).write_bytes(FILES[file])
        if not at.is_dir():
            raise OSError("not in the cache")
        return str(at)

    def hf_hub_download(self, name: str, member: str, **at: Any) -> str:
        return str(Path(self.snapshot_download(name, allow_patterns=[member], **at)) / member)

    def repo_info(self, name: str, revision: str) -> Any:
        self.asked.append(f"head {revision}")
        return type("Info", (), {"sha": self.head})

    def list_repo_files(self, name: str, revision: str) -> list[str]:
        return list(FILES)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    fake = FolderHub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


def test_no_code_and_no_pickle_where_there_is_safetensors() -> None:
    assert chosen(list(FILES)) == ["config.json", "model.safetensors", "spiece.model", "vocab.txt"]
    old = [name for name in FILES if name != "model.safetensors"]
    assert chosen(old) == ["config.json", "pytorch_model.bin", "spiece.model", "vocab.txt"]
    parts = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "sub/x.safetensors"]
    assert set(chosen(parts)) == set(parts[:2])


def test_a_repository_at_a_commit(hub: FolderHub, tmp_path: Path) -> None:
    cache, url = tmp_path / "cache", f"hf:org/name@{COMMIT}"
    assert not at_hand(url, cache)
    found = resolve(url, cache)
    assert sorted(p.name for p in found.path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "spiece.model",
        "vocab.txt",
    ]
    assert found.sha256 == digest(found.path)
    assert at_hand(url, cache)
    one = resolve(f"{url}!model.safetensors", cache)
    assert one.sha256 == hashlib.sha256(b"weights").hexdigest()


def test_a_known_digest_is_answered_from_the_cache(hub: FolderHub, tmp_path: Path) -> None:
    cache, url = tmp_path / "cache", f"hf:org/name@{COMMIT}"
    pinned = f"{url}#sha256={resolve(url, cache).sha256}"
    asked = len(hub.asked)
    path = resolve(pinned, cache).path
    assert len(hub.asked) == asked
    (path / "model.safetensors").write_bytes(b"bit rot")
    assert (resolve(pinned, cache).path / "model.safetensors").read_bytes() == b"weights"  # fetched again
    assert len(hub.asked) == asked + 1


def test_a_branch_is_pinned_and_not_resolved(hub: FolderHub, tmp_path: Path) -> None:
    assert parse("hf:org/name@main").moves
    assert not parse(f"hf:org/name@{COMMIT}").moves
    with pytest.raises(WeightError, match="main is a branch or tag, which moves"):
        resolve("hf:org/name@main", tmp_path)
    assert pin("hf:org/name@main!a.pth") == f"hf:org/name@{COMMIT}!a.pth"
    assert pin(f"hf:org/name@{LATER}") == f"hf:org/name@{LATER}"
    assert pin("file:x") == "file:x"
    assert hub.asked == ["head main"]


def test_a_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "HfApi", fail)
    for ask in (lambda: resolve(f"hf:org/name@{COMMIT}", tmp_path), lambda: pin("hf:org/name@main")):
        with pytest.raises(
            WeightError, match=r"could not be fetched from the hub .*Name or service.*name a local copy"
        ):
            ask()
