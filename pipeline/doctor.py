"""`manymodal doctor`: is this machine fit to run, and under which licences does each backend stand?"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from typing import Any

from labelers.core.labeler import Labeler
from labelers.core.registry import all_labelers
from labelers.core.weights import at_hand

LIBRARIES = (
    "ray", "torch", "transformers", "segment-anything", "opencv-python-headless", "pyarrow", "webdataset", "boto3",
    "ai-edge-litert",
)  # fmt: skip
FREE_GB, MEMORY_GB = 5, 4


def _check(name: str, found: str, fine: bool, do: str = "") -> dict[str, Any]:
    return {"check": name, "found": found, "fine": fine, "do": "" if fine else do}


def examine() -> dict[str, Any]:
    """{"checks": [{check, found, fine, do}], "backends": [{labeler, backend, code, weights, commercial, at_hand}]}."""
    checks = [_check("python", sys.version.split()[0], sys.version_info >= (3, 11), "install Python 3.11 or newer")]
    for library in LIBRARIES:
        try:
            checks.append(_check(library, importlib.metadata.version(library), True))
        except importlib.metadata.PackageNotFoundError:
            checks.append(_check(library, "missing", False, "pip install -c constraints.txt -e ."))
    checks += [_cores(), _memory(), _disk(), _gpu()]
    return {"checks": checks, "backends": [_backend(cls) for cls in all_labelers().values()]}


def _cores() -> dict[str, Any]:
    return _check("cores", str(len(os.sched_getaffinity(0))), True)


def _memory() -> dict[str, Any]:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return _check("memory", f"{gib:.0f} GiB", gib >= MEMORY_GB, f"needs {MEMORY_GB} GiB")


def _disk() -> dict[str, Any]:
    free = shutil.disk_usage(".").free / 2**30
    return _check("free disk here", f"{free:.0f} GiB", free >= FREE_GB, f"free {FREE_GB} GiB")


def _gpu() -> dict[str, Any]:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return _check("GPU", ", ".join(names) or "none; everything runs on the CPU", True)


def _backend(cls: type[Labeler]) -> dict[str, Any]:
    held = [at_hand(url) for url in cls.weights.values()]
    state = "none needed" if not held else "yes" if all(held) else "fetched at first use"
    licence = cls.licence
    return {
        "labeler": cls.name, "backend": cls.backend, "code": licence.code, "weights": licence.weights,
        "commercial": licence.commercial, "at_hand": "yours to name" if cls.sources else state,
    }  # fmt: skip
