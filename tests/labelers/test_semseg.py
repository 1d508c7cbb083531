"""semseg: Mask2Former's real code on a tiny checkpoint, against transformers' own post-processing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelers.core.class_map import SEMSEG
from labelers.core.labeler import Sample
from labelers.semseg import Mask2Former, bilinear, check_classes, enlarged_argmax
from tests.labelers import tiny


@pytest.mark.parametrize(("size", "out"), [(4, 9), (9, 4), (1, 5), (5, 1), (7, 7)])
def test_enlarging_is_torchs_bilinear(size: int, out: int) -> None:
    import torch

    scores = torch.randn(6, size, 5, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.interpolate(scores[None], size=(out, 8), mode="bilinear", align_corners=False)[0]
    ours = torch.from_numpy(bilinear(out, size)) @ scores @ torch.from_numpy(bilinear(8, 5)).T
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)
    assert np.array_equal(enlarged_argmax(scores, out, 8), wanted.argmax(0).numpy())


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    scores = torch.randn(6, 5, 5, generator=torch.Generator().manual_seed(1))
    whole = enlarged_argmax(scores, 40, 30)
    monkeypatch.setattr("labelers.semseg.BAND", 6 * 30 * 7)
    assert np.array_equal(enlarged_argmax(scores, 40, 30), whole)


def test_network(tmp_path: Path) -> None:
    labeler, samples = tiny.ready(Mask2Former, tiny.mask2former(tmp_path)), tiny.odd_samples()
    for row, sample in zip(labeler.label(samples), samples, strict=True):
        SEMSEG.check(row["semseg"])
        assert row["semseg"].shape == sample.image.shape[:2]
        assert row["semseg"].min() >= 1


def test_the_map_agrees_with_transformers(tmp_path: Path) -> None:
    """Its post-processing enlarges masks to 384 pixels and ours to half the input: most pixels must agree."""
    import torch
    from transformers import Mask2FormerImageProcessorPil

    labeler, image = tiny.ready(Mask2Former, tiny.mask2former(tmp_path)), tiny.photo((64, 96))
    (row,) = labeler.label([Sample("a", image)])
    theirs = Mask2FormerImageProcessorPil.from_pretrained(tmp_path)
    with torch.inference_mode():
        out = labeler.network(pixel_values=theirs(images=image, return_tensors="pt")["pixel_values"])
    (wanted,) = theirs.post_process_semantic_segmentation(out, target_sizes=[image.shape[:2]])
    assert (row["semseg"] == wanted.numpy() + 1).mean() > 0.95  # 0 is void here


def test_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="21 classes, the first 'a0'.*COCO panoptic"):
        check_classes({i: f"a{i}" for i in range(21)})
