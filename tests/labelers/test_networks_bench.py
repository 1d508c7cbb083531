"""The measurement of networks against the pipeline API runs, on tiny ones and a CPU, and compares like with like."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import networks
from tests.labelers import tiny, tiny_more


@pytest.mark.parametrize(("name", "build"), [("depth", tiny.depth_anything), ("clip", tiny_more.clip)])
def test_both_sides_do_the_work(name: str, build: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "PHOTO", (48, 64))
    labeler = tiny.ready(networks.NETWORKS[name], build(tmp_path))  # type: ignore[operator]
    rate, ratio = networks.against_pipeline(name, tmp_path, labeler, 3)
    assert rate > 0
    assert ratio > 0
