"""Checkpoints: what is read is what was saved; anything cut, swapped or pickled is refused. Tiny random networks."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ConfigError, DamageError
from pipeline.records import file_sha256
from tests.trainer.corpus import STREAMS, TINY, tiny_model
from trainer import atomic, checkpoint
from trainer.checkpoint import MODEL, OPTIMIZER, RECORD
from trainer.model import SIZES, Model


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "micro", TINY)


def record(tied: bool = False) -> dict[str, Any]:
    streams = [s.to_json() for s in STREAMS]
    return {"step": 3, "config": {"size": "micro", "tied": tied}, "streams": streams, "note": "é"}


def stepped(model: Model, steps: int = 1) -> torch.optim.AdamW:
    """An optimizer that took some steps along made-up gradients."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_read_is_what_was_saved(tmp_path: Path, tied: bool) -> None:
    model = tiny_model(tied=tied)
    checkpoint.save(tmp_path / "m", model, None, record(tied))
    again, read = checkpoint.load_model(tmp_path / "m")
    assert again.streams == model.streams and again.size == model.size
    assert {k: v for k, v in read.items() if k != "sha256"} == record(tied)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [MODEL, RECORD]
    assert [p.name for p in tmp_path.iterdir()] == ["m"], "nothing is left beside it"


def test_the_optimizer_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    model = tiny_model()
    optimizer = stepped(model, 2)
    checkpoint.save(tmp_path / "m", model, optimizer, record())
    resumed, _ = checkpoint.load_model(tmp_path / "m")
    other = torch.optim.AdamW(resumed.parameters(), lr=1e-2)
    checkpoint.load_optimizer(tmp_path / "m", resumed, other)
    for made, opt in ((model, optimizer), (resumed, other)):
        for p in made.parameters():
            p.grad = torch.ones_like(p)
        opt.step()
    for (name, p), q in zip(model.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q), name
    saved, read = checkpoint.moments(model, optimizer), checkpoint.moments(resumed, other)
    assert saved.keys() == read.keys() and all(torch.equal(saved[k], read[k]) for k in saved)


def test_an_optimizer_without_steps_has_nothing_to_save(tmp_path: Path) -> None:
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.save(tmp_path / "m", model, optimizer, record())
    checkpoint.load_optimizer(tmp_path / "m", model, optimizer)
    assert not optimizer.state


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        checkpoint.save(tmp_path / name, tiny_model(), stepped(tiny_model()), record())
    for name in (MODEL, OPTIMIZER, RECORD):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_newer_one_takes_the_place_of_the_older_whole(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "m", tiny_model(), stepped(tiny_model()), record())
    newer = tiny_model(seed=1)
    checkpoint.save(tmp_path / "m", newer, None, {**record(), "step": 9})
    again, read = checkpoint.load_model(tmp_path / "m")
    assert read["step"] == 9 and torch.equal(again.table.weight, newer.table.weight)
    assert not (tmp_path / "m" / OPTIMIZER).exists() and [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("fails", ["save_file", "canonical_json"])
def test_a_save_that_fails_leaves_the_older_one(tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "m", tiny_model(), None, record())

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint if fails == "save_file" else atomic, fails, full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path / "m", tiny_model(seed=1), None, {**record(), "step": 9})
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert checkpoint.load_model(tmp_path / "m")[1]["step"] == 3


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", [MODEL, OPTIMIZER])
def test_a_file_that_is_not_the_saved_one_is_refused(tmp_path: Path, name: str, damage: Any) -> None:
    model = tiny_model()
    optimizer = stepped(model)
    checkpoint.save(tmp_path / "m", model, optimizer, record())
    damage(tmp_path / "m" / name)
    load: dict[str, Callable[[], object]] = {
        MODEL: lambda: checkpoint.load_model(tmp_path / "m"),
        OPTIMIZER: lambda: checkpoint.load_optimizer(tmp_path / "m", model, optimizer),
    }
    with pytest.raises(DamageError, match=rf"{name}: is missing or is not the file that was saved"):
        load[name]()


def test_a_record_that_is_cut_or_not_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        checkpoint.load_model(tmp_path / "m")
    checkpoint.save(tmp_path / "m", tiny_model(), None, record())
    path = tmp_path / "m" / RECORD
    cut(path)
    with pytest.raises(DamageError, match="is not JSON"):
        checkpoint.load_model(tmp_path / "m")
    for other in ("[]", '{"step": 1}'):
        path.write_text(other)
        with pytest.raises(DamageError, match="is no record of a checkpoint"):
            checkpoint.load_model(tmp_path / "m")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """Not even a pickle whose digest the record vouches for."""
    checkpoint.save(tmp_path / "m", tiny_model(), None, record())
    weights, sprung = tmp_path / "m" / MODEL, tmp_path / "sprung"
    weights.write_bytes(pickle.dumps(Trap(sprung)))
    read = json.loads((tmp_path / "m" / RECORD).read_bytes())
    read["sha256"][MODEL] = file_sha256(weights)
    (tmp_path / "m" / RECORD).write_text(json.dumps(read))
    with pytest.raises(DamageError, match=f"{MODEL}: cannot be read"):
        checkpoint.load_model(tmp_path / "m")
    assert not sprung.exists()
