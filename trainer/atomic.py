"""A folder of files that is there whole or not at all: written aside, flushed to the disk, renamed."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.records import canonical_json
from pipeline.storage.local import fsync_path

RECORD = "train.json"


def as_readable(folder: Path, name: str) -> None:
    """Let whoever may read one file of a folder read the others: safetensors writes them for their owner alone."""
    for path in folder.iterdir():
        if path.is_file():
            shutil.copymode(folder / name, path)


def finish(aside: Path, folder: Path, record: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Write the record of a folder whose other files are there, and give it its name."""
    (aside / RECORD).write_bytes(canonical_json({**record, "sha256": dict(digests)}))
    as_readable(aside, RECORD)
    for path in (*aside.iterdir(), aside):
        fsync_path(path)
    if folder.exists():
        old = folder.parent / f".{folder.name}.old-{uuid.uuid4().hex[:8]}"
        os.rename(folder, old)
        os.rename(aside, folder)
        shutil.rmtree(old)
    else:
        os.rename(aside, folder)
    fsync_path(folder.parent)
