"""What executors run, and what they report. A worker is made once in its process and then called with shard numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.plan import Item
from pipeline.records import Commit


@dataclass(frozen=True)
class Done:
    """The outcome of one item. commits: what is in force afterwards. error: why there is none, or '' on success."""

    step: str
    shard: int
    commits: tuple[Commit, ...] = ()
    seconds: float = 0.0
    error: str = ""


Worker = Callable[[int, int], tuple[Commit, ...]]  # (shard, attempt) -> commits


@dataclass(frozen=True)
class Pool:
    """Workers of one step. make: builds a worker in the process that runs it; must pickle. cpu, gpu: what one worker
    takes.
    """

    make: Callable[[], Worker]
    cpu: float = 1.0
    gpu: float = 0.0


OnDone = Callable[[Done], None]


class Executor(Protocol):
    """Runs items in an order their `after` allows; calls `on_done` for each; an item that fails fails those after it."""

    name: str

    def run(self, pools: Mapping[str, Pool], items: Sequence[Item], on_done: OnDone) -> None: ...


MAX_ATTEMPTS = 6  # enough for `suspects` to find the sample that kills workers, and to do the shard without it


class Queue:
    """The state of a run, shared by the executors: which items are ready, and what follows from an outcome."""

    def __init__(self, items: Sequence[Item], on_done: OnDone) -> None:
        self._on_done = on_done
        self._waiting = {(item.step, item.shard): set(item.after) for item in items}
        self._ready = [(item.step, item.shard) for item in items if not item.after]
        for key in self._ready:
            del self._waiting[key]
        self._attempts: dict[tuple[str, int], int] = {}

    def ready(self) -> list[str]:
        """Steps with something to do now, each once, in the order of their first ready item."""
        return list(dict.fromkeys(step for step, _ in self._ready))

    def count(self, step: str) -> int:
        return sum(1 for name, _ in self._ready if name == step)

    def take(self, step: str) -> tuple[int, int] | None:
        """The next ready (shard, attempt) of a step, or None."""
        for i, (name, shard) in enumerate(self._ready):
            if name == step:
                del self._ready[i]
                attempt = self._attempts[name, shard] = self._attempts.get((name, shard), 0) + 1
                return shard, attempt
        return None

    def done(self, outcome: Done) -> None:
        """Report an outcome, and make ready, or fail, what waited for it."""
        self._on_done(outcome)
        key = (outcome.step, outcome.shard)
        for waiting, needs in list(self._waiting.items()):
            if key in needs and waiting in self._waiting:
                needs.discard(key)
                if outcome.error:
                    del self._waiting[waiting]
                    self.done(Done(*waiting, error=f"not tried: {outcome.step} failed on shard {outcome.shard}"))
                elif not needs:
                    del self._waiting[waiting]
                    self._ready.append(waiting)

    def retry(self, step: str, shard: int, error: str) -> None:
        """A worker died on this item: again, up to MAX_ATTEMPTS, then it has failed."""
        if self._attempts.get((step, shard), 0) < MAX_ATTEMPTS:
            self._ready.insert(0, (step, shard))
        else:
            self.done(Done(step, shard, error=f"{error}; gave up after {MAX_ATTEMPTS} attempts"))


def attempt(worker: Worker, step: str, shard: int, number: int) -> Done:
    """Call a worker; what it raises becomes the outcome's error. Errors of the system itself are not swallowed."""
    import time

    start = time.monotonic()
    try:
        return Done(step, shard, worker(shard, number), time.monotonic() - start)
    except (MemoryError, ImportError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        from pipeline.errors import StorageError

        if isinstance(error, StorageError):
            raise
        return Done(step, shard, (), time.monotonic() - start, f"{type(error).__name__}: {error}")
