"""What a fit leaves behind while it runs, so that the same command goes on after a kill: one safetensors file.

A file is published whole under a new number, then the older ones are removed; so there is always one to go on from. It
is found again by a key made of everything that decides the fit: another modality, setting, budget or data set has
another key. Tensors and one JSON string, no pickle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from pipeline.errors import ManymodalError
from pipeline.storage import Storage

FOLDER = "_fits/_unfinished"
_META = "manymodal_fit"


@dataclass
class Snapshot:
    """tensors: by name, on the CPU. meta: plain JSON: step, seconds spent, position of the data."""

    tensors: Mapping[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)


class FitState(Protocol):
    """Where a fit's snapshots go. `stage`: a part of a fit with an optimiser of its own."""

    def load(self, stage: str) -> Snapshot | None: ...

    def due(self) -> bool:
        """Has it been long enough since the last snapshot?"""

    def save(self, stage: str, snapshot: Snapshot) -> None: ...

    def clear(self) -> None:
        """The fit is finished and kept: remove its snapshots."""


class StoredState:
    """Snapshots in the data set, `_fits/_unfinished/<key>.<stage>.<number>.safetensors`, at most every `every` seconds."""

    def __init__(self, storage: Storage, key: str, every: float = 60.0) -> None:
        self.storage, self.key, self.every = storage, key, every
        self.last = time.monotonic()

    def _files(self, stage: str) -> list[tuple[int, str]]:
        """(number, key) of the snapshots of a stage, oldest first."""
        start = f"{FOLDER}/{self.key}.{stage}."
        found = [key for key in self.storage.list(FOLDER) if key.startswith(start)]
        return sorted((int(key[len(start) :].partition(".")[0]), key) for key in found)

    def load(self, stage: str) -> Snapshot | None:
        from safetensors import SafetensorError, safe_open

        for _, key in reversed(self._files(stage)):
            try:
                with safe_open(str(self.storage.local(key)), framework="pt") as file:
                    meta = json.loads((file.metadata() or {})[_META])
                    return Snapshot({name: file.get_tensor(name) for name in file.keys()}, meta)  # noqa: SIM118
            except (SafetensorError, KeyError, ValueError, FileNotFoundError):
                continue  # damaged on the disk: an older one, or the beginning
        return None

    def due(self) -> bool:
        return time.monotonic() - self.last >= self.every

    def save(self, stage: str, snapshot: Snapshot) -> None:
        from safetensors.torch import save_file

        old = self._files(stage)
        number = old[-1][0] + 1 if old else 0
        with self.storage.scratch() as folder:
            path = folder / "state.safetensors"
            tensors = {name: value.contiguous() for name, value in snapshot.tensors.items()}
            save_file(tensors, path, metadata={_META: json.dumps(snapshot.meta)})
            if not self.storage.publish(path, f"{FOLDER}/{self.key}.{stage}.{number:06d}.safetensors"):
                raise ManymodalError(f"another fit writes {FOLDER}/{self.key}; wait for it, or end it")
        for _, key in old:
            self.storage.delete(key)
        self.last = time.monotonic()

    def clear(self) -> None:
        for key in self.storage.list(FOLDER):
            if key.startswith(f"{FOLDER}/{self.key}."):
                self.storage.delete(key)
        self.storage.prune([FOLDER])
