"""Processes that label and are killed: forked from this one, so that two hundred of them take seconds."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.care.finding import Finding
from pipeline.care.repair import Repair, repair
from pipeline.cli.care import steps_of
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from tests.world import fake_config, fake_photos

DIED = 77


def new_world(tmp_path: Path, photos: int = 40) -> tuple[Path, list[str]]:
    """An ingested data set in shards of five, nothing labelled; its root and ids."""
    root = tmp_path / "ds"
    ds = Dataset.create(str(root), "w", 5)
    ingest(ds, [str(fake_photos(tmp_path / "photos", photos))])
    return root, all_ids(root)


def all_ids(root: Path) -> list[str]:
    ds = Dataset.open(str(root))
    return [i for k in ds.shards() for i in ds.ids(k)]


def label_all(root: Path, salt: str = "a") -> None:
    report = label(Dataset.open(str(root)), fake_config(root, salt))
    assert report.failed == 0, report.errors


def forked(work: Callable[[], object], kill_after: float | None = None) -> int:
    """Run `work` in a forked process, killed after so many seconds; its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)  # not waiting for something to happen: the moment of the kill is what is tested
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def duration(tmp_path: Path, photos: int = 40) -> float:
    """Seconds a whole labelling of a world takes here, to draw the moments of kills from."""
    root, _ = new_world(tmp_path / "timed", photos)
    start = time.perf_counter()
    forked(lambda: label_all(root))
    shutil.rmtree(tmp_path / "timed")
    return time.perf_counter() - start


def killed_runs(root: Path, kills: int, whole: float, chance: random.Random) -> int:
    """Start and kill labelling until `kills` processes died of it, wiping the labels whenever all is done; how many died."""
    died = 0
    while died < kills:
        status = forked(lambda: label_all(root), chance.uniform(0.0, whole))
        died += status == -signal.SIGKILL
        if status == 0:
            wipe(root)
    return died


def wipe(root: Path) -> None:
    """Everything that was labelled goes; the images stay."""
    for folder in root.iterdir():
        if "@" in folder.name or folder.name == "_suspects":
            shutil.rmtree(folder)


def run_repair(ds: Dataset, config: Config, findings: Sequence[Finding]) -> Repair:
    """What the command does with what `verify` found, without a word."""
    return repair(ds, config, findings, lambda refs: steps_of(ds, config, refs), lambda *_: None)
