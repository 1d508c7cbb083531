"""What the engine costs beside the labelers' own work, and what a second worker gains."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from labelers.core.images import decode_stored
from labelers.core.labeler import Sample
from labelers.core.registry import all_labelers
from pipeline.config import Config, LabelerConfig
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from pipeline.run import Report

PHOTOS, SHARD, LABELERS = 2000, 125, ("canny_edge", "color_palette")
Figures = Iterator[tuple[str, tuple[Any, ...]]]


def make_photos(folder: Path, count: int = PHOTOS) -> Path:
    """Smooth noise of 480 x 640: as costly to decode and to draw edges of as photos are."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.jpg", quality=90)
    return folder


def _config(root: Path, seed: int = 0, executor: str = "local") -> Config:
    """seed: another one is another recipe, so that everything is made again."""
    chosen = {name: LabelerConfig(enabled=name in LABELERS) for name in all_labelers()}
    chosen["color_palette"].params = {"seed": seed}
    chosen["canny_edge"].params = {"low": 50 - seed / 100}
    return Config(root=str(root), shard_size=SHARD, executor=executor, labelers=chosen)  # type: ignore[arg-type]


def _bare(photos: list[Path]) -> float:
    """CPU seconds of the bare loop: decode as fast as the engine does, label, encode; nothing checked, nothing kept."""
    start = time.process_time()
    labelers = [all_labelers()[name]() for name in LABELERS]
    for path in photos:
        sample = Sample(path.name, decode_stored(path.read_bytes()))
        for labeler in labelers:
            for row in labeler.label([sample]):
                for modality in labeler.produces:
                    modality.encode(row[modality.name])
    return time.process_time() - start


def _engine(root: Path, seed: int) -> tuple[float, Report]:
    """CPU seconds of labelling a data set through shards, commits and digests, in this process."""
    start = time.process_time()
    report = label(Dataset.open(str(root)), _config(root, seed))
    assert (report.failed, report.steps["canny_edge"]["samples"]) == (0, PHOTOS), report.errors
    return time.process_time() - start, report


def overhead(folder: Path) -> Figures:
    """CPU time of the engine against the bare loop, one process, half before and half after the engine's run."""
    photos = make_photos(folder / "photos")
    ds = Dataset.create(str(folder / "ds"), "bench", SHARD)
    ingest(ds, [str(photos)])
    paths = sorted(photos.iterdir())
    _bare(paths[:20])  # what is loaded at first use
    bare = _bare(paths[: PHOTOS // 2])
    spent, report = _engine(folder / "ds", 0)
    bare += _bare(paths[PHOTOS // 2 :])
    ratio = spent / bare
    what = f"label {PHOTOS} photos with {' and '.join(LABELERS)}"
    how = f"{what}, local executor, against decode + label + encode in a loop; CPU time of the process"
    yield "label_over_bare_loop", (ratio, "times", "<= 1.1", ratio <= 1.1, how)
    inside, whole = (sum(step[key] for step in report.steps.values()) for key in ("in_labelers", "seconds"))
    share = 1 - inside / whole
    how = f"{what}: worker time outside the labelers' own calls (tar, decode, encode, write, verify, commit)"
    yield "time_outside_labelers", (share, "of worker time", "", None, how)


def workers(folder: Path, count: int = PHOTOS) -> Figures:
    """The same photos on Ray with one worker process and with two; Ray's start is not counted, that of workers is."""
    if len(os.sched_getaffinity(0)) < 2:
        yield "label_two_workers", (None, "times", ">= 1.8", None, "needs two cores")
        return
    import ray

    photos = make_photos(folder / "photos", count)
    ingest(Dataset.create(str(folder / "ds"), "bench", min(SHARD, count // 16)), [str(photos)])
    seconds = {}
    for number in (1, 2):
        # "local": never one that somebody else left behind
        ray.init("local", num_cpus=number, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        ended: list[float] = []
        start, mine = time.perf_counter(), time.process_time()
        report = label(
            Dataset.open(str(folder / "ds")), _config(folder / "ds", number, "ray"),
            progress=lambda *_: ended.append(time.perf_counter()),  # noqa: B023, called in this turn
        )  # fmt: skip
        seconds[number], mine = time.perf_counter() - start, time.process_time() - mine
        assert (report.failed, report.executor) == (0, "ray"), report.errors
        ray.shutdown()
        inside, whole = (sum(step[key] for step in report.steps.values()) for key in ("in_labelers", "seconds"))
        how = (
            f"label {count} photos with {' and '.join(LABELERS)} on Ray, {number} worker processes of one CPU each, wall time "
            f"{seconds[number]:.1f} s, of which {ended[0] - start:.1f} s to the first shard; CPU of the driver {mine:.1f} s; "
            f"{whole:.1f} s of workers at shards, {1 - inside / whole:.0%} of it outside labelers"
        )
        yield f"label_{number}_workers", (count / seconds[number], "images/s", "", None, how)
    gain = seconds[1] / seconds[2]
    yield "label_two_workers", (gain, "times", ">= 1.8", gain >= 1.8, "images a second with two workers against one")


def labelers(folder: Path) -> Figures:
    """Images a second of each labeler that is on by default, in its own calls, on the demo's photos."""
    from labelers.core.weights import WeightError, default_cache
    from pipeline.demo.photos import fetch_demo_photos
    from pipeline.errors import ManymodalError

    names = [name for name, cls in all_labelers().items() if cls.default_on]
    try:
        fetch_demo_photos(folder / "photos", default_cache())
        ds = Dataset.create(str(folder / "ds"), "bench", SHARD)
        ingest(ds, [str(folder / "photos")])
        steps = label(ds, Config(root=str(folder / "ds"), executor="local")).steps
    except (WeightError, ManymodalError, OSError) as error:
        for name in names:
            yield f"{name}_images_per_second", (None, "images/s", "", None, f"not measured: {error}")
        return
    for name in names:
        step = steps.get(name)
        rate = step["samples"] / step["in_labelers"] if step and step["in_labelers"] else None
        how = "the demo's photos, one process, time inside the labeler's calls, loading left out"
        yield f"{name}_images_per_second", (rate, "images/s", "", None, how)


def second_run(folder: Path) -> Figures:
    """A run with nothing to do against the run that did it."""
    photos = make_photos(folder / "photos", 120)
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
