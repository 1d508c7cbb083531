"""A data set of the real photos that have ground truth, made and judged as a user does it, for benches of labels.

The photos, their ground truth and weights are not part of the project (tests/conftest.py says where they are looked for);
without them every figure is null. MANYMODAL_BENCH_PHOTOS=8 takes the first 8 photos alone: the figures then say so, and no
goal counts as met or missed, because goals are for all of them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from labelers.core.labeler import Sample
from labelers.core.registry import all_labelers, all_modalities
from pipeline.cli.main import main
from pipeline.dataset import Dataset
from tests.threads import one_thread

Values = tuple[float | None, str, str, bool | None, str]
Figures = Iterator[tuple[str, Values]]
ASSETS = Path(os.environ.get("MANYMODAL_ASSETS", Path(__file__).resolve().parents[3] / "shared" / "assets"))
INSTANCES, CLASS_MAPS = "gt/coco_instances_train128.json", "gt/coco_semantic"


def manymodal(*words: object) -> Any:
    """What the command prints as JSON, run in this process. RuntimeError where it ends with another code than 0."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (
            mock.patch.object(sys, "argv", ["manymodal", *map(str, words), "--json"]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
    except SystemExit as stopped:
        if stopped.code:
            raise RuntimeError(f"{' '.join(map(str, words))} ended with {stopped.code}: {err.getvalue()}") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return json.loads(out.getvalue())


class World:
    """A data set of the COCO photos, and labels by (modality, backend). count: photos in it."""

    def __init__(self, folder: Path) -> None:
        photos, self.root = folder / "photos", folder / "ds"
        photos.mkdir()
        found = sorted((ASSETS / "images").glob("coco_*.jpg"))
        limit = int(os.environ.get("MANYMODAL_BENCH_PHOTOS", 0)) or len(found)
        self.whole = limit >= len(found)
        for path in found[:limit]:
            (photos / path.name).symlink_to(path)
        self.count = int(manymodal("ingest", self.root, photos, "--set", "shard_size=32")["samples"])
        self.ds = Dataset.open(str(self.root))
        self.seconds: dict[str, float] = {}

    def make(self, name: str, modality: str, source: str = "", **params: Any) -> tuple[str, str]:
        """Label one modality with one labeler, which others make by default or not; (modality, recipe)."""
        settings = {f"labelers.{name}.enabled": "true", "executor": "local"}
        settings |= {
            f"labelers.{name}.weights.{slot}": f"file:{ASSETS / source}" for slot in all_labelers()[name].sources
        }
        settings |= {f"labelers.{name}.params.{key}": value for key, value in params.items()}
        start = time.process_time()
        with one_thread():
            manymodal("label", self.root, "--only", modality, *_assigned(settings))
        self.seconds[name] = (time.process_time() - start) / self.count
        return modality, self.ds.current(modality)

    def imported(self, name: str, modality: str, source: str) -> tuple[str, str]:
        """Ground truth as a recipe; the photos' names begin with coco_, the source's do not."""
        return self.make(name, modality, source, photo="coco_(.*)")

    def diff(self, found: tuple[str, str], truth: tuple[str, str]) -> Any:
        """What `manymodal diff` says of a recipe against the true one."""
        page = self.root.parent / f"{found[0]}.html"
        refs = [f"{modality}@{recipe}" for modality, recipe in (found, truth)]
        return manymodal("diff", self.root, *refs, "--rows", 1, "--out", page)

    def labels(self, ref: tuple[str, str]) -> list[Any]:
        """Every label of a recipe, in index order."""
        return [x for k in self.ds.shards() for x in self.ds.labels(all_modalities()[ref[0]], k, ref[1])]

    def samples(self) -> Iterator[Sample]:
        for k in self.ds.shards():
            yield from (s for s in self.ds.samples(k) if isinstance(s, Sample))

    def judged(self, value: float, goal: float, unit: str, how: str) -> Values:
        """A figure with a least value, which counts where all photos were taken."""
        return value, unit, f">= {goal:.2f}", (value >= goal) if self.whole else None, how


def _assigned(settings: dict[str, str]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def part(work: Callable[[World], Figures], *goals: tuple[str, str, str]) -> Callable[[Path], Figures]:
    """A bench of its own in a data set of its own. goals: (figure, unit, goal) that are null where there are no photos."""

    def run(folder: Path) -> Figures:
        if (ASSETS / "images").is_dir():
            yield from work(World(folder))
            return
        for name, unit, goal in goals:
            yield name, (None, unit, goal, None, f"needs the photos and ground truth, which are not at {ASSETS}")

    return run
