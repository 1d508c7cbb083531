"""What a plan takes on a cluster: hours of CPUs and GPUs, bytes, storage requests, time on N nodes, cost. Pure
arithmetic.

A step is worked off by workers that each take `cpu` CPUs and `gpu` of a GPU. Measured is `seconds`: what one worker
needs for all of a step. So over the steps

    CPU-hours   = sum(seconds * cpu) / 3600              GPU-hours = sum(seconds * gpu) / 3600
    hours       = max(CPU-hours / CPUs of the cluster, GPU-hours / GPUs of the cluster, longest shard) / USE
    cost        = hours * nodes * price of a node for an hour

Workers run side by side as long as anything is left to do, so the scarcer of the two resources decides; nothing ends
before the longest single shard. USE is the share of the time in which workers have work: starts, tails and repeated
shards take the rest. Rates hold for the machine they were measured on: measure on the kind of node that will run, a GPU
step timed without a GPU says nothing about one.

Requests, from what one worker does to one shard (pipeline.label_shard, pipeline.shard_task), and the driver to a run
(pipeline.run):

    for each shard of a step:   GET index; for each modality read: GET commit, HEAD data, GET data in ranges of PART. A step
                                that looks at the images together with another reads nothing of this again
    for each modality written:  GET commit twice (absent), PUT data whole, or in parts of PART with a start and an end,
                                PUT commit; and GET commit at the end of the run, for the manifest and the pack
    for each recipe written:    HEAD, PUT and GET recipe, PUT and GET pack; LIST data three times and commits four times,
                                PAGE keys a request
    for one with nothing due:   HEAD, PUT and GET recipe, GET pack and LIST data and commits three times
    for a run:                  GET or HEAD 13 and PUT 7 small things: settings, manifests, the pack of the images' commits,
                                files of the run, cards; LIST manifests and marks of killers six times, index four times,
                                images and their commits twice

A worker on a node that has a copy of what it reads asks for nothing, so this is what many nodes take. Not counted are what
each process asks for once (the data set, weights), what is repeated after a fault, and commits that are too few to be packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

USE = 0.85
PART = 64 << 20
PAGE = 1000


@dataclass(frozen=True)
class Load:
    """One step of a plan. seconds: of one worker, for all shards; None where unknown. cpu, gpu: of one worker. reads,
    writes: modalities; read_bytes, write_bytes: of all shards and modalities together. together: it reads the images
    alone, and an earlier step of the same workers does so for it.
    """

    step: str
    shards: int
    seconds: float | None
    cpu: float
    gpu: float
    reads: int
    writes: int
    read_bytes: int
    write_bytes: int
    together: bool = False


@dataclass(frozen=True)
class Cluster:
    """Equal nodes; cpus and gpus of each."""

    nodes: int
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Sizing:
    """See the module. hours: None where a GPU is needed and the cluster has none. unknown: steps without an estimate,
    which count nothing.
    """

    cpu_hours: float
    gpu_hours: float
    hours: float | None
    bytes: int
    gets: int
    puts: int
    lists: int
    cost: float | None
    unknown: tuple[str, ...]


def size(loads: Sequence[Load], cluster: Cluster, price: float | None = None, idle: int = 0) -> Sizing:
    """What the loads take on the cluster. price: of one node for an hour. idle: recipes of the run with nothing due."""
    known = [load for load in loads if load.seconds is not None]
    cpu_hours = sum((load.seconds or 0) * load.cpu for load in known) / 3600
    gpu_hours = sum((load.seconds or 0) * load.gpu for load in known) / 3600
    longest = max(((load.seconds or 0) / load.shards / 3600 for load in known if load.shards), default=0.0)
    hours: float | None = None
    if gpu_hours == 0 or cluster.gpus:
        by_gpu = gpu_hours / (cluster.nodes * cluster.gpus) if gpu_hours else 0.0
        hours = max(cpu_hours / (cluster.nodes * cluster.cpus), by_gpu, longest) / USE
    gets, puts, lists = (
        sum(counts) for counts in zip(of_run(loads, idle), *(requests(load) for load in loads), strict=True)
    )
    return Sizing(
        cpu_hours, gpu_hours, hours, sum(load.write_bytes for load in loads), gets, puts, lists,
        hours * cluster.nodes * price if hours is not None and price is not None else None,
        tuple(load.step for load in loads if load.seconds is None),
    )  # fmt: skip


def requests(load: Load) -> tuple[int, int, int]:
    """(GET and HEAD, PUT, LIST) of a step."""
    if not load.shards:
        return 0, 0, 0
    files = load.shards * load.writes
    gets = 3 * files + 3 * load.writes
    if not load.together:
        gets += load.shards * (1 + 2 * load.reads) + _parts(load.read_bytes, load.shards * load.reads)
    parts = _parts(load.write_bytes, files)
    puts = files + parts + (2 * files if parts > files else 0) + 2 * load.writes
    return gets, puts, load.writes * 7 * ceil(load.shards / PAGE)


def of_run(loads: Sequence[Load], idle: int = 0) -> tuple[int, int, int]:
    """(GET and HEAD, PUT, LIST) of a run beyond its steps."""
    pages = ceil(max((load.shards for load in loads), default=0) / PAGE)
    return (13 + 5 * idle, 7 + idle, 6 + (8 + 6 * idle) * pages) if pages else (0, 0, 0)


def _parts(total: int, files: int) -> int:
    """Requests that move so many bytes in so many files of one size."""
    return files * max(1, ceil(total / files / PART)) if files else 0
