"""Every test here runs on one CPU thread: tiny networks gain nothing from more, and sums are then always the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.threads import one_thread
from tests.trainer.trained import build_trained, trained_world


@pytest.fixture(scope="package", autouse=True)
def one_cpu_thread() -> Iterator[None]:
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def trained(_trained: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of a small data set with tokens and a tiny trained model."""
    shutil.copytree(_trained, tmp_path / "ds")
    with trained_world():
        yield tmp_path / "ds"
