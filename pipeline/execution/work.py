"""What executors run, and what they report. A worker is made once in its process and then called with shard numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from pipeline.errors import ConfigError, StorageError
from pipeline.plan import Item
from pipeline.records import Commit


@dataclass(frozen=True)
class Done:
    """The outcome of one item. commits: what is in force afterwards. seconds: all it took, of which `busy` inside
    labelers. error: why there are no commits, or '' on success. hopeless: the worker cannot be set up
    for the step, so no other shard of it can end better there.
    """

    step: str
    shard: int
    commits: tuple[Commit, ...] = ()
    seconds: float = 0.0
    error: str = ""
    busy: float = 0.0
    hopeless: bool = False


Worker = Callable[[int, int], tuple[Commit, ...]]  # (shard, attempt) -> commits of one step
Crew = Callable[[Sequence[str], int, int], list[Done]]  # (steps, shard, attempt) -> an outcome for each step


@dataclass(frozen=True)
class Pool:
    """Workers of one step, or of several that look at the same thing. make: builds a Worker in the process that runs
    it, or, where `steps` names what it can do, a Crew; must pickle. cpu, gpu, custom: what one worker takes.
    """

    make: Callable[[], Any]
    cpu: float = 1.0
    gpu: float = 0.0
    custom: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[str, ...] = ()

    def build(self) -> Crew:
        return self.make() if self.steps else partial(attempt, self.make())

    def of(self, step: str) -> tuple[str, ...]:
        """The steps that share this pool with `step`, which every mapping of pools lists under each of them."""
        return self.steps or (step,)


OnDone = Callable[[Done], None]


class Executor(Protocol):
    """Runs items in an order their `after` allows; calls `on_done` for each; an item that fails fails those after it."""

    name: str

    def run(self, pools: Mapping[str, Pool], items: Sequence[Item], on_done: OnDone) -> None: ...


MAX_ATTEMPTS = 6  # enough for `suspects` to find the sample that kills workers, and to do the shard without it
MAX_LOSSES = 20  # times an item may lose its worker to a node that went away, which is not the item's doing


@dataclass(frozen=True)
class Taken:
    """Items of one shard that one worker does together. number: which attempt this is, from 1."""

    steps: tuple[str, ...]
    shard: int
    number: int


class Queue:
    """The state of a run, shared by the executors: which items are ready, and what follows from an outcome."""

    def __init__(self, items: Sequence[Item], on_done: OnDone) -> None:
        self._on_done = on_done
        self._waiting = {(item.step, item.shard): set(item.after) for item in items}
        self._readers: dict[tuple[str, int], list[tuple[str, int]]] = {}
        for item in items:
            for before in item.after:
                self._readers.setdefault(before, []).append((item.step, item.shard))
        self._ready: dict[str, dict[int, None]] = {}  # step -> its ready shards, in order
        for item in items:
            if not item.after:
                self._make_ready((item.step, item.shard))
        self._deaths: dict[tuple[str, int], int] = {}
        self._losses: dict[tuple[str, int], int] = {}

    def _make_ready(self, key: tuple[str, int], first: bool = False) -> None:
        del self._waiting[key]
        shards = self._ready.setdefault(key[0], {})
        shards[key[1]] = None
        if first:
            self._ready[key[0]] = {key[1]: None, **shards}

    def ready(self) -> list[str]:
        """Steps with something to do now, each once, in the order in which they first had."""
        return [step for step, shards in self._ready.items() if shards]

    def count(self, steps: Sequence[str]) -> int:
        """Ready shards of the step that has most of them."""
        return max((len(self._ready.get(step, ())) for step in steps), default=0)

    def left(self) -> int:
        """Items that are not done and that nobody has taken."""
        return len(self._waiting) + sum(len(shards) for shards in self._ready.values())

    def take(self, steps: Sequence[str], together: bool = True) -> Taken | None:
        """The next ready shard of any of the steps, with all of them that are ready on it; or with one of them, where
        not `together`. An item whose worker died comes alone: its death must not be put down to the others.
        """
        first = next((step for step in self._ready if step in steps and self._ready[step]), None)
        if first is None:
            return None
        shard = next(iter(self._ready[first]))
        chosen = [first]
        if together and not self._deaths.get((first, shard)):
            chosen = [s for s in steps if shard in self._ready.get(s, ()) and not self._deaths.get((s, shard))]
        for step in chosen:
            del self._ready[step][shard]
        return Taken(tuple(chosen), shard, 1 + self._deaths.get((first, shard), 0))

    def done(self, outcome: Done) -> None:
        """Report an outcome, and make ready, or fail, what waited for it."""
        self._on_done(outcome)
        key = (outcome.step, outcome.shard)
        for waiting in self._readers.get(key, ()):
            needs = self._waiting.get(waiting)
            if needs is None:
                continue
            needs.discard(key)
            if outcome.error:
                del self._waiting[waiting]
                self.done(Done(*waiting, error=f"not tried: {outcome.step} failed on shard {outcome.shard}"))
            elif not needs:
                self._make_ready(waiting)
        if outcome.hopeless:
            self.fail((outcome.step,), outcome.error)

    def retry(self, taken: Taken, error: str, blame: bool = True) -> None:
        """A worker was lost with these items: again. blame: by their own doing, as far as one can know; at most
        MAX_ATTEMPTS times, and MAX_LOSSES where a node went away; then they have failed.
        """
        counts, most = (self._deaths, MAX_ATTEMPTS) if blame else (self._losses, MAX_LOSSES)
        for step in taken.steps:
            key = (step, taken.shard)
            counts[key] = counts.get(key, 0) + 1
            if counts[key] < most:
                self._waiting[key] = set()
                self._make_ready(key, first=True)
            else:
                self.done(Done(step, taken.shard, error=f"{error}; gave up after {most} attempts"))

    def fail(self, steps: Sequence[str], error: str) -> None:
        """Everything of these steps that is ready has failed, and nothing of them can be made ready any more."""
        for step in steps:
            for shard in [*self._ready.pop(step, {})]:
                self.done(Done(step, shard, error=error))
            for key in [key for key in self._waiting if key[0] == step]:
                if self._waiting.pop(key, None) is not None:
                    self.done(Done(*key, error=error))


def sentence(error: Exception) -> str:
    """What an exception costs its item. Errors of the system itself are raised again, and end the run."""
    if isinstance(error, MemoryError | ImportError | StorageError):
        raise error
    return f"{type(error).__name__}: {error}"


def cannot_start(error: Exception) -> str:
    """What an exception of a worker's making costs its whole step, unless it is the storage's or the configuration's."""
    if isinstance(error, StorageError | ConfigError):
        raise error
    return f"the worker cannot start: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def attempt(worker: Worker, steps: Sequence[str], shard: int, number: int) -> list[Done]:
    """Call a worker of one step; what it raises becomes the outcome's error."""
    (step,) = steps
    start = time.monotonic()
    try:
        return [Done(step, shard, worker(shard, number), time.monotonic() - start)]
    except Exception as error:
        return [Done(step, shard, (), time.monotonic() - start, sentence(error))]
