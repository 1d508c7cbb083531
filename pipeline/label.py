"""The `label` command's work: from the configuration to committed label shards and the manifest that names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labelers.core.labeler import Resources
from labelers.core.registry import get_labeler
from pipeline.care.forget import drop_sources
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.execution.work import Pool
from pipeline.label_shard import MakeLabelCrew, MakeLabelWorker
from pipeline.licences import first_uses
from pipeline.plan import Step
from pipeline.recipes import Target, desired
from pipeline.run import Progress, Report, bring_up_to_date


def steps_of(targets: Sequence[Target]) -> list[Step]:
    return [Step(t.labeler, t.reads, t.outputs) for t in targets if t.outputs]


def label(
    ds: Dataset, config: Config, only: Sequence[str] = (), progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:  # fmt: skip
    """Bring every modality the configuration asks for up to date. say: is told, before the work begins, of licences that
    forbid commercial use where a backend under one is used first.
    """
    made, files = desired(config, only)
    targets = [target for target, _ in made]
    for sentence in first_uses(ds, [recipe for _, recipes in made for recipe in recipes]):
        say(sentence)
    for sha256, path in files.items():
        ds.put_weights(path, sha256)
    recipes = [recipe for _, recipes in made for recipe in recipes]
    try:
        return bring_up_to_date(ds, config, "label", recipes, steps_of(targets), pools_of(config, targets), progress)
    finally:
        drop_sources(ds)


def resources_of(config: Config, labeler: str) -> Resources:
    """What a worker of the labeler takes: as it says itself, or as the configuration does."""
    own = get_labeler(labeler).resources
    wish = config.labelers[labeler].resources if labeler in config.labelers else None
    if wish is None:
        return own
    return Resources(
        own.cpu if wish.cpu is None else wish.cpu,
        own.gpu if wish.gpu is None else wish.gpu,
        own.batch,
        {**own.custom, **wish.custom},
    )


def pool_of(config: Config, target: Target) -> Pool:
    """Workers of one target, with what one of them takes."""
    need = resources_of(config, target.labeler)
    make = MakeLabelWorker(config.root, target, config.limits.batch_seconds)
    return Pool(make, need.cpu, need.gpu, need.custom)


def pools_of(config: Config, targets: Sequence[Target]) -> dict[str, Pool]:
    """The pool of every target, by labeler. Targets that fit into one worker share a pool, and so a decode: those
    without a GPU with each other, those with one as long as their shares of it do not exceed a whole one.
    """
    groups: list[list[Target]] = []
    for target in targets:
        need = resources_of(config, target.labeler)
        for group in groups if config.share_decode else []:
            others = [resources_of(config, member.labeler) for member in group]
            alike = all(bool(o.gpu) == bool(need.gpu) and o.custom == need.custom for o in others)
            if alike and sum(o.gpu for o in others) + need.gpu <= 1:
                group.append(target)
                break
        else:
            groups.append([target])
    return {member.labeler: pool for group in groups for pool in [_shared(config, group)] for member in group}


def _shared(config: Config, group: Sequence[Target]) -> Pool:
    """One pool for a group; one labeler works at a time, but all of them stay on the GPU."""
    needs = [resources_of(config, target.labeler) for target in group]
    cpu = max(need.cpu for need in needs)
    make = MakeLabelCrew(config.root, tuple(group), config.limits.batch_seconds, max(1, int(cpu)))
    names = tuple(target.labeler for target in group)
    return Pool(make, cpu, sum(need.gpu for need in needs), needs[0].custom, names)
