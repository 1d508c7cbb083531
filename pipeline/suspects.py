"""Which sample kills the workers: found out across attempts, because a dead process cannot say.

Once a worker of a shard has died, the next attempt labels it sample by sample, and puts a small mark on storage while
it is at each. A mark that is left names the sample at which that attempt died. DEADLY such deaths make the sample
poison: later attempts do not try it, and it becomes a null. One or two may be chance (a node lost, a kill from outside).
"""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from labelers.core.labeler import Sample
from pipeline.storage import Storage

DEADLY = 3


@dataclass(frozen=True)
class Suspects:
    """The marks of one labeler on one shard. name: the labeler and its recipe."""

    storage: Storage
    name: str
    shard: int

    @property
    def prefix(self) -> str:
        return f"_suspects/{self.name}/{self.shard:06d}"

    def any_before(self) -> bool:
        """Whether an attempt of an earlier run left a mark. Asked once a process, for marks come with second attempts."""
        return f"_suspects/{self.name}/" in _marked(self.storage)  # type: ignore[arg-type]  # a storage equals itself alone

    def marks(self) -> Counter[str]:
        """How many attempts died at each sample."""
        return Counter(key.rsplit("/", 1)[-1].split("-")[0] for key in self.storage.list(self.prefix))

    def poison(self) -> set[str]:
        return {sample for sample, deaths in self.marks().items() if deaths >= DEADLY}

    @contextlib.contextmanager
    def at(self, samples: Sequence[Sample]) -> Iterator[None]:
        """Marks the samples while the block runs; whatever the block raises, only death leaves the marks."""
        keys = [f"{self.prefix}/{sample.id}-{uuid.uuid4().hex[:8]}" for sample in samples]
        for key in keys:
            self.storage.put_if_absent(key, b"")
        try:
            yield
        finally:
            for key in keys:
                self.storage.delete(key)

    def clear(self) -> None:
        for key in self.storage.list(self.prefix):
            self.storage.delete(key)


@lru_cache(maxsize=4)
def _marked(storage: Storage) -> frozenset[str]:
    """Labelers with marks when this storage was opened, or soon after."""
    return frozenset(storage.list("_suspects"))
