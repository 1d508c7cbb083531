"""The nodes of a Ray cluster under watch: which there are, which answer, and whether the workers on them live.

Ray notices a process that ends at once, a node that ends or whose raylet stands still after half a minute or more, and a
process that stands still (paused, or hanging with the interpreter's lock) never. So every worker stamps a file on its
node every few seconds, and a sentry, an actor without resources on each other node, reads the stamps when it is asked. A
sentry that does not answer is a node that stands still; a stamp that grows old is a worker that does. A sentry's first
answer also says whether this program is there, and is the same as here.

Metrics of a run leave through Ray's Prometheus endpoint, under these names with Ray's prefix `ray_`, all but the last
three with the tag `step`:

    manymodal_shards_done, manymodal_shards_failed, manymodal_samples, manymodal_nulls      counts
    manymodal_seconds, manymodal_labeler_seconds      of workers: at shards, and of that inside labelers
    manymodal_workers_lost                            with something in hand
    manymodal_items_left, manymodal_workers, manymodal_nodes                                now
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.execution.placement import Need
from pipeline.execution.work import Done

REFRESH_S = 1.0  # between two looks at the list of nodes
ATTENTION_S = 5.0  # between two looks, after which it is not the others who were silent
ASK_S = 10.0  # between two words to an autoscaler
FORGET_S = 86400.0  # stamps of runs long gone are removed


def stamps() -> Path:
    """Where the workers of this node leave their stamps."""
    return Path(tempfile.gettempdir()) / f"manymodal-pulse-{os.getuid()}"


def beat(name: str, every_s: float) -> None:
    """Stamp `name` for as long as this process lives and its interpreter runs."""
    path = stamps() / name
    path.parent.mkdir(exist_ok=True, mode=0o700)

    def run() -> None:
        while True:
            path.touch()
            time.sleep(every_s)

    threading.Thread(target=run, daemon=True, name="pulse").start()


@lru_cache(maxsize=1)
def program() -> str:
    """A digest of the code that decides bytes: workers with other code would make other labels under the same recipe."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(
        path for room in ("labelers", "pipeline", "tokenize_shards") for path in (root / room).rglob("*.py")
    ):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def ages() -> dict[str, float]:
    """The age in seconds of each stamp on this node."""
    now, found = time.time(), dict[str, float]()
    for path in stamps().glob("*"):
        try:
            found[path.name] = now - path.stat().st_mtime
            if found[path.name] > FORGET_S:
                path.unlink()
        except FileNotFoundError:
            continue  # swept by another
    return found


class _Sentry:
    """Stands on a node; says its program, and the stamps there."""

    def look(self) -> tuple[str, dict[str, float]]:
        return program(), ages()


@dataclass
class _Node:
    """total: what it declares. sentry: its actor; asked: the call it has not answered. heard: when it answered last, or
    was first seen. known: it has answered before.
    """

    address: str
    total: dict[str, float]
    sentry: Any = None
    asked: Any = None
    heard: float = field(default_factory=time.monotonic)
    known: bool = False
    silent: bool = False
    ages: dict[str, float] = field(default_factory=dict)


