"""One decode for several labelers: the same bytes as one by one, batches by size, and failures that stay with their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipeline.dataset
from labelers.core.images import decode, decode_stored
from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from labelers.core.registry import all_labelers
from pipeline.batches import Batches
from pipeline.config import Config, LabelerConfig
from pipeline.dataset import Dataset
from pipeline.errors import StorageError
from pipeline.ingest.ingest import ingest
from pipeline.label import label, pools_of
from pipeline.label_shard import label_together
from pipeline.recipes import Target, desired
from tests.world import FAKE_VECTOR, FakeBase, fake_photos

CHEAP = ("canny_edge", "color_palette", "caption", "metadata")


def config_of(root: Path, **more: object) -> Config:
    chosen = {name: LabelerConfig(enabled=name in CHEAP) for name in all_labelers()}
    return Config(root=str(root), executor="local", labelers=chosen, **more)  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Of three sizes, so that nothing lines up by chance."""
    folder = fake_photos(tmp_path / "photos", 11)
    rng = np.random.default_rng(0)
    for i in range(12):
        height, width = ((40, 60), (50, 50), (61, 33))[i % 3]
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"q{i:02d}.jpg")
    return folder


def made(tmp_path: Path, name: str, photos: Path) -> Dataset:
    ds = Dataset.create(str(tmp_path / name), "w", 8)
    ingest(ds, [str(photos)])
    return ds


def digests(ds: Dataset) -> dict[tuple[str, int], str]:
    now = ds.manifest().modalities
    return {(m, k): c.sha256 for m, recipe in now.items() for k, c in ds.commits(m, recipe).items()}


def test_together_and_one_by_one_give_the_same_bytes(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decodes: list[int] = []
    monkeypatch.setattr(pipeline.dataset, "decode_stored", lambda raw: decodes.append(1) or decode_stored(raw))
    one, all_ = made(tmp_path, "one", photos), made(tmp_path, "all", photos)
    assert label(one, config_of(tmp_path / "one", share_decode=False)).failed == 0
    apart = len(decodes)
    assert label(all_, config_of(tmp_path / "all")).failed == 0
    assert digests(one) == digests(all_)
    # Edges, palettes and captions in one pass; metadata, which reads captions, in a second.
    assert (apart, len(decodes) - apart) == (3 * 23, 2 * 23)


def test_stored_images_decode_as_they_did_at_ingest(tmp_path: Path, photos: Path) -> None:
    for path in sorted(photos.iterdir()):
        assert np.array_equal(decode_stored(path.read_bytes()), decode(path.read_bytes()).image)


class BySize(FakeBase):
    """Notes the sizes in each batch."""

    name = "by_size"
    produces = (FAKE_VECTOR,)
    by_resolution = True
    seen: list[list[tuple[int, ...]]] = []

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        self.seen.append([s.image.shape[:2] for s in samples])
        return [{"fake_vector": np.full(8, float(s.id), np.float32)} for s in samples]


def test_batches_by_resolution_keep_the_order_of_samples() -> None:
    rng = np.random.default_rng(1)
    samples = [Sample(str(i), np.zeros((4 + int(rng.integers(3)), 5, 3), np.uint8)) for i in range(50)]
    labeler = BySize()
    rows = Batches(labeler, 4).label(samples)
    assert [row["fake_vector"][0] for row in rows] == list(range(50))
    assert all(len(set(batch)) == 1 for batch in labeler.seen)
    assert sum(len(batch) == 4 for batch in labeler.seen) >= 10, "full ones, as far as there are enough of a size"


class Broken(FakeBase):
    """Cannot label anything."""

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        raise RuntimeError("no kernel image")


def members(ds: Dataset, config: Config) -> list[tuple[Target, object]]:
    return [(target, target.build(ds)) for target, _ in desired(config)[0] if target.labeler != "metadata"]


def test_a_labeler_that_fails_fails_alone(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = made(tmp_path, "ds", photos)
    crew = members(ds, config_of(tmp_path / "ds"))
    edges = next(labeler for target, labeler in crew if target.labeler == "canny_edge")
    monkeypatch.setattr(edges, "label", Broken().label)
    done = {d.step: d for d in label_together(ds, crew, 0)}  # type: ignore[arg-type]
    assert "no kernel image" in done["canny_edge"].error
    assert not done["canny_edge"].commits
    assert [done[name].error for name in ("color_palette", "caption")] == ["", ""]
    assert done["color_palette"].commits[0].count == 8
    assert 0 < done["color_palette"].busy <= done["color_palette"].seconds


def test_errors_of_the_system_end_all(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = made(tmp_path, "ds", photos)
    crew = members(ds, config_of(tmp_path / "ds"))

    def full(samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        raise StorageError("full")

    monkeypatch.setattr(crew[0][1], "label", full)
    with pytest.raises(StorageError):
        label_together(ds, crew, 0)  # type: ignore[arg-type]


def test_pools_by_what_fits_into_one_worker(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    config = config_of(root)
    config.labelers["canny_edge"].resources.gpu = 0.5
    config.labelers["color_palette"].resources.gpu = 0.5
    config.labelers["metadata"].resources.custom = {"licence": 1}
    targets = [Target(name, {}, {}, (), ((name, "0" * 8),), 8) for name in CHEAP]
    pools = pools_of(config, targets)
    assert pools["canny_edge"] is pools["color_palette"]
    assert (pools["canny_edge"].cpu, pools["canny_edge"].gpu) == (1.0, 1.0)
    assert pools["caption"].steps == ("caption",)
    assert pools["metadata"].custom == {"licence": 1}
    config.labelers["color_palette"].resources.gpu = 0.6
    assert pools_of(config, targets)["canny_edge"].steps == ("canny_edge",), "more than one GPU together"
    config.share_decode = False
    assert all(pool.steps == (name,) for name, pool in pools_of(config, targets).items())
