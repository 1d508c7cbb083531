"""The peak is this program's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from pipeline.memory import peak_resident

MIB = 1 << 20


def test_what_another_process_holds_does_not_count() -> None:
    before = peak_resident()
    held = np.ones(256 * MIB, np.uint8)
    assert peak_resident() >= max(before, held.nbytes)
    child = "from pipeline.memory import peak_resident; print(peak_resident())"
    found = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert MIB < int(found.stdout) < held.nbytes, "though it was started by one that holds more"
