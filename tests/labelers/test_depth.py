"""depth: both networks' real code on tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labelers.core.depth_map import DEPTH
from labelers.core.labeler import Labeler, Sample
from labelers.depth import DepthAnything, Dpt
from tests.labelers import tiny


@pytest.mark.parametrize(("cls", "build"), [(DepthAnything, tiny.depth_anything), (Dpt, tiny.dpt)])
def test_networks(cls: type[Labeler], build: Callable[[Path], Path], tmp_path: Path) -> None:
    labeler, samples = tiny.ready(cls, build(tmp_path)), tiny.odd_samples()
    rows = labeler.label(samples)
    for row, sample in zip(rows, samples, strict=True):
        DEPTH.check(row["depth"])
        assert row["depth"].values.shape == sample.image.shape[:2]
        assert row["depth"].unit == "inverse"
    assert len(np.unique(rows[0]["depth"].values)) > 50
    alone = labeler.label(samples[:1])[0]["depth"]
    assert alone.values.tobytes() == rows[0]["depth"].values.tobytes()


def test_the_map_is_the_networks_turned_round(tmp_path: Path) -> None:
    """Against transformers' own output: what it calls large (near) is small here, pixel by pixel."""
    labeler = tiny.ready(DepthAnything, tiny.depth_anything(tmp_path))
    image = tiny.photo((70, 70))
    inverse = labeler.batched([image], lambda out: list(out.predicted_depth))[0].numpy()
    label = labeler.label([Sample("a", image)])[0]["depth"]
    assert inverse.shape == label.values.shape
    assert np.corrcoef(inverse.ravel(), label.values.ravel())[0, 1] < -0.999


def test_a_metric_checkpoint_says_metres(tmp_path: Path) -> None:
    labeler = tiny.ready(DepthAnything, tiny.depth_anything(tmp_path, depth_estimation_type="metric", max_depth=20))
    image = tiny.photo((70, 70))
    metres = labeler.batched([image], lambda out: list(out.predicted_depth))[0].numpy()
    label = labeler.label([Sample("a", image)])[0]["depth"]
    DEPTH.check(label)
    assert label.unit == "metre"
    np.testing.assert_allclose(label.values, metres, rtol=1e-6)


def test_half_precision_is_used_and_says_so(tmp_path: Path) -> None:
    folder = tiny.depth_anything(tmp_path)
    half = tiny.ready(DepthAnything, folder, precision="bfloat16")
    assert str(half.network.dtype) == "torch.bfloat16"
    assert half.params.model_dump()["precision"] == "bfloat16"
    sample = Sample("a", tiny.photo((70, 70)))
    ours, full = (one.label([sample])[0]["depth"].values for one in (half, tiny.ready(DepthAnything, folder)))
    assert np.corrcoef(ours.ravel(), full.ravel())[0, 1] > 0.95


def test_dpt_large_lacks_weights_that_nothing_uses(tmp_path: Path) -> None:
    """The published file has none for the first fusion's residual; the map is the same without, and others are missed."""
    from safetensors.torch import load_file, save_file

    path = tiny.dpt(tmp_path) / "model.safetensors"
    image = [Sample("a", tiny.photo())]
    whole = tiny.ready(Dpt, tmp_path).label(image)[0]["depth"].values
    tensors = {k: v for k, v in load_file(path).items() if ".layers.0.residual_layer1." not in k}
    save_file(tensors, path, {"format": "pt"})
    assert np.array_equal(tiny.ready(Dpt, tmp_path).label(image)[0]["depth"].values, whole)
    gone = next(k for k in tensors if ".layers.1.residual_layer1." in k)
    save_file({k: v for k, v in tensors.items() if k != gone}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="does not fill"):
        tiny.ready(Dpt, tmp_path)
