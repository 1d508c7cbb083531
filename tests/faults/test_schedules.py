"""Random schedules of (run, kill, corrupt, regenerate, repair, collect): the oracle holds whenever a run was let finish."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pipeline.care.content import ContentChecks
from pipeline.care.garbage import collect
from pipeline.care.verify import verify
from pipeline.cli.care import reader_of
from pipeline.dataset import Dataset
from tests.faults.world import duration, forked, label_all, new_world, run_repair
from tests.world import assert_world, fake_config

SEEDS = [int(os.environ["MANYMODAL_SEED"])] if "MANYMODAL_SEED" in os.environ else list(range(4))
LONG = list(range(100, 140))


def corrupt(root: Path, chance: random.Random) -> None:
    """One of the shards that were labelled loses a byte, its file, or its commit."""
    files = sorted(root.glob("fake*@*/shard-*"))
    if not files:
        return
    path = chance.choice(files)
    what = chance.choice(("flip", "cut", "delete", "uncommit"))
    data = bytearray(path.read_bytes())
    if what == "delete":
        path.unlink()
    elif what == "uncommit":
        (path.parent / "_commits" / f"{path.stem}.json").unlink(missing_ok=True)
    else:
        data[chance.randrange(len(data))] ^= 1 + chance.randrange(255)
        path.write_bytes(data if what == "flip" else data[: chance.randrange(len(data))])


def mend(root: Path, salt: str) -> None:
    """What a person does: repair, then the command again."""
    ds, config = Dataset.open(str(root)), fake_config(root, salt)
    findings = verify(ds, reader_of, ContentChecks(relabel=1))
    result = run_repair(ds, config, findings)
    assert not result.left, result.left
    label_all(root, salt)


def play(tmp_path: Path, seed: int, acts: int) -> None:
    chance = random.Random(seed)
    root, ids = new_world(tmp_path, 15)
    whole, salt = duration(tmp_path, 15), "a"
    for _ in range(acts):
        act = chance.choice(("kill", "kill", "run", "corrupt", "regenerate", "collect"))
        if act == "kill":
            forked(lambda: label_all(root, salt), chance.uniform(0, whole))  # noqa: B023
        elif act == "run":
            mend(root, salt)
            assert_world(root, ids, fake_config(root, salt), salt)
        elif act == "corrupt":
            corrupt(root, chance)
        elif act == "regenerate":
            salt = chance.choice("abc")
        else:
            collect(Dataset.open(str(root)), hours=0.0)
    mend(root, salt)
    assert_world(root, ids, fake_config(root, salt), salt)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_schedule(tmp_path: Path, seed: int) -> None:
    play(tmp_path, seed, acts=8)


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", LONG)
def test_long_random_schedule(tmp_path: Path, seed: int) -> None:
    play(tmp_path, seed, acts=25)
