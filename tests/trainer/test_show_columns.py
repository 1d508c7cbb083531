"""Labels on the page: with tokens they are shown in the frame of view 0, without them on the whole photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from labelers.core.boxes import DET, detection
from labelers.core.depth_map import DEPTH, DepthMap
from labelers.core.labeler import Labeler, Sample
from labelers.core.masks import SAM_EDGE, SAM_INSTANCE, edges_of, instance
from labelers.core.modality import Label, Null
from labelers.core.registry import all_labelers, all_modalities
from labelers.core.rle import encode_rle
from labelers.core.show import Picture, Words
from labelers.dinov2 import FEATURES
from pipeline.config import Config, LabelerConfig
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from tests.world import fake_photos
from tokenize_shards.table import specs
from trainer.show_columns import SHOWN_VIEW, Columns
from trainer.showcase import choose


class Drawn(Labeler):
    """One thing in the left upper quarter of a photo, in every way that the page must move along with the view."""

    name = "drawn"
    version = 1
    backend = "fake"
    produces = (SAM_INSTANCE, SAM_EDGE, DET, DEPTH)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        rows: list[dict[str, Label | Null]] = []
        for height, width in (s.shape for s in samples):
            inside = np.zeros((height, width), np.bool_)
            inside[: height // 2, : width // 2] = True
            masks = [instance(encode_rle(inside), 1.0)]
            rows.append({
                "sam_instance": masks, "sam_edge": edges_of(masks, (height, width)),
                "det": [detection([0, 0, width // 2, height // 2], "cat", 1.0, (height, width))],
                "depth": DepthMap(np.where(inside, 1, 2).astype(np.float32), "metre"),
            })  # fmt: skip
        return rows


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "no tokens"])
def test_labels_and_photos_have_one_frame(tokens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(all_labelers(), "drawn", Drawn)
    root = str(tmp_path / "ds")
    ds = Dataset.create(root, "shown", 3)
    ingest(ds, [str(fake_photos(tmp_path / "photos", 2))])
    chosen = {name: LabelerConfig(enabled=name == "drawn") for name in all_labelers()}
    config = Config(root=root, shard_size=3, executor="local", labelers=chosen)
    assert label(ds, config).failed == 0
    photos = choose(ds, config, 2)
    columns, rows = Columns(ds, photos, 0, None), specs("offline")
    for name in ("sam_instance", "sam_edge", "det", "depth"):
        spec = rows.get(f"tok_{name}") if tokens else None
        found = columns.labels(name, all_modalities()[name], spec)
        for photo in photos:
            cell = columns.show(name, all_modalities()[name], found[photo.key], photo.pixels if spec else photo.image)
            assert isinstance(cell, Picture)
            height, width = cell.pixels.shape[:2]
            assert (height == width) if spec else (height, width) == photo.image.shape[:2], name
    if tokens:
        (box,) = columns.labels("det", DET, rows["tok_det"])[photos[0].key]  # type: ignore[misc]
        # The photo of 8 x 6 pixels loses one column on each side: of its 4 left ones, 3 of 6 are in the view.
        assert np.allclose(box["box"], [0, 0, SHOWN_VIEW / 2, SHOWN_VIEW / 2], atol=1)


def test_network_features_are_shown_where_they_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Grid(Labeler):
        """Says of each patch in which half of the photo it is."""

        name, version, backend, produces = "grid", 1, "for tests", (FEATURES,)

        def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
            features = np.zeros((4, 4, 384), np.float16)
            features[:, 2:] = 1
            return [{"dinov2": features} for _ in samples]

    monkeypatch.setitem(all_labelers(), "grid", Grid)
    root = str(tmp_path / "ds")
    ds = Dataset.create(root, "shown", 3)
    ingest(ds, [str(fake_photos(tmp_path / "photos", 2))])
    chosen = {name: LabelerConfig(enabled=False) for name in all_labelers()}
    for store in (False, True):
        chosen["grid"] = LabelerConfig(enabled=True, store=store)
        config = Config(root=root, shard_size=3, executor="local", labelers=chosen)
        assert label(ds, config).failed == 0
        photos = choose(ds, config, 2)
        columns = Columns(ds, photos, 0, None)
        columns.fill("dinov2")
        for photo in photos:
            cell = photo.cells["dinov2"].label
            assert (
                isinstance(cell, Picture)
                if store
                else cell == Words("computed when it is tokenized; it has no tokens yet", muted=True)
            )
