"""The Ray executor: pools of actors, placed by what nodes declare, fed shard by shard. With ray_watch the only file that
knows Ray.

Shards travel as numbers, never pixels: a worker reads and writes storage itself. One item, or the items of one shard
that share a decode, is in flight an actor, which bounds everything else. Nodes may come and go: what a lost worker held
is given to another, at most so many times; a worker or node that stands still counts as lost (see ray_watch). A node
on which a worker cannot be made is left out for its steps. Pools that have run dry make room for others.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labelers.core.ahead import confine
from pipeline.config import Limits
from pipeline.errors import ConfigError, Incomplete, StorageError
from pipeline.execution.placement import Need, Starts, capacity, place
from pipeline.execution.ray_watch import Metrics, Nodes, beat, last_line, missing_program, only_on
from pipeline.execution.work import Done, OnDone, Pool, Queue, Taken, cannot_start
from pipeline.plan import Item

TICK_S = 1.0
AWAY_S = 300.0  # how long to wait for a node once the last one that could hold a worker went away
MOST_WANTED = 1000  # workers of a pool beyond those there for which an autoscaler is asked at a time
_log = logging.getLogger(__name__)


class RayUnavailable(Exception):
    """Ray could not be started or joined."""


def start_ray() -> None:
    """Join the cluster RAY_ADDRESS names, or start one on this machine; nothing where Ray already runs. RayUnavailable
    if neither; ConfigError where the cluster that was named cannot be joined.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        # "local", not None: None would join whatever ran here last, and wait for it where its driver was killed.
        ray.init(
            address=os.environ.get("RAY_ADDRESS") or "local",
            include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
            log_to_driver=False, logging_level=logging.ERROR, configure_logging=True,
        )  # fmt: skip
    except Exception as error:
        named = os.environ.get("RAY_ADDRESS")
        if named:  # who names a cluster does not mean this machine
            raise ConfigError(
                f"RAY_ADDRESS={named}: no Ray cluster can be joined there ({last_line(error)}). From outside a cluster use "
                "`ray job submit`; to work on this machine unset it, or add --executor local."
            ) from error
        raise RayUnavailable(f"{type(error).__name__}: {error}") from error


class _Actor:
    """Holds one worker of a pool; made in its own process."""

    def __init__(self, pool: Pool, stamp: str, every_s: float, need: Need) -> None:
        beat(stamp, every_s)
        confine(need["CPU"], need["GPU"])
        self.pool = pool

    def ready(self) -> None:
        self.crew = self.pool.build()  # not above, from where Ray brings an error back as text only

    def run(self, steps: Sequence[str], shard: int, number: int) -> list[Done]:
        return self.crew(steps, shard, number)


@dataclass(eq=False)
class _Member:
    """One actor. steps: its pool. call: what it is asked to do now, since when; None while idle. taken: the items it
    holds, None while it starts. able: the steps it has done something of.
    """

    steps: tuple[str, ...]
    actor: Any
    node: str
    need: Need
    stamp: str
    call: Any
    since: float
    taken: Taken | None = None
    able: set[str] = field(default_factory=set)


class RayExecutor:
    """See the module. limits: see pipeline.config."""

    name = "ray"

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    def run(self, pools: Mapping[str, Pool], items: Sequence[Item], on_done: OnDone) -> None:
        start_ray()
        metrics = Metrics()

        def report(outcome: Done) -> None:
            metrics.done(outcome)
            on_done(outcome)

        run = _Run(pools, Queue(items, report), self.limits, metrics)
        try:
            last, stall = time.monotonic(), self.limits.stall_seconds
            while run.fill():
                if run.collect(min(TICK_S, stall)):
                    last = time.monotonic()
                elif time.monotonic() - last > stall:
                    raise Incomplete(
                        f"no shard ended for {stall:.0f} s; ended the run. Run the same command to resume."
                    )
        finally:
            run.close()


