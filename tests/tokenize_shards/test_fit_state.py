"""A fit that is killed goes on from its snapshot, and ends where it would have ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.care.garbage import TEMPORARY
from pipeline.storage import LocalStorage
from tests.tokenize_shards.test_mlp_pq import vectors
from tests.tokenize_shards.test_vit_vq import RGB, data
from tokenize_shards.fit_state import FOLDER, Snapshot, StoredState
from tokenize_shards.mlp_pq import MLPPQ, MLPPQConfig
from tokenize_shards.tokenizer import Tokenizer
from tokenize_shards.vit_vq import ViTVQ

DIFFUSED = replace(RGB, decoder="diffusion", diffusion_width=8, diffusion_steps=2)


class Killed(BaseException):
    """Stands in for a kill: nothing after it runs."""


class Dies(StoredState):
    """Takes a snapshot after every step, and dies right after a number of them."""

    left = 0

    def due(self) -> bool:
        return True

    def save(self, stage: str, snapshot: Snapshot) -> None:
        super().save(stage, snapshot)
        self.left -= 1
        if not self.left:
            raise Killed


def make(kind: str) -> Tokenizer:
    return MLPPQ(MLPPQConfig(dim=24, heads=4, codes=64, width=32)) if kind == "mlp_pq" else ViTVQ(DIFFUSED)


@pytest.mark.parametrize(("kind", "died_at"), [("mlp_pq", 3), ("vit_vq", 2), ("vit_vq", 5)])
def test_a_killed_fit_ends_where_it_would_have_ended(tmp_path: Path, kind: str, died_at: int) -> None:
    """The first stage of the ViT-VQ has four steps, the diffusion decoder two more."""
    train = vectors(200) if kind == "mlp_pq" else data(RGB, 24)
    storage = LocalStorage(tmp_path)
    whole, again = make(kind), make(kind)
    whole.fit(train, train[:0], steps=6, seed=1)
    dying = Dies(storage, "tok_x-key")
    dying.left = died_at
    with pytest.raises(Killed):
        make(kind).fit(train, train[:0], steps=6, seed=1, state=dying)
    state = StoredState(storage, "tok_x-key")
    report = again.fit(train, train[:0], steps=6, seed=1, state=state)
    assert report.steps == 6 and report.losses[-1][0] == 6
    expected, found = whole.tensors(), again.tensors()
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    state.clear()
    assert not storage.list(FOLDER)


def test_snapshots_are_found_by_key_and_stage_and_only_the_last_is_kept(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    state = StoredState(storage, "tok_rgb-1")
    assert state.load("fit") is None
    for step in (1, 2):
        state.save("fit", Snapshot({"a": torch.full((2,), float(step))}, {"step": step}))
    assert len(storage.list(FOLDER)) == 1
    found = state.load("fit")
    assert found is not None and found.meta == {"step": 2} and found.tensors["a"].tolist() == [2, 2]
    assert state.load("sizes") is None and StoredState(storage, "tok_rgb-2").load("fit") is None


def test_a_damaged_snapshot_is_passed_over(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    state = StoredState(storage, "k")
    state.save("fit", Snapshot({"a": torch.ones(2)}, {"step": 1}))
    storage.put_if_absent(f"{FOLDER}/k.fit.000009.safetensors", b"half a file")
    found = state.load("fit")
    assert found is not None and found.meta == {"step": 1}


def test_a_snapshot_is_due_after_a_while(tmp_path: Path) -> None:
    assert not StoredState(LocalStorage(tmp_path), "k", every=1e9).due()
    assert StoredState(LocalStorage(tmp_path), "k", every=0).due()


def test_what_a_fit_left_behind_is_garbage_after_a_while() -> None:
    assert FOLDER in TEMPORARY
