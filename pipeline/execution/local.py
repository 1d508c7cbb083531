"""The local executor: every item in this process, one after another. For tests, debugging and small jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.execution.work import OnDone, Pool, Queue, Worker, attempt
from pipeline.plan import Item


class LocalExecutor:
    """Runs a step to its end before it starts the next ready one, so that one set of weights is in memory at a time."""

    name = "local"

    def run(self, pools: Mapping[str, Pool], items: Sequence[Item], on_done: OnDone) -> None:
        queue = Queue(items, on_done)
        while steps := queue.ready():
            step = steps[0]
            worker: Worker | None = None
            while (taken := queue.take(step)) is not None:
                worker = worker or pools[step].make()
                shard, number = taken
                queue.done(attempt(worker, step, shard, number))
