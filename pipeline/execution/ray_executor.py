"""The Ray executor: one pool of actors a step, sized by resources. The only file that knows Ray.

Shards travel as numbers, never pixels: a worker reads and writes storage itself. One item is in flight per actor; a
dead actor costs the item it held, which is given to a fresh one, at most three times. Pools that have run dry make room
for others.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import Incomplete, StorageError
from pipeline.execution.work import Done, OnDone, Pool, Queue, attempt
from pipeline.plan import Item


class RayUnavailable(Exception):
    """Ray could not be started or joined."""


def start_ray() -> None:
    """Join the cluster RAY_ADDRESS names, or start one on this machine; nothing where Ray already runs. RayUnavailable
    if neither.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS"), include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
            log_to_driver=False, logging_level=logging.ERROR, configure_logging=True,
        )  # fmt: skip
    except Exception as error:
        raise RayUnavailable(f"{type(error).__name__}: {error}") from error


def last_line(error: BaseException) -> str:
    """What went wrong, from the end of a remote traceback, without colours and marks under the code."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip(" ^~")]
    return lines[-1][:300] if lines else type(error).__name__


class _Actor:
    """Holds one worker of a pool; made in its own process."""

    def __init__(self, pool: Pool) -> None:
        self.worker = pool.make()

    def run(self, step: str, shard: int, number: int) -> Done:
        return attempt(self.worker, step, shard, number)


class RayExecutor:
    """See the module. stall_s: seconds without any item ending after which the run ends with an error instead of
    hanging. shard_s: seconds a worker may take for one item before it is replaced.
    """

    name = "ray"

    def __init__(self, stall_s: float = 7200.0, shard_s: float = 3600.0) -> None:
        self.stall_s, self.shard_s = stall_s, shard_s

    def run(self, pools: Mapping[str, Pool], items: Sequence[Item], on_done: OnDone) -> None:
        start_ray()
        run = _Run(pools, Queue(items, on_done), self.shard_s)
        try:
            last = time.monotonic()
            while run.fill():
                if run.collect(timeout=min(5.0, self.stall_s, self.shard_s)):
                    last = time.monotonic()
                elif time.monotonic() - last > self.stall_s:
                    raise Incomplete(
                        f"no shard ended for {self.stall_s:.0f} s; ended the run. Run the same command to resume."
                    )
        finally:
            run.close()


class _Run:
    """The actors and calls of one run."""

    def __init__(self, pools: Mapping[str, Pool], queue: Queue, shard_s: float) -> None:
        import ray

        self.shard_s = shard_s

        self.ray, self.pools, self.queue = ray, pools, queue
        total = ray.cluster_resources()
        self.free = {"cpu": total.get("CPU", 1.0), "gpu": total.get("GPU", 0.0)}
        self.has_gpu = self.free["gpu"] > 0  # without any in the cluster, every labeler runs on CPUs alone
        self.idle: dict[str, list[Any]] = {}
        self.busy: dict[Any, tuple[str, Any, int, float]] = {}  # call -> (step, actor, shard, since when)

    def fill(self) -> bool:
        """Give ready items to idle actors, start actors where resources are free. False when nothing is left to do."""
        for step in self.queue.ready():
            while self.queue.count(step) and (actor := self._actor(step)) is not None:
                taken = self.queue.take(step)
                assert taken is not None
                call = actor.run.remote(step, *taken)
                self.busy[call] = (step, actor, taken[0], time.monotonic())
        return bool(self.busy) or bool(self.queue.ready())

    def _actor(self, step: str) -> Any | None:
        if self.idle.get(step):
            return self.idle[step].pop()
        need = self._need(step)
        while any(self.free[kind] + 1e-6 < need[kind] for kind in need):
            spare = next((name for name, actors in self.idle.items() if actors and not self.queue.count(name)), None)
            if spare is None:
                if not self.busy and not any(self.idle.values()):
                    self._refuse(step, need)
                return None
            self._end(spare, self.idle[spare].pop())
        for kind in need:
            self.free[kind] -= need[kind]
        remote = self.ray.remote(_Actor).options(num_cpus=need["cpu"], num_gpus=need["gpu"], max_restarts=0)
        return remote.remote(self.pools[step])

    def _refuse(self, step: str, need: Mapping[str, float]) -> None:
        raise Incomplete(
            f"{step} needs {need['cpu']} CPUs and {need['gpu']} GPUs a worker; the cluster has {self.free}. Add a node."
        )

    def _need(self, step: str) -> dict[str, float]:
        return {"cpu": self.pools[step].cpu, "gpu": self.pools[step].gpu if self.has_gpu else 0.0}

    def _end(self, step: str, actor: Any) -> None:
        self.ray.kill(actor)
        for kind, amount in self._need(step).items():
            self.free[kind] += amount

    def collect(self, timeout: float) -> bool:
        """Wait for a call to end and take its outcome. False if none ended in time."""
        ended, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=timeout)
        for call in ended:
            step, actor, shard, _ = self.busy.pop(call)
            try:
                outcome = self.ray.get(call)
            except self.ray.exceptions.RayTaskError as error:
                self._end(step, actor)
                cause = error.cause if isinstance(error.cause, StorageError) else None
                if cause is not None:
                    raise cause from None
                self.queue.retry(step, shard, f"worker failed: {type(error.cause).__name__}: {error.cause}")
            except self.ray.exceptions.RayError as error:
                self._end(step, actor)
                if "creation task" in str(error):  # it could not even be built; another try would end the same way
                    self.queue.done(Done(step, shard, error=f"the worker cannot start: {last_line(error)}"))
                else:
                    self.queue.retry(step, shard, f"worker died: {last_line(error)}")
            else:
                self.idle.setdefault(step, []).append(actor)
                self.queue.done(outcome)
        return bool(ended) or self._end_overdue()

    def _end_overdue(self) -> bool:
        """Replace workers that are at one item for too long. True if there was one."""
        late = [call for call, (_, _, _, since) in self.busy.items() if time.monotonic() - since > self.shard_s]
        for call in late:
            step, actor, shard, _ = self.busy.pop(call)
            self._end(step, actor)
            self.queue.retry(step, shard, f"took longer than {self.shard_s:g} s (limits.shard_seconds)")
        return bool(late)

    def close(self) -> None:
        for actors in self.idle.values():
            for actor in actors:
                self.ray.kill(actor)
        for _, actor, _, _ in self.busy.values():
            self.ray.kill(actor)
