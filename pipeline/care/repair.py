"""Make again what `verify` found damaged, and nothing else.

An image shard that only lost its commit is committed again, any other put together again from its sources; labels and
tokens are made again by what their recipes name, and after them what reads them, where they came out with other bytes.
A damaged file and its commit go first, so nobody reads them meanwhile; but only where it can be made again. Old recipes
are repaired like current ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest

from labelers.core.images import BadImage, decode, encode_png
from pipeline.care.finding import Finding
from pipeline.care.removed import REMOVED, removed
from pipeline.care.verify import other_inputs, refs_on
from pipeline.commits import commit_key, commit_shard, data_key, retract
from pipeline.config import Config
from pipeline.dataset import IMAGE_EXTS, Dataset
from pipeline.execution.work import Pool
from pipeline.ingest.again import candidates_of, known_sources
from pipeline.ingest.ingest import Taken, take, verify_rgb
from pipeline.plan import Item, Ref, Step, plan
from pipeline.records import SOURCE, Commit, IndexRow, folder_of, shard_name
from pipeline.run import Progress, committed, execute
from pipeline.shard_task import replace
from pipeline.shards import HEADER, NULL_EXT, iter_tar, read_inputs, write_tar

UNMAKEABLE = (
    "this program has no such labeler, or another version of it, or what it was made with is not to be had any more"
)
Place = tuple[str, str, int]  # modality, recipe, shard
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
        elif finding.kind == "removed":
            result.left.append((finding, "only that command takes it out of every recipe"))
        elif (finding.modality, finding.recipe) == SOURCE:
            _note(ds, result, finding, _image_shard(ds, config, finding))
        else:
            todo.append(finding)
    seen = 0
    for _ in range(1 + len(refs_on(ds))):  # no chain of readers is longer
        _make_again(ds, config, todo, steps_of, result, progress)
        mended, seen = result.repaired[seen:], len(result.repaired)
        todo = _outdated(ds, {f.shard for f in mended}, {_place(f) for f, _ in result.left}) if mended else []
        if not todo:
            break
    return result


def _outdated(ds: Dataset, shards: set[int], left: set[Place]) -> list[Finding]:
    """What was made from other bytes than these shards have now, after a repair; without what is left already."""
    surveys = {ref: ds.survey(*ref) for ref in refs_on(ds)}
    commits = [found.commits[k] for found in surveys.values() for k in sorted(shards & set(found.commits))]
    found = [finding for commit in commits if (finding := other_inputs(ds, commit, surveys)) is not None]
    return [finding for finding in found if _place(finding) not in left]


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
    made = steps_of(sorted({(f.modality, f.recipe) for f in todo}))
    steps = [step for step, _ in made]
    order = {ref: number for number, step in enumerate(steps) for ref in step.outputs}
    lost, wanted, can = {_place(f) for f, _ in result.left}, set[Place](), list[Finding]()
    for finding in sorted(todo, key=lambda f: order.get((f.modality, f.recipe), -1)):  # readers after the read
        why = _hindrance(ds, finding, steps, wanted, lost)
        if why:
            result.left.append((finding, why))
            lost.add(_place(finding))
        else:
            can.append(finding)
            wanted.add(_place(finding))
    for finding in can:
        _withdraw(ds, finding)
    items = _only(plan(steps, ds.shards(), committed(ds, steps)), steps, wanted)
    report = execute(ds, config, "repair", steps, {step.name: pool for step, pool in made}, progress, items)
    for finding in can:
        commit = ds.sound_commit(finding.modality, finding.recipe, finding.shard)
        error = next((e for e in report.errors if f"shard {finding.shard}:" in e), "it was not made")
        _note(ds, result, finding, "" if commit is not None else error)


def _place(finding: Finding) -> Place:
    return finding.modality, finding.recipe, finding.shard


def _hindrance(ds: Dataset, finding: Finding, steps: Sequence[Step], wanted: set[Place], lost: set[Place]) -> str:
    """Why a shard cannot be made again, so that what is there of it must stay; '' where it can. wanted: what is made
    before it. lost: what will not be.
    """
    step = next((step for step in steps if (finding.modality, finding.recipe) in step.outputs), None)
    if step is None:
        return UNMAKEABLE
    if finding.shard not in ds.shards():
        return ""  # a file of no sample may go
    for read in step.reads:
        place = (*read, finding.shard)
        if place in lost or (place not in wanted and ds.sound_commit(*place) is None):
            return f"{read[0]}, of which it is made, is damaged itself"
    return ""


def _only(items: Sequence[Item], steps: Sequence[Step], wanted: set[Place]) -> list[Item]:
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
    """Commit an rgb shard again, or put it together again from its sources; '' or why that cannot be done."""
    k = finding.shard
    if k not in ds.shards():
        return "the index has no such shard: restore that from a copy, or end an ingest that was killed by running it again"
    rows, marks = ds.index(k), removed(ds)
    old = ds.commit_of("rgb", finding.recipe, k) if finding.kind != "commit" else None
    nulls = {**(old.nulls if old else {}), **{row.id: REMOVED for row in rows if row.id in marks}}
    draft = Commit("rgb", finding.recipe, k, shard_name(k, "tar"), 0, 0, "")
    if old is None and _holds_images(ds, draft, nulls):
        ds.storage.delete(commit_key("rgb", finding.recipe, k))
        commit_shard(ds.storage, draft, ds.storage.local(data_key(draft)), ds.ids(k), verify_rgb)
        return ""
    wanted = {row.uri: row for row in rows if row.id not in nulls}
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
    members = [(r.id, {NULL_EXT: nulls[r.id].encode()} if r.id in nulls else found[r.id].members) for r in rows]
    retract(ds.storage, draft)  # a file without a commit, too: it would be adopted
    replace(ds, draft, partial(write_tar, modality="rgb", samples=members, inputs={}), verify_rgb)
    return ""


def _holds_images(ds: Dataset, draft: Commit, nulls: Mapping[str, str]) -> bool:
    """Whether the file of an rgb shard is there, with the very images of the index and with these nulls."""
    try:
        path = ds.storage.local(data_key(draft), fresh=True)
        read_inputs(path)
        samples = (sample for sample in iter_tar(path) if sample[0] != HEADER)
        for row, sample in zip_longest(ds.index(draft.shard), samples):
            if row is None or sample is None or sample[0] != row.id:
                return False
            null = nulls.get(row.id)
            if not (_is_image(row, sample[1]) if null is None else sample[1] == {NULL_EXT: null.encode()}):
                return False
    except Exception:  # whatever a damaged file raises when it is read: it is not committed again
        return False
    return True


def _is_image(row: IndexRow, members: Mapping[str, bytes]) -> bool:
    """Whether a stored image is that of the index row: the source's bytes, or a PNG that ingest made of its pixels."""
    images = [data for ext, data in members.items() if ext in IMAGE_EXTS]
    if len(images) != 1:
        return False
    if hashlib.sha256(images[0]).hexdigest() == row.sha256:
        return True
    try:
        image = decode(images[0]).image
    except BadImage:
        return False
    # No digest says what ingest wrote; but a damaged file is not what its own pixels are written as.
    return image.shape[:2] == (row.height, row.width) and encode_png(image) == images[0]
