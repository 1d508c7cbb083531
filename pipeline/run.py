"""One run: plan, execute, record. The same for labels and tokens: steps, pools, and what to do when all is committed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.execution.local import LocalExecutor
from pipeline.execution.ray_executor import RayExecutor, RayUnavailable, start_ray
from pipeline.execution.work import Done, Executor, Pool
from pipeline.plan import Item, Ref, Step, plan
from pipeline.records import Commit, canonical_json
from pipeline.survey import survey, write_pack

Progress = Callable[[str, int, int, str], None]  # (step, done, total, note)


@dataclass
class Report:
    """What a run did. todo, done, failed: shards. nulls: labels that are explicit nulls. rows: per step, for the
    summary table.
    """

    command: str
    executor: str = ""
    todo: int = 0
    done: int = 0
    failed: int = 0
    seconds: float = 0.0
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class RunLog:
    """A run's folder: resolved config, plan, events.jsonl while it goes, report.json at the end."""

    def __init__(self, ds: Dataset, command: str, config: Config) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self.ds, self.prefix, self.events = (
            ds,
            f"_runs/{stamp}_{command}_{uuid.uuid4().hex[:6]}",
            list[dict[str, Any]](),
        )
        ds.storage.put_if_absent(f"{self.prefix}/config.json", canonical_json(config.model_dump(mode="json")))

    def event(self, **values: Any) -> None:
        self.events.append({"time": round(time.time(), 3), **values})

    def close(self, report: Mapping[str, Any]) -> None:
        lines = "".join(json.dumps(event, sort_keys=True) + "\n" for event in self.events)
        self.ds.storage.put_if_absent(f"{self.prefix}/events.jsonl", lines.encode())
        self.ds.storage.put_if_absent(f"{self.prefix}/report.json", canonical_json(report))


def record_run(ds: Dataset, config: Config, command: str, **values: Any) -> None:
    """Keep the report of a command that runs in one piece (ingest, fit, train)."""
    RunLog(ds, command, config).close({"command": command, **values})


def reports_of(ds: Dataset, command: str = "") -> list[dict[str, Any]]:
    """The reports of the runs of one command, or of all, oldest first."""
    found = []
    for folder in ds.storage.list("_runs"):
        if f"_{command}_" not in folder and command:
            continue
        try:
            found.append(json.loads(ds.storage.read_bytes(f"{folder}report.json")))
        except (FileNotFoundError, ValueError):
            continue  # a run that was killed has none
    return found


def last_reports(ds: Dataset) -> dict[str, dict[str, Any]]:
    """The newest report of each command that did something, by command."""
    return {report["command"]: report for report in reports_of(ds)}


def committed(ds: Dataset, steps: Sequence[Step]) -> dict[Ref, dict[int, Commit]]:
    """Every sound commit of every recipe that the steps read or write."""
    refs = {ref for step in steps for ref in (*step.reads, *step.outputs)}
    return {ref: ds.commits(*ref) for ref in sorted(refs)}


def make_plan(ds: Dataset, steps: Sequence[Step]) -> list[Item]:
    return plan(steps, ds.shards(), committed(ds, steps))


def choose_executor(config: Config, items: Sequence[Item], notes: list[str]) -> Executor:
    """The executor of that name; `ray` falls back to `local`, with a note, where Ray cannot start on this machine, and
    is not started for nothing.
    """
    if config.executor == "local" or not items:
        return LocalExecutor()
    try:
        start_ray()
    except RayUnavailable as error:
        notes.append(f"Ray could not start ({error}); ran in this process instead.")
        return LocalExecutor()
    return RayExecutor(config.limits)


def execute(
    ds: Dataset,
    config: Config,
    command: str,
    steps: Sequence[Step],
    pools: Mapping[str, Pool],
    progress: Progress,
    items: Sequence[Item] | None = None,
) -> Report:
    """Run the items, which are those of the steps' plan where None is given, and report. Without any, nothing at all is
    written.
    """
    start = time.monotonic()
    items = make_plan(ds, steps) if items is None else items
    report = Report(command, todo=len(items))
    totals = {step.name: sum(item.step == step.name for item in items) for step in steps}
    report.steps = {
        name: {"todo": n, "done": 0, "failed": 0, "samples": 0, "nulls": 0, "seconds": 0.0, "in_labelers": 0.0}
        for name, n in totals.items()
    }
    if not items:
        report.executor = "none"
        return report
    log = RunLog(ds, command, config)
    ds.storage.put_if_absent(f"{log.prefix}/plan.json", canonical_json([asdict(item) for item in items]))

    def on_done(outcome: Done) -> None:
        row = report.steps[outcome.step]
        row["seconds"] = round(row["seconds"] + outcome.seconds, 3)
        row["in_labelers"] = round(row["in_labelers"] + outcome.busy, 3)
        if outcome.error:
            report.failed, row["failed"] = report.failed + 1, row["failed"] + 1
            report.errors.append(f"{outcome.step}, shard {outcome.shard}: {outcome.error}")
        else:
            report.done, row["done"] = report.done + 1, row["done"] + 1
            row["samples"] += max((c.count for c in outcome.commits), default=0)
            row["nulls"] += sum(len(c.nulls) for c in outcome.commits)
        log.event(step=outcome.step, shard=outcome.shard, seconds=round(outcome.seconds, 3), error=outcome.error)
        progress(outcome.step, row["done"] + row["failed"], row["todo"], outcome.error)

    try:
        executor = choose_executor(config, items, report.notes)
        report.executor = executor.name
        executor.run(pools, items, on_done)
    finally:
        report.seconds = round(time.monotonic() - start, 3)
        log.close({**asdict(report), "items": sum(row["samples"] for row in report.steps.values())})
    return report


def switched(current: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """The modalities that have another current recipe than is wanted, and both, in words; '' where there are none."""
    other = [name for name, recipe in wanted.items() if current.get(name, recipe) != recipe]
    return ", ".join(f"{name}@{wanted[name]} (before: {current[name]})" for name in other)


def bring_up_to_date(
    ds: Dataset, config: Config, command: str, recipes: Sequence[Mapping[str, Any]], steps: Sequence[Step],
    pools: Mapping[str, Pool], progress: Progress,
) -> Report:  # fmt: skip
    """Make every output of the steps that is missing or stale, and let the manifest follow.

    A modality without a current recipe gets its one at once, so that progress can be seen; one that has another recipe
    switches only when the new one is complete, so that readers never lose what they had.
    """
    named = {ds.put_recipe(recipe): str(recipe["modality"]) for recipe in recipes}
    current = ds.manifest().modalities
    ds.update_manifest({name: rid for rid, name in named.items() if name not in current})
    report = execute(ds, config, command, steps, pools, progress)
    outputs, shards = {ref for step in steps for ref in step.outputs}, ds.shards()
    look = write_pack if report.done else survey
    held = {ref: len(look(ds.storage, *ref).commits) for ref in sorted(outputs)}
    complete = {
        name: rid for rid, name in named.items() if (name, rid) not in outputs or held[name, rid] == len(shards)
    }
    names = switched(current, complete)
    if names:
        report.notes.append(f"Current now, as configured: {names}.")
    ds.update_manifest(complete)
    return report
