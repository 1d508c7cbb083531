"""One Ray for all tests of this folder that need it: starting it takes longer than most of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.execution.ray_executor import start_ray


@pytest.fixture(scope="package")
def cluster() -> Iterator[None]:
    import ray

    with pytest.MonkeyPatch.context() as patch:  # workers import this code, and compute on one thread
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])))
        start_ray()
    yield
    ray.shutdown()
