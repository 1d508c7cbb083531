"""Memory that was freed is used again without asking the system for it."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

from trainer.heap import keep_memory

ARRAYS, BYTES = 8, 24 << 20
PAGES = ARRAYS * BYTES // resource.getpagesize()
# Pages that the system gives when arrays are taken and filled a second time, in a process that did nothing else before.
AGAIN = f"""
import resource, sys
import numpy as np
from trainer.heap import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory() and keep_memory()  # a second run in one process asks again
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [np.ones({BYTES}, np.uint8) for _ in range({ARRAYS})]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def again(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", AGAIN, how], capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_memory_that_was_freed_is_used_again() -> None:
    kept, left = again("keep"), again("leave")
    assert kept < PAGES / 20 and kept < left / 4, (kept, left, PAGES)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.heap.ctypes.CDLL", lambda _: object())
    assert not keep_memory()