class _Run:
    """The actors and calls of one run."""

    def __init__(self, pools: Mapping[str, Pool], queue: Queue, limits: Limits, metrics: Metrics) -> None:
        import ray

        self.ray, self.pools, self.queue, self.limits, self.metrics = ray, pools, queue, limits, metrics
        self.nodes = Nodes(limits.silence_seconds, limits.start_seconds)
        self.nodes.refresh(force=True)
        self.there = self.nodes.usable()
        # Without any GPU in the cluster every labeler runs on CPUs, unless nodes are still to come.
        self.has_gpu = limits.node_seconds > 0 or any(n.get("GPU", 0) for n in self.there.values())
        self.members: list[_Member] = []
        self.starts = Starts()
        self.homeless = 0.0  # since when there is work, and no worker and no room for one
        self.ever = False  # whether a worker has ever been up
        self.ends = 0  # how many members have ended
        # What things were like when a pool last found no room.
        self.full: dict[tuple[str, ...], tuple[object, ...]] = {}

    def need(self, steps: Sequence[str]) -> Need:
        pool = self.pools[steps[0]]
        return {"CPU": pool.cpu, "GPU": pool.gpu if self.has_gpu else 0.0, **pool.custom}

    # -- giving out work

    def fill(self) -> bool:
        """Give ready items to idle actors, start actors where there is room. False when nothing is left to do."""
        self.nodes.refresh()
        self.there = self.nodes.usable()
        self._give_up()
        ready = list(dict.fromkeys(self.pools[step].of(step) for step in self.queue.ready()))
        missing: list[Need] = []
        # What needs a GPU comes first, or work that needs none would sit on the CPUs beside it.
        for steps in sorted(ready, key=lambda steps: -self.need(steps)["GPU"]):
            count = self.queue.count(steps)
            together = count >= capacity(self.need(steps), self.there, count + 1)
            self._give(steps, together)
            starting = sum(m.steps == steps and m.taken is None and m.call is not None for m in self.members)
            wanted = (count if together else count * len(steps)) - starting
            while wanted > 0 and self.queue.count(steps) and self._start(steps):
                wanted -= 1
            missing += [self.need(steps)] * min(wanted, MOST_WANTED)
        if self.limits.node_seconds:
            self.nodes.want([m.need for m in self.members if m.call is not None] + missing)
        working = any(member.call is not None for member in self.members)
        self._wait_for_nodes(ready, working)
        return working or bool(self.queue.ready())

    def _give_up(self) -> None:
        """Fail the steps for which no worker can be made."""
        for step in self.queue.ready():
            why = self.starts.hopeless(step, self.need([step]), self.there)
            at_it = (m.taken.steps if m.taken else m.steps for m in self.members if m.call is not None)
            if why and not any(step in steps for steps in at_it):
                self.queue.fail((step,), why)

    def _open(self, steps: Sequence[str], node: str, able: Collection[str] = ()) -> list[str]:
        """Those of the steps that have something ready, and that a worker on this node is `able` to do, or may try."""
        need, ready = self.need(steps), [step for step in steps if self.queue.count([step])]
        return [step for step in ready if step in able or self.starts.may(step, node, need, self.there)]

    def _give(self, steps: tuple[str, ...], together: bool) -> None:
        for member in self.members:
            if member.steps == steps and member.call is None:
                taken = self.queue.take(self._open(steps, member.node, member.able), together)
                if taken is not None:
                    member.taken, member.since = taken, time.monotonic()
                    member.call = member.actor.run.remote(taken.steps, taken.shard, taken.number)

    def _start(self, steps: tuple[str, ...]) -> bool:
        """Start one more actor of a pool, if there is room, or can be made by ending idle ones."""
        need = self.need(steps)
        idle = sum(member.call is None for member in self.members)
        nodes = {name: total for name, total in self.there.items() if self._open(steps, name)}
        state = (self.ends, len(self.members), idle, tuple(nodes))
        if self.full.get(steps) == state:
            return False
        while (node := place(need, nodes, [(m.node, m.need) for m in self.members])) is None:
            idlers = (m for m in self.members if m.call is None and m.node in nodes)
            spare = next((m for m in idlers if not self._open(m.steps, m.node, m.able)), None)
            if spare is None:
                self.full[steps] = state
                return False
            self._end(spare)
        stamp = uuid.uuid4().hex
        custom = {name: amount for name, amount in need.items() if name not in ("CPU", "GPU")}
        remote = self.ray.remote(_Actor).options(
            num_cpus=need["CPU"], num_gpus=need["GPU"], resources=custom, max_restarts=0,
            scheduling_strategy=only_on(node),
        )  # fmt: skip
        actor: Any = remote.remote(self.pools[steps[0]], stamp, max(0.2, self.limits.silence_seconds / 10), need)
        self.members.append(_Member(steps, actor, node, need, stamp, actor.ready.remote(), time.monotonic()))
        return True

    def _wait_for_nodes(self, ready: Sequence[tuple[str, ...]], working: bool) -> None:
        """Incomplete where nothing can be done, and no node has come that could do it, for long enough."""
        if working or not ready or any(m.call is None for m in self.members):
            self.homeless = 0.0
            return
        now = time.monotonic()
        self.homeless = self.homeless or now
        patience = AWAY_S if self.ever or self.nodes.silent() else 0.0
        if now - self.homeless >= max(patience, self.limits.node_seconds):
            raise Incomplete(f"{'+'.join(ready[0])} {self.nodes.lacks(self.need(ready[0]))}")

    # -- taking what comes of it

    def collect(self, timeout: float) -> bool:
        """Wait for a call to end and take the outcomes, and see to workers that were lost. Whether anything ended."""
        busy = {member.call: member for member in self.members if member.call is not None}
        if not busy:
            time.sleep(timeout)  # for a node to come
            return False
        ended, _ = self.ray.wait(list(busy), num_returns=1, timeout=timeout)
        if ended:
            ended, _ = self.ray.wait(list(busy), num_returns=len(busy), timeout=0)
        for call in ended:
            self._take(busy[call])
        self.metrics.level(self.queue.left(), len(self.members), len(self.nodes.usable()))
        return bool(ended) | self._end_lost()

    def _take(self, member: _Member) -> None:
        call, member.call = member.call, None
        try:
            outcomes = self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:
            if member.taken is None:
                missing_program(error, self.nodes.address(member.node))
            if isinstance(error.cause, StorageError | ConfigError):
                self._end(member)
                raise error.cause from None
            if member.taken is None:
                self._failed_start(member.steps, member.node, cannot_start(error.cause))
            self._lose(member, f"worker failed: {type(error.cause).__name__}: {error.cause}")
        except self.ray.exceptions.RayError as error:
            self._died(member, error)
        else:
            self.ever = True
            if member.taken is not None:
                member.taken = None
                for outcome in outcomes:
                    self._outcome(member, outcome)
                if not member.able:  # a worker made anew may do better
                    self._end(member)

    def _outcome(self, member: _Member, outcome: Done) -> None:
        if outcome.hopeless:
            self._failed_start((outcome.step,), member.node, outcome.error)
            self.queue.retry(Taken((outcome.step,), outcome.shard, 1), outcome.error, blame=False)
            return
        if outcome.step not in member.able:
            member.able.add(outcome.step)
            self.starts.worked(outcome.step, member.node)
        self.queue.done(outcome)

    def _failed_start(self, steps: Sequence[str], node: str, why: str) -> None:
        if first := [step for step in steps if self.starts.failed(step, node, why) == 1]:
            _log.warning("%s on node %s: %s", "+".join(first), self.nodes.address(node), why)

    def _died(self, member: _Member, error: Exception) -> None:
        gone = "node has died" in str(error) or "preempted" in str(error)
        if member.taken is None:
            missing_program(error, self.nodes.address(member.node))
            if not gone:
                self._failed_start(member.steps, member.node, f"the worker cannot start: {last_line(error)}")
        self._lose(member, f"worker died: {last_line(error)}", blame=not gone)

    def _end_lost(self) -> bool:
        """Give up workers whose node went away or stands still, that stand still themselves, or take too long. True if
        there was one with something to do.
        """
        now, any_lost, silence = time.monotonic(), False, self.limits.silence_seconds
        for member in list(self.members):
            where, busy_s = self.nodes.address(member.node), now - member.since
            most = self.limits.shard_seconds * len(member.taken.steps if member.taken else ())
            if self.nodes.lost(member.node):
                why, blame = f"node {where} went away or does not answer", False
            elif self.nodes.frozen(member.node, member.stamp):
                why, blame = f"worker gave no sign of life for {silence:g} s (limits.silence_seconds)", True
            elif member.call is not None and member.taken is None and busy_s > self.limits.start_seconds:
                why, blame = f"did not start in {self.limits.start_seconds:g} s (limits.start_seconds)", False
            elif member.call is not None and member.taken is not None and busy_s > most:
                why, blame = f"took longer than {most:g} s (limits.shard_seconds)", True
            else:
                continue
            any_lost |= member.taken is not None
            self._lose(member, why, blame)
        return any_lost

    def _lose(self, member: _Member, why: str, blame: bool = True) -> None:
        self._end(member)
        if member.taken is not None:
            self.metrics.lost(member.taken.steps)
            self.queue.retry(member.taken, why, blame)

    def _end(self, member: _Member) -> None:
        self.members.remove(member)
        self.ends += 1
        self.ray.kill(member.actor)

    def close(self) -> None:
        for member in list(self.members):
            self._end(member)
        self.nodes.close()
