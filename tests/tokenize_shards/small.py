"""A small labelled data set for the tests of inputs, fit and tokenize: generated photos with captions, cheap labelers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from labelers.core.compare import cosine
from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, Modality, Null, vector_modality
from labelers.core.registry import all_labelers
from pipeline.config import Config, LabelerConfig, TokensConfig
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from tokenize_shards import table
from tokenize_shards.fit import fit_all
from tokenize_shards.table import image_row, vector_row

SIDE = 32
ROWS = (image_row("rgb", SIDE, 8, 3, 64), image_row("canny_edge", SIDE, 8, 1, 32, "edges"), *table._SEQUENCES[:3])
CHEAP = ("canny_edge", "caption", "color_palette", "metadata", "small_net")
WORDS = ("apricot", "bulldozer", "cymbal", "doorknob", "eggplant", "furlough", "gazpacho", "hubcap", "isthmus")
DARK = 3  # this photo's views are refused by the network on the view
SILENT = 5  # this one has no caption


class SmallNet(Labeler):
    """Stands in for a network: a map and a vector computed on the view, and a vector of the whole image."""

    name = "small_net"
    version = 1
    backend = "means of pixels"
    produces = (
        Modality(
            "small_map",
            "features",
            "tar",
            lambda label: label.tobytes(),
            lambda data: np.frombuffer(data, np.float16).reshape(4, 4, 3),
            lambda _: None,
            compare=cosine,
            ext="raw",
            on_view=True,
            stored=False,
        ),
        vector_modality("small_global", 12, "means of 2 x 2 cells", on_view=True),
        vector_modality("small_vector", 12, "the same, of the whole image"),
    )
    tokens = (
        image_row("small_map", SIDE, 8, 3, 16, "features"),
        vector_row("small_global", SIDE, 12, 8, tokens=2),
        vector_row("small_vector", 0, 12, 8, tokens=2),
    )

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [self._one(s.image.astype(np.float32)) for s in samples]

    def _one(self, image: np.ndarray) -> dict[str, Label | Null]:
        if image.max() < 40:
            return {m.name: Null("too_dark") for m in self.produces}
        fine, coarse = (cv2.resize(image, (n, n), interpolation=cv2.INTER_AREA) for n in (4, 2))
        return {"small_map": fine.astype(np.float16), "small_global": coarse.ravel(), "small_vector": coarse.ravel()}


@contextmanager
def small_table() -> Iterator[None]:
    """The token table with a few small rows, and the labeler above, as long as it lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(all_labelers(), "small_net", SmallNet)
        patch.setattr(table, "_TABLE", {"offline": ROWS, "published": ROWS})
        yield


def photo(number: int) -> np.ndarray:
    """A picture with shapes, of its own size; uint8 (H, W, 3)."""
    rng = np.random.default_rng(number)
    height, width = 48 + 5 * (number % 4), 56 - 3 * (number % 5)
    y, x = np.mgrid[:height, :width] / 64
    picture = np.stack([x, y, 1 - x], -1) * rng.uniform(60, 250, 3)
    left, top = rng.integers(2, 20, 2)
    picture[top : top + 15, left : left + 20] = rng.uniform(0, 255, 3)
    picture[np.hypot(x - 0.5, y - 0.4) < 0.15] = rng.uniform(0, 255, 3)
    return (picture * (0.1 if number == DARK else 1)).clip(0, 255).astype(np.uint8)


def small_config(root: Path | str, **tokens: Any) -> Config:
    labelers = {name: LabelerConfig(enabled=name in CHEAP) for name in all_labelers()}
    settings = TokensConfig(**{"views": 3, "fit_steps": 2, "holdout": 0.25, **tokens})
    return Config(root=str(root), shard_size=4, executor="local", labelers=labelers, tokens=settings)


def build(folder: Path) -> Path:
    """The root of a data set of nine photos in three shards, labelled. Caption and dark photo: see SILENT and DARK."""
    (folder / "photos").mkdir()
    for number, word in enumerate(WORDS):
        Image.fromarray(photo(number)).save(folder / "photos" / f"p{number}.png")
        if number != SILENT:
            (folder / "photos" / f"p{number}.txt").write_text(f"a {word} beside another {word} on a table")
    root = folder / "ds"
    ds = Dataset.create(str(root), "small", 4)
    ingest(ds, [str(folder / "photos")])
    report = label(ds, small_config(root))
    assert not report.failed, report.errors
    return root


def fit_small(root: Path) -> None:
    fit_all(Dataset.open(str(root)), small_config(root), [], False, lambda *_: None)


def number_of(ds: Dataset, k: int, row: int) -> int:
    """Which photo a row of a shard is."""
    return int(Path(ds.index(k)[row].uri).stem[1:])
