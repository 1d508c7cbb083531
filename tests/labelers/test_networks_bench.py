"""The measurement of networks against the pipeline API runs, on tiny ones and a CPU, and compares like with like."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import networks, sam
from tests.labelers import tiny, tiny_more
from tests.labelers.tiny_sam import tiny_network


@pytest.mark.parametrize(("name", "build"), [("depth", tiny.depth_anything), ("clip", tiny_more.clip)])
def test_both_sides_do_the_work(name: str, build: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "PHOTO", (48, 64))
    labeler = tiny.ready(networks.NETWORKS[name], build(tmp_path))  # type: ignore[operator]
    rate, ratio = networks.against_pipeline(name, tmp_path, labeler, 3)
    assert rate > 0
    assert ratio > 0


def test_sam_and_the_package_keep_about_as_many_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam, "PHOTO", (48, 64))
    monkeypatch.setattr(sam, "POINTS", 8)  # the grid of both
    monkeypatch.setattr(sam, "SPREAD", 15.0)  # so that some masks of this network are stable, and few are empty
    monkeypatch.setattr(sam, "COVERED", 0.5)
    rate, ratio, (ours, theirs) = sam.against_generator(tiny_network(), tmp_path, 2, points_per_side=8)
    assert rate > 0
    assert ratio > 0
    assert 5 < theirs < 3 * 8**2 * sam.SURE
    assert abs(ours - theirs) <= 0.2 * theirs  # half precision, and thresholds in the middle of many answers
