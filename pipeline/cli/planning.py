"""The command `plan`: what would be done now, and what that takes, on one worker or on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from pipeline.cli.options import AsJson, Assign, Only, Target, settings

Price = Annotated[
    float | None, typer.Option("--price", help="Of a worker for an hour; with --nodes, of a node for an hour.")
]
Nodes = Annotated[int | None, typer.Option("--nodes", min=1, help="Size it for so many equal nodes.")]
Cpus = Annotated[
    float | None, typer.Option("--cpus-per-node", min=0.1, help="CPUs of a node; default: this machine's.")
]
Gpus = Annotated[float | None, typer.Option("--gpus-per-node", min=0, help="GPUs of a node; default: this machine's.")]
Images = Annotated[
    int | None, typer.Option("--images", min=1, help="As if there were so many images and nothing were made.")
]


def plan(
    target: Target,
    only: Only = None,
    assign: Assign = None,
    price: Price = None,
    nodes: Nodes = None,
    cpus_per_node: Cpus = None,
    gpus_per_node: Gpus = None,
    images: Images = None,
    quick: Annotated[bool, typer.Option("--quick", help="Time nothing: shards only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what `label` and `tokenize` would do now: every missing and stale shard, and what that will take.

    With --nodes: CPU- and GPU-hours, bytes, storage requests, time and cost on such a cluster (pipeline/sizing.py says
    how).
    """
    cluster = _cluster(nodes or 1, cpus_per_node, gpus_per_node) if nodes or images else None
    show_plan(settings(target, assign), only or [], as_json, quick, price, cluster=cluster, images=images)


def _cluster(nodes: int, cpus: float | None, gpus: float | None) -> Any:
    import os

    from pipeline.sizing import Cluster

    if gpus is None:
        import torch

        gpus = torch.cuda.device_count()
    return Cluster(nodes, cpus or len(os.sched_getaffinity(0)), gpus)


def show_plan(
    config: Any, only: list[str], as_json: bool, quick: bool = True, price: float | None = None, tokens: bool = True,
    cluster: Any = None, images: int | None = None,
) -> None:  # fmt: skip
    """Print the plan. quick: without an estimate. tokens: with what `tokenize` would do after `label`. cluster, images:
    size it for that cluster, and for so many images.
    """
    from collections import Counter
    from dataclasses import asdict
    from math import ceil

    from pipeline.cli.console import err, print_json, table
    from pipeline.dataset import Dataset
    from pipeline.estimate import estimate
    from pipeline.label import steps_of
    from pipeline.recipes import desired
    from pipeline.records import recipe_id
    from pipeline.run import make_plan, switched
    from tokenize_shards.tokenize import token_steps

    ds = Dataset.open(config.root)
    made, files = desired(config, only)
    steps = steps_of([target for target, _ in made])
    wanted = {str(r["modality"]): recipe_id(r) for _, recipes in made for r in recipes}
    if tokens and not only:
        steps += token_steps(ds, config, wanted)
    items = make_plan(ds, steps)
    counts = Counter((item.step, item.why) for item in items)
    if images:
        counts = Counter({(step.name, "missing"): ceil(images / ds.shard_size) for step in steps})
    other = switched(ds.manifest().modalities, wanted | dict(ref for step in steps for ref in step.outputs))
    known = {} if quick else estimate(ds, steps, items, {target.labeler: target for target, _ in made}, files, images)
    per_worker = price if cluster is None else None
    rows: list[dict[str, Any]] = []
    for step in steps:
        guess = known.get(step.name)
        rows.append({
            "step": step.name, "modalities": [m for m, _ in step.outputs], "recipes": [r for _, r in step.outputs],
            "missing": counts[step.name, "missing"], "stale": counts[step.name, "stale"],
            "samples": guess.samples if guess else 0,
            "seconds": guess and guess.seconds, "bytes": guess and guess.bytes, "how": guess.how if guess else "",
            "cost": round(guess.seconds / 3600 * per_worker, 4) if guess and guess.seconds and per_worker else None,
        })  # fmt: skip
    sizing = None
    if cluster is not None and not quick:
        sizing = _sizing(config, steps, _together(config, made, known), known, cluster, price)
    if as_json:
        print_json(
            {
                "todo": counts.total(), "steps": rows, "switched": other,
                "cluster": {**asdict(cluster), **asdict(sizing)} if sizing else None,
            }
        )  # fmt: skip
        return
    columns = ("step", "modalities", "missing", "stale", "seconds", "bytes", "cost", "how")
    table("To do, in shards", columns, [[_plain(row[c]) for c in columns] for row in rows])
    total = sum(row["seconds"] or 0 for row in rows)
    todo = f"{counts.total()} shards to do{f', about {total:,.0f} s of one worker' if total else ''}"
    err.print(f"  {todo}.", markup=False)
    for line in _too_long(config.limits.shard_seconds, known):
        err.print(f"  {line}", markup=False)
    if other:
        err.print(f"  Current once they are complete, as configured: {other}.", markup=False)
    if sizing is not None:
        _show_sizing(cluster, sizing, images)


