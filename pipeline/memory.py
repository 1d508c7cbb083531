"""How much memory this process has held."""

from __future__ import annotations

import os
import resource


def peak_resident() -> int:
    """Bytes of memory this process has held at most.

    Linux's own count of the program, where there is one: the `ru_maxrss` of a program that was just started begins with
    what the process that started it held.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if os.uname().sysname == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
