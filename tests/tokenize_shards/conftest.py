"""Every test here runs on one CPU thread: tiny networks gain nothing from more, and sums are then always the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.threads import one_thread
from tests.tokenize_shards.small import build, fit_small, small_table


@pytest.fixture(scope="package", autouse=True)
def one_cpu_thread() -> Iterator[None]:
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="package")
def _labelled(one_cpu_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with small_table():
        return build(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="package")
def _fitted(_labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fitted") / "ds"
    shutil.copytree(_labelled, root)
    with small_table():
        fit_small(root)
    return root


@pytest.fixture
def labelled(_labelled: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the small data set, labelled, and the small token table in force."""
    shutil.copytree(_labelled, tmp_path / "ds")
    with small_table():
        yield tmp_path / "ds"


@pytest.fixture
def fitted(_fitted: Path, tmp_path: Path) -> Iterator[Path]:
    """The same with all its tokenizers fitted."""
    shutil.copytree(_fitted, tmp_path / "ds")
    with small_table():
        yield tmp_path / "ds"
