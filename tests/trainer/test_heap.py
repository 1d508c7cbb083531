"""Memory that was freed is used again without asking the system for it."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from trainer.heap import keep_memory

PAGES = (64 << 20) // resource.getpagesize()


def faults() -> int:
    """Pages that the system gave to this process while it took, filled and freed 64 MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_memory_that_was_freed_is_used_again() -> None:
    assert keep_memory() and keep_memory()  # a second run in one process asks again
    # Not each time: what others took meanwhile may lie behind the freed piece, which then is a few bytes too small.
    assert min(faults() for _ in range(5)) < PAGES / 20


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.heap.ctypes.CDLL", lambda _: object())
    assert not keep_memory()
