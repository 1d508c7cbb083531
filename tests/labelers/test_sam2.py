"""SAM 2: the real code on a tiny checkpoint, and its choice of masks against plain counting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelers.core.labeler import Sample
from labelers.core.masks import SAM_EDGE, SAM_INSTANCE
from labelers.core.rle import decode_rle
from labelers.sam2 import Sam2, _boxes
from tests.labelers import tiny, tiny_more

ALL = {"points_per_side": 3, "points_per_batch": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0,
       "min_area": 0.0, "nms": 1.0}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_more.sam2(tmp_path_factory.mktemp("sam2"))


def test_odd_images(folder: Path) -> None:
    labeler = tiny.ready(Sam2, folder, **ALL)
    for sample in tiny.odd_samples():
        (row,) = labeler.label([sample])
        SAM_INSTANCE.check(row["sam_instance"])
        SAM_EDGE.check(row["sam_edge"])
        assert row["sam_edge"].shape == sample.image.shape[:2]


def answers(monkeypatch: pytest.MonkeyPatch, labeler: Any, maps: np.ndarray, quality: list[float]) -> None:
    """The network answers every batch of points with these maps, (k, h, w)."""
    import torch

    class Answer:
        def __init__(self, points: int) -> None:
            self.pred_masks = torch.from_numpy(maps)[None, None].repeat(1, points, 1, 1, 1)
            self.iou_scores = torch.tensor(quality)[None, None].repeat(1, points, 1)

    class Network:
        dtype = torch.float32

        def get_image_embeddings(self, pixels: Any) -> Any:
            assert pixels.shape == (1, 3, 128, 128)
            return [pixels]

        def __call__(self, image_embeddings: Any, input_points: Any) -> Answer:
            assert float(input_points.min()) > 0
            assert float(input_points.max()) < 128
            return Answer(input_points.shape[1])

    monkeypatch.setattr(labeler, "network", Network())


def test_which_masks_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labeler = tiny.ready(Sam2, folder, points_per_side=2, points_per_batch=3)
    y, x = np.mgrid[:32, :32]
    left, right, wobbly = (
        np.where(x < 10, 9.0, -9.0),
        np.where((x > 20) & (y > 20), 9.0, -9.0),
        np.where(x < 25, 0.5, -9.0),
    )
    maps = np.stack([left, right, wobbly, np.full((32, 32), -9.0)]).astype(np.float32)
    answers(monkeypatch, labeler, maps, [0.95, 0.7, 0.99, 0.99])
    found = labeler.masks(tiny.photo((64, 64)))
    assert len(found) == 1  # one of four points' equal masks; the others are unsure, unstable or empty
    assert found[0]["score"] == pytest.approx(0.95)
    assert np.abs(decode_rle(found[0]["mask"]).sum() / 64 - 20) <= 1
    assert found[0]["point"] is not None
    assert (found[0]["point"] == 16).any()  # the first point of the grid: a quarter of the image in


def test_boxes_round_masks() -> None:
    import torch

    mask = torch.zeros(2, 6, 8, dtype=torch.bool)
    mask[0, 2:4, 3:7] = True
    mask[1, 0, 7] = True
    assert _boxes(mask).tolist() == [[3, 2, 7, 4], [7, 0, 8, 1]]


def test_points_in_any_batches_give_the_same_masks(folder: Path) -> None:
    labels = []
    for batch in (2, 9):
        labeler = tiny.ready(Sam2, folder, **{**ALL, "points_per_batch": batch, "nms": 0.9})
        (row,) = labeler.label([Sample("a", tiny.photo((40, 50)))])
        labels.append(row["sam_instance"])
    assert [one["area"] for one in labels[0]] == pytest.approx([one["area"] for one in labels[1]], abs=2)


def test_the_image_encoder_runs_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labeler = tiny.ready(Sam2, folder, **ALL)
    calls: list[int] = []
    encoder = labeler.network.vision_encoder
    run = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda *a, **k: (calls.append(1), run(*a, **k))[1])
    labeler.masks(tiny.photo())
    assert len(calls) == 1
