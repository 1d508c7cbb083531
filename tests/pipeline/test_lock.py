"""One holder at a time; a holder that died or could not say it was done does not stop the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import lock
from pipeline.errors import Incomplete, StorageError
from pipeline.lock import exclusive, here
from pipeline.storage import LocalStorage


def test_eight_threads_take_turns(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work(i: int) -> None:
        with exclusive(LocalStorage(tmp_path), "x"):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            (tmp_path / "shared").write_text(str(i))
            inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert most == [1]
    assert len(LocalStorage(tmp_path).list("_locks/x")) == 2, "older locks are swept"


def hold(root: Path, pid: int, host: str) -> None:
    LocalStorage(root).put_if_absent("_locks/x/000000001.lock", json.dumps({"host": host, "pid": pid}).encode())


def test_a_dead_holder_is_passed_over(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    hold(tmp_path, gone.pid, here())
    with exclusive(LocalStorage(tmp_path), "x", patience_s=0.0):
        pass


@pytest.mark.parametrize("host", [here(), "elsewhere"])
def test_a_living_holder_is_waited_for_and_its_lease_ends(tmp_path: Path, host: str) -> None:
    hold(tmp_path, os.getpid(), host)
    with (
        pytest.raises(Incomplete, match="another run holds it"),
        exclusive(LocalStorage(tmp_path), "x", patience_s=0.1),
    ):
        pass
    os.utime(tmp_path / "_locks/x/000000001.lock", (1, 1))
    with exclusive(LocalStorage(tmp_path), "x", patience_s=0.1):
        pass


def test_a_long_wait_says_once_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hold(tmp_path, 4711, "elsewhere/boot/pid")
    monkeypatch.setattr(lock, "SAY_AFTER_S", 0.0)
    with pytest.raises(Incomplete), exclusive(LocalStorage(tmp_path), "x", patience_s=0.3):
        pass
    assert [r.message for r in caplog.records] == [
        f"{tmp_path}/_locks/x: waiting for process 4711 on elsewhere, which holds it."
    ]


def test_a_full_disk_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = LocalStorage.put_if_absent

    def full(self: LocalStorage, key: str, data: bytes) -> bool:
        if key.endswith(".done"):
            raise StorageError("No space is left")
        return put(self, key, data)

    monkeypatch.setattr(LocalStorage, "put_if_absent", full)
    with pytest.raises(StorageError), exclusive(LocalStorage(tmp_path), "x"):
        pass
    monkeypatch.undo()
    with exclusive(LocalStorage(tmp_path), "x", patience_s=0.1):
        pass
