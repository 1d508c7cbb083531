"""det: both detectors' real code on tiny checkpoints, against transformers' own post-processing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelers.core.boxes import DET, detection, sorted_boxes
from labelers.core.coco import CATEGORY_IDS, CLASSES
from labelers.core.labeler import Labeler, Sample
from labelers.det import Detr, RtDetr, class_table
from tests.labelers import tiny


def test_classes_are_matched_by_name() -> None:
    with_gaps = dict.fromkeys(range(91), "N/A") | {CATEGORY_IDS[name]: name for name in CLASSES}
    table = class_table(with_gaps)
    assert (table[1], table[90], table[12]) == (0, 79, -1)
    own_words = dict(enumerate(CLASSES)) | {3: "motorbike", 4: "aeroplane", 57: "sofa", 62: "tvmonitor"}
    assert class_table(own_words).tolist() == list(range(80))
    with pytest.raises(ValueError, match="does not know COCO's class 'person'"):
        class_table({0: "LABEL_0"})


@pytest.mark.parametrize(("cls", "build"), [(RtDetr, tiny.rt_detr), (Detr, tiny.detr)])
def test_networks(cls: type[Labeler], build: Callable[[Path], Path], tmp_path: Path) -> None:
    labeler, samples = tiny.ready(cls, build(tmp_path), score=0.0), tiny.odd_samples()
    for row, sample in zip(labeler.label(samples), samples, strict=True):
        DET.check(row["det"])
        assert all((one["box"] <= np.tile(sample.image.shape[1::-1], 2)).all() for one in row["det"])
        assert row["det"]  # a random network sees something everywhere at threshold 0
    assert tiny.ready(cls, tmp_path, score=1.0).label(samples[:1]) == [{"det": []}]
    assert len(tiny.ready(cls, tmp_path, score=0.0, most=2).label(samples[:1])[0]["det"]) == 2


@pytest.mark.parametrize(
    ("cls", "build", "processor"),
    [(RtDetr, tiny.rt_detr, "RTDetrImageProcessorPil"), (Detr, tiny.detr, "DetrImageProcessorPil")],
)
def test_boxes_agree_with_transformers(cls: Any, build: Any, processor: str, tmp_path: Path) -> None:
    """The library's own processor, given the same network, finds the same boxes, classes and scores."""
    import torch
    import transformers

    labeler, image = tiny.ready(cls, build(tmp_path), score=0.02), tiny.photo((60, 80))
    (row,) = labeler.label([Sample("a", image)])
    theirs = getattr(transformers, processor).from_pretrained(tmp_path)
    with torch.inference_mode():
        inputs = theirs(images=image, return_tensors="pt")
        out = labeler.network(pixel_values=inputs["pixel_values"])
    (found,) = theirs.post_process_object_detection(out, threshold=0.02, target_sizes=[image.shape[:2]])
    parts = zip(found["boxes"].numpy(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
    made = [detection(box, CLASSES[number], score, image.shape[:2]) for box, number, score in parts]
    wanted = sorted_boxes([one for one in made if one is not None])
    assert [one["label"] for one in row["det"]] == [one["label"] for one in wanted]
    for ours, other in zip(row["det"], wanted, strict=True):
        np.testing.assert_allclose(ours["box"], other["box"], atol=0.05)
        assert ours["score"] == pytest.approx(other["score"], abs=1e-3)
