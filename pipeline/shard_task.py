"""What every worker does around its own computation: find what is due on a shard, and replace it through the commit
protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.commits import Verify, commit_key, commit_shard, retract
from pipeline.dataset import Dataset
from pipeline.errors import DamageError, Incomplete
from pipeline.lock import exclusive
from pipeline.plan import Ref, Step, inputs_of
from pipeline.records import Commit


@dataclass(frozen=True)
class Due:
    """One shard's state for a step: digests of what it reads, outputs to make, commits of those that are current."""

    inputs: dict[str, str]
    outputs: tuple[Ref, ...]
    current: dict[Ref, Commit]


def look(ds: Dataset, step: Step, k: int, seen: dict[Ref, Commit] | None = None) -> Due:
    """What is due of a step on shard k. Incomplete where something it reads is not committed.

    seen: sound commits of what is read, those that others have just looked at; what is looked at here is added.
    """
    seen = {} if seen is None else seen
    for ref in (*step.reads, *step.outputs):
        if ref not in seen and (commit := ds.sound_commit(*ref, k)) is not None:
            seen[ref] = commit
    held = {ref: {k: seen[ref]} for ref in (*step.reads, *step.outputs) if ref in seen}
    inputs = inputs_of(step, k, held)
    if inputs is None:
        raise Incomplete(
            f"{step.name}: shard {k} of something it reads is not committed. Run what makes it first, or `manymodal repair`."
        )
    current = {ref: held[ref][k] for ref in step.outputs if ref in held and dict(held[ref][k].inputs) == inputs}
    return Due(inputs, tuple(ref for ref in step.outputs if ref not in current), current)


def replace(
    ds: Dataset,
    draft: Commit,
    write: Callable[[Path], None],
    verify: Verify,
    ids: Sequence[str] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Commit:
    """Write one shard aside and commit it, in place of an unsound or stale commit if there is one; the commit in force.

    ids: what it must hold, in order; those of the index where None. inputs: what it is made from; a sound commit that
    another attempt made from the same meanwhile is accepted. Only one attempt at a time takes a commit away.
    """
    ids = ds.ids(draft.shard) if ids is None else ids
    with ds.storage.scratch() as folder:
        path = folder / draft.file
        write(path)
        if not _in_the_way(ds, draft):
            return commit_shard(ds.storage, draft, path, ids, verify)
        with exclusive(ds.storage, "replace"):
            sound = ds.sound_commit(draft.modality, draft.recipe, draft.shard)
            if sound is not None and inputs is not None and dict(sound.inputs) == dict(inputs):
                return sound
            _in_the_way(ds, draft, withdraw=True)
            return commit_shard(ds.storage, draft, path, ids, verify)


def _in_the_way(ds: Dataset, draft: Commit, withdraw: bool = False) -> bool:
    """Whether there is a commit of the shard; withdraw: take it away."""
    try:
        old = ds.commit_of(draft.modality, draft.recipe, draft.shard)
    except DamageError:
        if withdraw:  # the record alone: a data file that checks out is committed again
            ds.storage.delete(commit_key(draft.modality, draft.recipe, draft.shard))
        return True
    if old is not None and withdraw:
        retract(ds.storage, old)
    return old is not None
