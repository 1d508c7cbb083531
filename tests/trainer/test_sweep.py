"""A scaling study: sizes of their own runs and one page; a dry run of it trains nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from tests.trainer.corpus import TINY, write_world
from trainer.launch import silent
from trainer.model import SIZES
from trainer.sweep import sweep
from trainer.train import TrainConfig

SETTINGS = TrainConfig(steps=3, batch=4, n_in=12, n_out=12, tensorboard=False)


def test_each_size_is_trained_for_equal_tokens_or_only_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("micro", "tiny"):
        monkeypatch.setitem(SIZES, name, TINY)
    ds = write_world(tmp_path)
    dry = sweep(ds, SETTINGS, ["micro", "tiny"], silent, dry=True)
    assert [p["size"] for p in dry["points"]] == ["micro", "tiny"] and dry["tokens"] == 3 * 4 * 24
    assert all(p["parameters"] > 0 and p["seconds"] > 0 for p in dry["points"])
    assert not (tmp_path / "_models").exists()
    found = sweep(ds, SETTINGS, ["micro", "tiny"], silent)
    assert [p["heldout_mean"] > 0 for p in found["points"]] == [True, True] and found["tokens"] == dry["tokens"]
    html = Path(found["page"]).read_text()
    assert "Held-out loss over trunk parameters" in html and "mathdefault" not in html
    with pytest.raises(ConfigError, match="name each of some sizes once"):
        sweep(ds, SETTINGS, ["micro", "huge"], silent)