class Nodes:
    """See the module. silence_s: without an answer after which a node or worker counts as standing still. start_s: the
    same for a node's first answer, for which Ray may have to prepare the program there.
    """

    def __init__(self, silence_s: float, start_s: float) -> None:
        import ray

        self.ray, self.silence_s, self.start_s = ray, silence_s, start_s
        self._nodes: dict[str, _Node] = {}
        self._looked = time.monotonic()
        self._asked, self._wanted = 0.0, list[dict[str, float]]()
        self._sentry = ray.remote(_Sentry)
        self._here = ray.get_runtime_context().get_node_id()  # this process needs no sentry to know how its node is

    def usable(self) -> Mapping[str, dict[str, float]]:
        """What each node that is alive, and not silent, has in all."""
        return {name: node.total for name, node in self._nodes.items() if not node.silent}

    def silent(self) -> bool:
        """Whether any node is there that does not answer; it may again."""
        return any(node.silent for node in self._nodes.values())

    def lacks(self, need: Need) -> str:
        """A sentence about a worker that no node can hold."""
        needs = " and ".join(f"{v:g} {k}{'s' if k in ('CPU', 'GPU') else ''}" for k, v in need.items() if v)
        total = {kind: sum(node.get(kind, 0.0) for node in self.usable().values()) for kind in need}
        return f"needs {needs} a worker on one node; the cluster has {total}. Add a node."

    def address(self, name: str) -> str:
        node = self._nodes.get(name)
        return node.address if node else name[:8]

    def lost(self, name: str) -> bool:
        return name not in self._nodes or self._nodes[name].silent

    def frozen(self, node: str, stamp: str) -> bool:
        """Whether a worker's stamp has grown old though its node answers."""
        found = self._nodes.get(node)
        return found is not None and not found.silent and found.ages.get(stamp, 0.0) > self.silence_s

    def refresh(self, force: bool = False) -> None:
        """Look at the list of nodes, take answers, ask again. ConfigError for a node without this very program."""
        now = time.monotonic()
        if not force and now - self._looked < REFRESH_S:
            return
        away, self._looked = now - self._looked, now
        alive = {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}
        for name in set(self._nodes) - set(alive):
            del self._nodes[name]
        for name, found in alive.items():
            node = self._nodes.setdefault(name, _Node(found["NodeManagerAddress"], {}))
            node.total = dict(found["Resources"])
            if away > ATTENTION_S:  # it was this process that stood still
                node.heard += away
            self._ask(name, node, now)

    def _ask(self, name: str, node: _Node, now: float) -> None:
        if name == self._here:
            node.ages, node.known, node.heard = ages(), True, now
            return
        if node.asked is not None:
            ended, _ = self.ray.wait([node.asked], timeout=0)
            if ended:
                self._answer(node)
        if now - node.heard > (self.silence_s if node.known else max(self.start_s, self.silence_s)):
            node.silent = True
        if node.sentry is None:
            node.sentry = self._sentry.options(num_cpus=0, max_restarts=0, scheduling_strategy=only_on(name)).remote()
        if node.asked is None and (not node.known or now - node.heard >= self.silence_s / 4):
            node.asked = node.sentry.look.remote()

    def _answer(self, node: _Node) -> None:
        asked, node.asked = node.asked, None
        try:
            there, node.ages = self.ray.get(asked)
        except self.ray.exceptions.RayError as error:
            missing_program(error, node.address)
            node.sentry = None  # it died, and maybe the node with it; another will tell, or none
            return
        if there != program():
            raise ConfigError(
                f"node {node.address} runs another version of this program. Install the same one on every node, or "
                "submit with `ray job submit --working-dir .`, which brings it along."
            )
        node.known, node.silent, node.heard = True, False, time.monotonic()

    def want(self, needs: Sequence[Need]) -> None:
        """Have an autoscaler, if there is one, see to it that all this fits into the cluster, until told otherwise."""
        if time.monotonic() - self._asked > ASK_S:
            wanted = [{kind: amount for kind, amount in need.items() if amount} for need in needs]
            if wanted != self._wanted:
                self._request(wanted)

    def _request(self, wanted: list[dict[str, float]]) -> None:
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=[*wanted])
        self._asked, self._wanted = time.monotonic(), wanted

    def close(self) -> None:
        if self._wanted:
            self._request([])
        for node in self._nodes.values():
            if node.sentry is not None:
                self.ray.kill(node.sentry)


def only_on(node: str) -> Any:
    """A scheduling strategy: this node or none."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def last_line(error: BaseException) -> str:
    """What went wrong, from the end of a remote traceback, without colours and marks under the code."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip(" ^~")]
    return lines[-1][:300] if lines else type(error).__name__


def missing_program(error: BaseException, where: str) -> None:
    """ConfigError where a remote error says that this program, or what it needs to run at all, is not there."""
    text = str(error)
    if "ModuleNotFoundError" in text or "failed to import" in text or "RuntimeEnvSetupError" in type(error).__name__:
        said = [line.strip().partition(": ")[2] for line in text.splitlines() if "ModuleNotFoundError: " in line]
        what = said[-1][:200] if said else f"its environment cannot be made: {' '.join(text.split())[-200:]}"
        raise ConfigError(
            f"node {where} cannot run this program ({what[-200:]}). Install manymodal on every node, or submit with "
            "`ray job submit --working-dir .` where all it depends on is installed."
        ) from None


class Metrics:
    """See the module. Counted by the driver from what workers report, so that they agree with the run's summary."""

    def done(self, outcome: Done) -> None:
        tags = {"step": outcome.step}
        _counter("shards_failed" if outcome.error else "shards_done").inc(1, tags)
        for name, amount in (
            ("samples", max((c.count for c in outcome.commits), default=0)),
            ("nulls", sum(len(c.nulls) for c in outcome.commits)),
            ("seconds", outcome.seconds),
            ("labeler_seconds", outcome.busy),
        ):
            if amount > 0:
                _counter(name).inc(amount, tags)

    def lost(self, steps: Sequence[str]) -> None:
        for step in steps:
            _counter("workers_lost").inc(1, {"step": step})

    def level(self, left: int, workers: int, nodes: int) -> None:
        for name, value in (("items_left", left), ("workers", workers), ("nodes", nodes)):
            _gauge(name).set(value)


@cache
def _counter(name: str) -> Any:
    from ray.util.metrics import Counter

    return Counter(f"manymodal_{name}", "see pipeline/execution/ray_watch.py", ("step",))


@cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(f"manymodal_{name}", "see pipeline/execution/ray_watch.py")
