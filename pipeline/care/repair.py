"""Make again what `verify` found damaged, and nothing else.

An image shard is put together again from its sources; labels and tokens are made again by what their recipes name. A
damaged file and its commit go first, so nobody reads them meanwhile. Old recipes are repaired like current ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from pipeline.care.finding import Finding
from pipeline.commits import commit_key
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.execution.work import Pool
from pipeline.ingest.again import candidates_of, known_sources
from pipeline.ingest.ingest import Taken, take, verify_rgb
from pipeline.plan import Item, Ref, Step, plan
from pipeline.records import SOURCE, Commit, folder_of, shard_name
from pipeline.run import Progress, committed, execute
from pipeline.shard_task import replace
from pipeline.shards import NULL_EXT, write_tar

UNMAKEABLE = (
    "this program has no such labeler, or another version of it, or what it was made with is not to be had any more"
)
StepsOf = Callable[[Sequence[Ref]], list[tuple[Step, Pool]]]  # what makes these recipes again, readers after the read


@dataclass
class Repair:
    """repaired: findings that are mended. identical: how many have the committed sha256 again. left: (finding, why)."""

    repaired: list[Finding] = field(default_factory=list)
    identical: int = 0
    left: list[tuple[Finding, str]] = field(default_factory=list)


def repair(ds: Dataset, config: Config, findings: Sequence[Finding], steps_of: StepsOf, progress: Progress) -> Repair:
    """Mend the findings; what cannot be mended is left, with the reason."""
    result = Repair()
    todo: list[Finding] = []
    for finding in dict.fromkeys(findings):
        if finding.kind == "index":
            result.left.append(
                (finding, "an index shard is the one thing nothing can make again; restore it from a copy")
            )
        elif (finding.modality, finding.recipe) == SOURCE:
            _note(ds, result, finding, _image_shard(ds, config, finding))
        else:
            todo.append(finding)
    for finding in todo:
        _withdraw(ds, finding)
    _make_again(ds, config, todo, steps_of, result, progress)
    return result


def _withdraw(ds: Dataset, finding: Finding) -> None:
    """Take a damaged shard out of sight: commit first. A sound file that only lacks its commit is left to be adopted."""
    ds.storage.delete(commit_key(finding.modality, finding.recipe, finding.shard))
    if finding.kind in ("uncommitted", "not made"):
        return
    for key in ds.storage.list(folder_of(finding.modality, finding.recipe)):
        if f"/{shard_name(finding.shard, '')}" in key:
            ds.storage.delete(key)


def _make_again(
    ds: Dataset, config: Config, todo: Sequence[Finding], steps_of: StepsOf, result: Repair, progress: Progress
) -> None:
    refs = sorted({(f.modality, f.recipe) for f in todo})
    made = steps_of(refs)
    makeable = {ref for step, _ in made for ref in step.outputs}
    for finding in [f for f in todo if (f.modality, f.recipe) not in makeable]:
        result.left.append((finding, UNMAKEABLE))
    wanted = {(f.modality, f.recipe, f.shard) for f in todo}
    steps = [step for step, _ in made]
    items = _only(plan(steps, ds.shards(), committed(ds, steps)), steps, wanted)
    report = execute(ds, config, "repair", steps, {step.name: pool for step, pool in made}, progress, items)
    for finding in [f for f in todo if (f.modality, f.recipe) in makeable]:
        commit = ds.sound_commit(finding.modality, finding.recipe, finding.shard)
        error = next((e for e in report.errors if f"shard {finding.shard}:" in e), "it was not made")
        _note(ds, result, finding, "" if commit is not None else error)


def _only(items: Sequence[Item], steps: Sequence[Step], wanted: set[tuple[str, str, int]]) -> list[Item]:
    """The items that make what is wanted, waiting for each other alone."""
    makes: Mapping[str, Step] = {step.name: step for step in steps}
    kept = [i for i in items if any((*ref, i.shard) in wanted for ref in makes[i.step].outputs)]
    names = {(i.step, i.shard) for i in kept}
    return [dataclasses.replace(i, after=tuple(a for a in i.after if a in names)) for i in kept]


def _note(ds: Dataset, result: Repair, finding: Finding, error: str) -> None:
    if error:
        result.left.append((finding, error))
        return
    result.repaired.append(finding)
    commit = ds.sound_commit(finding.modality, finding.recipe, finding.shard)
    result.identical += commit is not None and finding.sha256 in ("", commit.sha256)


def _image_shard(ds: Dataset, config: Config, finding: Finding) -> str:
    """Put an rgb shard together again from its sources; '' or why that cannot be done."""
    k, rows = finding.shard, ds.index(finding.shard)
    old = ds.commit_of("rgb", finding.recipe, k) if finding.kind != "commit" else None
    removed = dict(old.nulls) if old else {}
    wanted = {row.uri: row for row in rows if row.id not in removed}
    found: dict[str, Taken] = {}
    for candidate in candidates_of(ds, wanted, known_sources(ds, config.sources)):
        taken = take(candidate)
        if isinstance(taken, Taken) and taken.row.sha256 == wanted[candidate.uri].sha256:
            found[taken.row.id] = taken
    lacking = [row for row in wanted.values() if row.id not in found]
    if lacking:
        return (
            f"{len(lacking)} of its {len(rows)} images are not at their source any more, or changed: {lacking[0].uri}"
        )
    members = [(r.id, {NULL_EXT: removed[r.id].encode()} if r.id in removed else found[r.id].members) for r in rows]
    _withdraw(ds, finding)
    draft = Commit("rgb", finding.recipe, k, shard_name(k, "tar"), 0, 0, "")
    replace(ds, draft, partial(write_tar, modality="rgb", samples=members, inputs={}), verify_rgb)
    return ""