def _too_long(most: float, known: Mapping[str, Any]) -> list[str]:
    """A sentence for each step whose shards would be taken for stuck."""
    each = {step: guess.seconds / guess.shards for step, guess in known.items() if guess.seconds and guess.shards}
    return [
        f"{step}: a shard takes about {seconds:,.0f} s, and is given up after {most:g}: raise limits.shard_seconds, or make "
        "smaller shards."
        for step, seconds in each.items()
        if seconds > most
    ]


def _together(config: Any, made: Sequence[Any], known: Mapping[str, Any]) -> set[str]:
    """Steps that look at the images together with an earlier one of the same workers."""
    from pipeline.label import pools_of

    first: dict[tuple[str, ...], str] = {}
    targets = [
        target for target, _ in made if target.labeler in known and [name for name, _ in target.reads] == ["rgb"]
    ]
    pools = pools_of(config, [target for target, _ in made])
    return {t.labeler for t in targets if first.setdefault(pools[t.labeler].steps, t.labeler) != t.labeler}


def _sizing(
    config: Any, steps: Sequence[Any], together: set[str], known: Mapping[str, Any], cluster: Any, price: float | None
) -> Any:
    from labelers.core.registry import all_labelers
    from pipeline.cli.console import err
    from pipeline.label import resources_of
    from pipeline.sizing import Load, size

    loads, slow, idle = [], [], 0
    for step in steps:
        guess = known.get(step.name)
        if guess is None:
            idle += len(step.outputs)
            continue
        resources = resources_of(config, step.name) if step.name in all_labelers() else None  # tokens take a CPU
        cpu, gpu = (resources.cpu, resources.gpu) if resources else (1.0, 0.0)
        if gpu and (not cluster.gpus or guess.on_gpu is False):
            slow += [step.name] if cluster.gpus else []
            gpu = 0.0
        reads, writes = len(step.reads), len(step.outputs)
        moved = guess.read_bytes, guess.bytes or 0
        loads.append(
            Load(step.name, guess.shards, guess.seconds, cpu, gpu, reads, writes, *moved, step.name in together)
        )
    if slow:
        names = ", ".join(slow)
        err.print(
            f"  {names}: timed without a GPU and counted as CPU-hours; plan on a GPU node for true figures.",
            markup=False,
        )
    return size(loads, cluster, price, idle)


def _show_sizing(cluster: Any, sizing: Any, images: int | None) -> None:
    from pipeline.cli.console import err, table

    hours = "needs a GPU" if sizing.hours is None else sizing.hours
    row = [
        sizing.cpu_hours, sizing.gpu_hours, hours, sizing.bytes / 1e9, sizing.gets, sizing.puts, sizing.lists,
        "" if sizing.cost is None else sizing.cost,
    ]  # fmt: skip
    what = f"{images:,} images on " if images else ""
    table(
        f"{what}{cluster.nodes} nodes of {cluster.cpus:g} CPUs and {cluster.gpus:g} GPUs",
        ("CPU-hours", "GPU-hours", "hours", "GB written", "GET", "PUT", "LIST", "cost"),
        [[_plain(value) for value in row]],
    )
    for step in sizing.unknown:
        err.print(f"  {step} is not counted: nothing is known of its speed yet.", markup=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value < 1:
        return f"{value:.4f}"
    return "" if value is None else ", ".join(value) if isinstance(value, list) else value
