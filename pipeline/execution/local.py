"""The local executor: every item in this process, one after another. For tests, debugging and small jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.execution.work import Crew, OnDone, Pool, Queue, cannot_start
from pipeline.plan import Item


class LocalExecutor:
    """Runs what a pool can do to its end before it starts the next one, so that one worker is in memory at a time."""

    name = "local"

    def run(self, pools: Mapping[str, Pool], items: Sequence[Item], on_done: OnDone) -> None:
        queue = Queue(items, on_done)
        while ready := queue.ready():
            steps = pools[ready[0]].of(ready[0])
            crew: Crew | None = None
            while (taken := queue.take(steps)) is not None:
                try:
                    crew = crew or pools[ready[0]].build()
                except Exception as error:
                    queue.retry(taken, "")
                    queue.fail(steps, cannot_start(error))
                    break
                for outcome in crew(taken.steps, taken.shard, taken.number):
                    queue.done(outcome)
