"""The file of a tokenizer: tensors and one JSON string, the same bytes every time, and nothing else is taken for one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from pipeline.errors import ConfigError
from pipeline.records import file_sha256
from tokenize_shards import tokenizer as module
from tokenize_shards.mlp_pq import MLPPQ, MLPPQConfig
from tokenize_shards.tokenizer import (
    FORMAT,
    KINDS,
    METADATA_KEY,
    FitReport,
    Tokenizer,
    TokenizerFileError,
    load_tokenizer,
    read_file,
    tokenizer_class,
)


class Shift(Tokenizer):
    """Adds a number to what it is given: the smallest tokenizer there is."""

    kind, vocab, tokens = "shift", 100, 1

    def __init__(self, by: np.ndarray, note: str = "") -> None:
        self.by, self.note = by, note

    def fit(self, train: Any, heldout: Any, **_: Any) -> FitReport:
        return FitReport(self.kind, 0, 0.0)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        return (batch + self.by).astype(np.uint16)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return tokens - self.by

    def config(self) -> dict[str, Any]:
        return {"note": self.note}

    def tensors(self) -> Mapping[str, np.ndarray]:
        return {"by": self.by, "a": np.zeros((2, 3), np.float32).T}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Shift:
        return cls(tensors["by"], config["note"])


@pytest.fixture(autouse=True)
def shift_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "shift", f"{__name__}:Shift")


def test_a_tokenizer_comes_back(tmp_path: Path) -> None:
    Shift(np.array([7]), "grüße").save(tmp_path / "deep" / "a")
    again = load_tokenizer(tmp_path / "deep" / "a")
    assert isinstance(again, Shift) and again.note == "grüße"
    assert again.encode(np.array([1])).tolist() == [8]
    assert isinstance(Shift.load(tmp_path / "deep" / "a"), Shift)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a"], "nothing temporary is left"


def test_equal_tokenizers_have_one_digest(tmp_path: Path) -> None:
    for name, by, note in (("a", 7, "x"), ("b", 7, "x"), ("c", 8, "x"), ("d", 7, "y")):
        Shift(np.array([by]), note).save(tmp_path / name)
    a, b, c, d = (file_sha256(tmp_path / name) for name in "abcd")
    assert a == b and len({a, c, d}) == 3
    load_tokenizer(tmp_path / "a").save(tmp_path / "again")
    assert file_sha256(tmp_path / "again") == a


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    from safetensors import safe_open

    Shift(np.array([7], np.int32)).save(tmp_path / "a")
    with safe_open(str(tmp_path / "a"), "numpy") as file:
        assert file.get_tensor("by").tolist() == [7]
        assert json.loads(file.metadata()[METADATA_KEY]) == {"format": FORMAT, "kind": "shift", "config": {"note": ""}}
    head, arrays = read_file(tmp_path / "a")
    assert head["kind"] == "shift" and arrays["a"].shape == (3, 2)


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Shift(np.array([7])).save(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Shift(np.array([8])).save(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == before


def file_with(tmp_path: Path, head: object, **arrays: np.ndarray) -> Path:
    text = head if isinstance(head, str) else json.dumps(head)
    path = tmp_path / "odd"
    path.write_bytes(save(arrays or {"by": np.array([1])}, metadata={METADATA_KEY: text}))
    return path


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"format": FORMAT + 1, "kind": "shift", "config": {}}, f"format {FORMAT + 1}; this version reads {FORMAT}"),
        ({"format": FORMAT, "kind": "diffusion", "config": {}}, "unknown kind of tokenizer 'diffusion'; known: fourm"),
        ({"format": FORMAT, "kind": "shift", "config": {}}, "does not fit its contents"),
        ({"format": FORMAT, "kind": "shift", "config": None}, "does not fit its contents"),
        ({"format": FORMAT, "kind": "vit_vq", "config": {"settings": {}, "colour": 1}}, "does not fit its contents"),
        ({"format": FORMAT, "kind": "vit_vq", "config": {"settings": {}, "size": "XXL"}}, "does not fit its contents"),
        ({"format": FORMAT, "kind": "vit_vq", "config": {"settings": {}}}, "does not fit its contents"),
        ({"format": FORMAT, "kind": "mlp_pq", "config": {"codes": 1}}, "does not fit its contents"),
        ({"format": FORMAT, "kind": "sequence", "config": {"pieces": []}}, "does not fit its contents"),
        ({"format": FORMAT, "kind": "shift"}, "not that of a tokenizer"),
        ([], "not that of a tokenizer"),
        ("{", "not JSON"),
    ],
)
def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path, head: object, message: str) -> None:
    path = file_with(tmp_path, head)
    with pytest.raises(TokenizerFileError, match=message):
        load_tokenizer(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerFileError, match="cannot be read"):
        load_tokenizer(tmp_path / "absent")
    (tmp_path / "plain").write_bytes(save({"by": np.array([1])}))
    with pytest.raises(TokenizerFileError, match="no 'manymodal_tokenizer' metadata"):
        load_tokenizer(tmp_path / "plain")
    Shift(np.array([7])).save(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in range(0, len(whole), 5):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(TokenizerFileError, match="cannot be read"):
            load_tokenizer(tmp_path / "cut")
    assert issubclass(TokenizerFileError, ConfigError)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / "trap").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(TokenizerFileError):
        load_tokenizer(tmp_path / "trap")
    np.save(tmp_path / "trap.npy", np.array([Trap(sprung)], object), allow_pickle=True)
    with pytest.raises(TokenizerFileError):
        load_tokenizer(tmp_path / "trap.npy")
    assert not sprung.exists()


def test_loading_as_another_kind_is_refused(tmp_path: Path) -> None:
    Shift(np.array([7])).save(tmp_path / "a")
    with pytest.raises(TokenizerFileError, match="kind 'shift', not 'mlp_pq'"):
        MLPPQ.load(tmp_path / "a")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    codec = MLPPQ(MLPPQConfig(dim=6, heads=2, codes=4, latent=2, width=8))
    codec.fit(np.random.default_rng(0).normal(size=(9, 6)), np.zeros((0, 6)), steps=1)
    head = {"format": FORMAT, "kind": "mlp_pq", "config": {**codec.config(), "width": 16}}
    path = file_with(tmp_path, head, **codec.tensors())
    with pytest.raises(TokenizerFileError, match="does not fit its contents"):
        load_tokenizer(path)


@pytest.mark.parametrize("kind", ["vit_vq", "mlp_pq", "sequence"])
def test_every_kind_leads_to_its_class(kind: str) -> None:
    assert tokenizer_class(kind).kind == kind


def test_a_report_is_plain_json() -> None:
    report = FitReport("vit_vq", 3, 1.5, [(1, 0.5)], {"psnr_db": 20.0}, 0.5, 7.0)
    again = json.loads(json.dumps(report.to_json()))
    assert again["metrics"] == {"psnr_db": 20.0} and again["losses"] == [[1, 0.5]]
