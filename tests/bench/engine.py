"""What the engine costs beside the labelers' own work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from labelers.core.images import decode
from labelers.core.labeler import Sample
from labelers.core.registry import all_labelers
from pipeline.config import Config, LabelerConfig
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label

PHOTOS, LABELERS = 120, ("canny_edge", "color_palette")


def _photos(folder: Path) -> Path:
    """Smooth noise of 480 x 640: as costly to decode and to draw edges of as photos are."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(PHOTOS):
        small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.jpg", quality=90)
    return folder


def _config(root: Path) -> Config:
    chosen = {name: LabelerConfig(enabled=name in LABELERS) for name in all_labelers()}
    return Config(root=str(root), shard_size=32, executor="local", labelers=chosen)


def _bare(photos: Path) -> float:
    """Seconds of the loop a person would write: decode, label, encode; nothing kept."""
    start = time.perf_counter()
    labelers = [all_labelers()[name]() for name in LABELERS]
    for path in sorted(photos.iterdir()):
        sample = Sample(path.name, decode(path.read_bytes()).image)
        for labeler in labelers:
            for row in labeler.label([sample]):
                for modality in labeler.produces:
                    modality.encode(row[modality.name])
    return time.perf_counter() - start


def overhead(folder: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Labelling through shards, commits and digests against the bare loop, one process, the faster of two runs each."""
    photos = _photos(folder / "photos")
    ds = Dataset.create(str(folder / "ds0"), "bench", 32)
    ingest(ds, [str(photos)])
    bare = min(_bare(photos) for _ in range(2))
    times = []
    for i in range(2):
        other = Dataset.create(str(folder / f"ds{i + 1}"), "bench", 32)
        ingest(other, [str(photos)])
        start = time.perf_counter()
        report = label(other, _config(folder / f"ds{i + 1}"))
        times.append(time.perf_counter() - start)
        assert report.failed == 0
    # Two labelers are two passes in the engine, which decodes each photo once a pass; the bare loop decodes once.
    ratio = min(times) / bare
    how = f"label {PHOTOS} photos with {' and '.join(LABELERS)}, local executor, against decode + label + encode in a loop"
    yield "label_over_bare_loop", (ratio, "times", "<= 2", ratio <= 2, how)


def second_run(folder: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """A run with nothing to do against the run that did it."""
    photos = _photos(folder / "photos")
    ds = Dataset.create(str(folder / "ds"), "bench", 32)
    ingest(ds, [str(photos)])
    start = time.perf_counter()
    label(ds, _config(folder / "ds"))
    first = time.perf_counter() - start
    start = time.perf_counter()
    assert label(ds, _config(folder / "ds")).todo == 0
    ratio = (time.perf_counter() - start) / first
    yield (
        "second_run_over_first",
        (ratio, "times", "<= 0.05", ratio <= 0.05, "label twice; the second run has 0 shards to do"),
    )
