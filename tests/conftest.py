"""Fixtures every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real photos, ground truth and weights; skips where it is absent, which it is for most people."""
    found = Path(os.environ.get("MANYMODAL_ASSETS", REPO.parent / "shared" / "assets"))
    if not (found / "images").is_dir():
        pytest.skip(f"no photos at {found} (set MANYMODAL_ASSETS)")
    return found
