"""Memory that a training step gives back stays with the process, for the next step.

Every step takes and frees the same large arrays. The C library returns those to the system and asks for them anew, which
then clears each page: some hundredths of a step of the smallest model on a CPU. Only glibc has these settings.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, see <malloc.h>
NEVER, LARGE = (1 << 31) - 1, 32 << 20  # bytes; larger arrays go back as before, glibc allows no more


def keep_memory() -> bool:
    """From now on arrays of up to LARGE bytes do not go back to the system when they are freed; what was freed so far does.
    Whether the C library could be told so.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return False
    trim(0)
    return bool(mallopt(MMAP_THRESHOLD, LARGE)) and bool(mallopt(TRIM_THRESHOLD, NEVER))
