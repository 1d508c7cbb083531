"""The `label` command's work: from the configuration to committed label shards and the manifest that names them."""

from __future__ import annotations

from collections.abc import Sequence

from labelers.core.registry import get_labeler
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.execution.work import Pool
from pipeline.label_shard import MakeLabelWorker
from pipeline.plan import Step
from pipeline.recipes import Target, desired
from pipeline.run import Progress, Report, bring_up_to_date


def steps_of(targets: Sequence[Target]) -> list[Step]:
    return [Step(t.labeler, t.reads, t.outputs) for t in targets if t.outputs]


def label(ds: Dataset, config: Config, only: Sequence[str] = (), progress: Progress = lambda *_: None) -> Report:
    """Bring every modality the configuration asks for up to date."""
    made, files = desired(config, only)
    targets = [target for target, _ in made]
    for sha256, path in files.items():
        ds.put_weights(path, sha256)
    recipes = [recipe for _, recipes in made for recipe in recipes]
    pools = {t.labeler: pool_of(config, t) for t in targets}
    return bring_up_to_date(ds, config, "label", recipes, steps_of(targets), pools, progress)


def pool_of(config: Config, target: Target) -> Pool:
    """Workers of a target, with what one of them takes."""
    resources = get_labeler(target.labeler).resources
    return Pool(MakeLabelWorker(config.root, target, config.limits.batch_seconds), resources.cpu, resources.gpu)
