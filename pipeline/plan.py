"""The plan: what is desired minus what is committed. Pure functions over plain records; no storage, ray or torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.records import Commit

Ref = tuple[str, str]  # (modality, recipe)
Why = Literal["missing", "stale"]


@dataclass(frozen=True)
class Step:
    """One node of the graph of work: a named pool that reads some modalities and writes others, shard by shard."""

    name: str
    reads: tuple[Ref, ...]
    outputs: tuple[Ref, ...]


@dataclass(frozen=True)
class Item:
    """One piece of work: `step` on shard `shard`, once the items in `after` are done. Idempotent; may run twice."""

    step: str
    shard: int
    why: Why
    after: tuple[tuple[str, int], ...] = ()


def inputs_of(step: Step, shard: int, committed: Mapping[Ref, Mapping[int, Commit]]) -> dict[str, str] | None:
    """The digests of what the step would read of this shard, by modality; None where something is not committed."""
    found = {}
    for ref in step.reads:
        commit = committed.get(ref, {}).get(shard)
        if commit is None:
            return None
        found[ref[0]] = commit.sha256
    return found


def plan(steps: Sequence[Step], shards: Sequence[int], committed: Mapping[Ref, Mapping[int, Commit]]) -> list[Item]:
    """Items in an order that can be run: shard by shard within a step, steps in the order given (reads before readers).

    An output is missing where it has no commit, stale where its commit was made from other bytes than are committed
    now, or where something it reads is itself about to be redone.
    """
    items: list[Item] = []
    redone: dict[tuple[Ref, int], tuple[str, int]] = {}
    for step in steps:
        for shard in shards:
            after = tuple(sorted({redone[ref, shard] for ref in step.reads if (ref, shard) in redone}))
            why = _why(step, shard, committed)
            if why is None and after:
                why = "stale"
            if why is not None:
                items.append(Item(step.name, shard, why, after))
                redone |= {(ref, shard): (step.name, shard) for ref in step.outputs}
    return items


def is_stale(step: Step, shard: int, committed: Mapping[Ref, Mapping[int, Commit]]) -> bool:
    """Whether a committed output of the step was made from other bytes than are committed now."""
    return _why(step, shard, committed) == "stale"


def _why(step: Step, shard: int, committed: Mapping[Ref, Mapping[int, Commit]]) -> Why | None:
    inputs = inputs_of(step, shard, committed)
    for ref in step.outputs:
        commit = committed.get(ref, {}).get(shard)
        if commit is None:
            return "missing"
        if inputs is not None and dict(commit.inputs) != inputs:
            return "stale"
    return None
