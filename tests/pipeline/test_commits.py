"""The commit protocol: a crash at any step, racing attempts, files that lie."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.commits import Verified, commit_shard, data_key, read_commit
from pipeline.errors import DamageError
from pipeline.records import Commit, file_sha256
from pipeline.storage import LocalStorage

IDS = ["a", "b", "c"]
DRAFT = Commit("depth", "12345678", 0, "shard-000000.txt", 0, 0, "")
STEPS = ("written", "verified", "published", "committed")


class Crash(Exception):
    pass


def verify(path: Path) -> Verified:
    head, *rows = path.read_text().splitlines()
    return Verified([row.split("=")[0] for row in rows], {}, {"rgb": head})


def attempt(storage: LocalStorage, text: str, crash: str = "") -> Commit:
    def step(name: str) -> None:
        if name == crash:
            raise Crash(name)

    with storage.scratch() as folder:
        path = folder / DRAFT.file
        path.write_text(text)
        return commit_shard(storage, DRAFT, path, IDS, verify, step)


def sound(storage: LocalStorage) -> Commit:
    commit = read_commit(storage, DRAFT.modality, DRAFT.recipe, 0)
    assert commit is not None and commit.count == len(IDS)
    assert file_sha256(storage.local(data_key(commit))) == commit.sha256
    return commit


@pytest.mark.parametrize("step", STEPS)
def test_crash_at_each_step_then_rerun(tmp_path: Path, step: str) -> None:
    storage = LocalStorage(tmp_path)
    text = "in1\na=1\nb=2\nc=3\n"
    with pytest.raises(Crash):
        attempt(storage, text, crash=step)
    assert (read_commit(storage, "depth", "12345678", 0) is not None) == (step == "committed")
    assert attempt(storage, text) == sound(storage)
    assert not (tmp_path / "_tmp").exists()


def test_orphan_of_the_same_inputs_is_adopted_and_of_others_replaced(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(Crash):
        attempt(storage, "in1\na=1\nb=2\nc=3\n", crash="published")
    attempt(storage, "in1\na=9\nb=9\nc=9\n")  # a network that is not deterministic: theirs is as good as ours
    assert b"a=1" in storage.read_bytes(data_key(sound(storage)))
    other = LocalStorage(tmp_path / "other")
    with pytest.raises(Crash):
        attempt(other, "in1\na=1\nb=2\nc=3\n", crash="published")
    attempt(other, "in2\na=5\nb=5\nc=5\n")
    assert b"a=5" in other.read_bytes(data_key(sound(other)))


def test_damaged_orphan_is_replaced(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    orphan = tmp_path / "depth@12345678" / DRAFT.file
    orphan.parent.mkdir(parents=True)
    orphan.write_text("in1\na=1\n")
    attempt(storage, "in1\na=1\nb=2\nc=3\n")
    sound(storage)


@pytest.mark.parametrize("text", ["in1\na=1\nb=2\n", "in1\nb=2\na=1\nc=3\n", "in1\na=1\na=1\nb=2\n"])
def test_short_shifted_or_doubled_shards_are_refused(tmp_path: Path, text: str) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(DamageError, match="index"):
        attempt(storage, text)
    assert read_commit(storage, "depth", "12345678", 0) is None
    assert not (tmp_path / "depth@12345678").exists()


@pytest.mark.parametrize("racers", [2, 8])
def test_racing_attempts_leave_one_sound_commit(tmp_path: Path, racers: int) -> None:
    storage = LocalStorage(tmp_path)
    texts = [f"in1\na={i}\nb={i}\nc={i}\n" for i in range(racers)]  # every racer has other bytes: the hard case
    with ThreadPoolExecutor(racers) as pool:
        results = list(pool.map(lambda text: attempt(storage, text), texts))
    final = sound(storage)
    assert all(result == final for result in results)
    assert [p.name for p in (tmp_path / "depth@12345678").iterdir() if p.is_file()] == [DRAFT.file]


def test_keys_cannot_leave_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves the data set"):
        LocalStorage(tmp_path).read_bytes("../secret")
