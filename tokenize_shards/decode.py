"""Token shards back into label shards: what a modality's labels are after their tokens, as a recipe of its own.

One view is decoded, in the frame of that view: maps of the tokenizer's size, boxes and landmarks in pixels of a square
picture. Such a recipe never becomes the current one by itself; it is there to be looked at, and to be compared with the
labels it came from (`frame.py`): what is lost between the two is what tokenization costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from labelers.core.depth_map import DepthMap
from labelers.core.modality import Label, Modality, Null
from labelers.core.registry import all_modalities
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.execution.work import Pool
from pipeline.plan import Ref, Step
from pipeline.records import Commit
from pipeline.run import Progress, Report, execute
from pipeline.shard_task import look, replace
from pipeline.shards import label_file, verify_labels, write_labels
from pipeline.survey import write_pack
from tokenize_shards.encode import CHUNK
from tokenize_shards.rebuild import spec_of
from tokenize_shards.rgb import RGB
from tokenize_shards.shards import TokenShard, open_tokens
from tokenize_shards.table import TokenSpec
from tokenize_shards.tokenize import GPU_SHARE
from tokenize_shards.tokenizer import Tokenizer, load_tokenizer

LABELER = "decode"  # in recipes
VERSION = 1


def modality_of(name: str) -> Modality:
    """The modality a row's tokens decode to. ConfigError where nothing here can write it."""
    found = RGB if name == "rgb" else all_modalities().get(name)
    if found is None:
        raise ConfigError(f"{name}: no labeler here makes it, so nothing here can write it.")
    return found


def is_decoded(ds: Dataset, ref: Ref) -> bool:
    """Whether a recipe's labels came from tokens."""
    return bool(ds.recipe(ref[1])["labeler"] == LABELER)


@dataclass(frozen=True)
class DecodeTarget:
    """One token recipe and the labels that are to be made of one of its views."""

    tokens: Ref
    spec: TokenSpec
    tokenizer: str  # sha256
    view: int
    output: Ref

    def step(self) -> Step:
        return Step(f"{LABELER} {self.tokens[0]}@{self.tokens[1]}", (self.tokens,), (self.output,))


def decode_recipe(ds: Dataset, tokens: Ref, view: int) -> dict[str, Any]:
    """The recipe of the labels that a view of a token recipe decodes to. ConfigError where there is no such view."""
    made = ds.recipe(tokens[1])
    params = made["params"]
    if not 0 <= view < params["views"]:
        raise ConfigError(f"{tokens[0]}@{tokens[1]}: has views 0..{params['views'] - 1}, not {view}.")
    digest = made["weights"]["tokenizer"]["sha256"]
    return {
        "modality": spec_of(made).modality, "labeler": LABELER, "version": VERSION,
        "backend": f"{tokens[0]} decoded ({params['spec']['kind']} {digest[:8]}, view {view})",
        "params": {"view": view, "seed": params["seed"], "spec": params["spec"], "computed": params["computed"]},
        "weights": {"tokenizer": made["weights"]["tokenizer"]}, "reads": {tokens[0]: tokens[1]},
    }  # fmt: skip


def target_of(ds: Dataset, ref: Ref) -> DecodeTarget | None:
    """The target that makes one decoded recipe; None where it is of another version of this program."""
    recipe = ds.recipe(ref[1])
    if recipe["labeler"] != LABELER or recipe["version"] != VERSION:
        return None
    (tokens,) = recipe["reads"].items()
    digest = recipe["weights"]["tokenizer"]["sha256"]
    return DecodeTarget(tokens, spec_of(recipe), digest, recipe["params"]["view"], ref)


def decode_steps_of(ds: Dataset, config: Config, refs: Sequence[Ref]) -> list[tuple[Step, Pool]]:
    """Steps and pools that make these recipes again; those that are not decoded are left out."""
    targets = [target for ref in refs if (target := target_of(ds, ref)) is not None]
    return [(target.step(), pool_of(config, target)) for target in targets]


def pool_of(config: Config, target: DecodeTarget) -> Pool:
    return Pool(MakeDecodeWorker(config.root, target), 1.0, GPU_SHARE if target.spec.kind == "vit_vq" else 0.0)


def decode(
    ds: Dataset, config: Config, only: Sequence[str] = (), view: int = 0, progress: Progress = lambda *_: None
) -> tuple[Report, list[Ref]]:
    """Decode the current tokens of the named token modalities (all where none is named); (report, label recipes)."""
    have = {name: recipe for name, recipe in ds.manifest().modalities.items() if name.startswith("tok_")}
    unknown = [name for name in only if name not in have]
    if unknown or not have:
        raise ConfigError(
            f"{unknown[0] if unknown else ds.storage.url}: has no tokens. There are: {', '.join(have) or 'none'}."
        )
    targets, problems = [], {name: why for name in only or have if (why := _problem(ds.recipe(have[name])))}
    if problems and (only or len(problems) == len(have)):
        name = next(iter(problems))
        raise ConfigError(f"{name}: {problems[name]}")
    for name in [name for name in only or have if name not in problems]:
        recipe = decode_recipe(ds, (name, have[name]), view)
        modality_of(recipe["modality"])
        targets.append(target_of(ds, (recipe["modality"], ds.put_recipe(recipe))))
    chosen = [target for target in targets if target is not None]
    steps = [target.step() for target in chosen]
    report = execute(ds, config, LABELER, steps, {t.step().name: pool_of(config, t) for t in chosen}, progress)
    for target in chosen:
        if report.done:
            write_pack(ds.storage, *target.output)
    return report, [target.output for target in chosen]


def _problem(recipe: Mapping[str, Any]) -> str:
    """Why tokens of a recipe cannot be decoded; "" where they can."""
    if recipe["params"]["spec"]["kind"] == "values":
        return "holds the labels as they are, so there is nothing to decode."
    return "" if recipe["weights"] else "its tokens were imported without their tokenizer, so they cannot be decoded."


@dataclass(frozen=True)
class MakeDecodeWorker:
    """Builds the worker of a target in its process; pickles."""

    root: str
    target: DecodeTarget

    def __call__(self) -> Callable[[int, int], tuple[Commit, ...]]:
        ds, target = Dataset.open(self.root), self.target
        tokenizer = load_tokenizer(ds.weights_path(target.tokenizer))
        return lambda shard, attempt: decode_shard(ds, target, tokenizer, shard, attempt)


def decode_shard(
    ds: Dataset, target: DecodeTarget, tokenizer: Tokenizer, k: int, attempt: int = 1
) -> tuple[Commit, ...]:
    """Decode one view of shard k and commit the labels, if that is due; the commit in force."""
    start = time.monotonic()
    due = look(ds, target.step(), k)
    if not due.outputs:
        return (due.current[target.output],)
    modality = modality_of(target.output[0])
    shard = open_tokens(ds.open_shard(*target.tokens, k)[0])
    labels = decode_rows(shard, target, tokenizer)
    file = label_file(modality, k)
    draft = Commit(*target.output, k, file, 0, 0, "", seconds=round(time.monotonic() - start, 3), attempt=attempt)
    write = partial(write_labels, modality=modality, ids=ds.ids(k), labels=labels, inputs=due.inputs)
    return (replace(ds, draft, write, partial(verify_labels, modality=modality), inputs=due.inputs),)


def decode_rows(shard: TokenShard, target: DecodeTarget, tokenizer: Tokenizer) -> list[Label | Null]:
    """The labels of one view, in the order of the shard."""
    found: list[Label | Null] = []
    for at in range(0, len(shard), CHUNK):
        rows = [shard.row(i, target.view) for i in range(at, min(at + CHUNK, len(shard)))]
        real = [row for row in rows if row is not None]
        made = iter(decode_views(target.spec, tokenizer, real))
        found += [Null(shard.reasons[shard.ids[at + i]]) if row is None else next(made) for i, row in enumerate(rows)]
    return found


def decode_views(spec: TokenSpec, tokenizer: Tokenizer, rows: Sequence[np.ndarray]) -> list[Label | Null]:
    """Tokens of views as labels of the modality."""
    if not len(rows):
        return []
    made = tokenizer.decode(rows if tokenizer.tokens is None else np.stack(rows))
    return [label if isinstance(label, Null) else as_label(spec, label) for label in made]


def as_label(spec: TokenSpec, value: Any, unit: str = "relative") -> Label:
    """What a tokenizer takes or gives of one view, as the modality has it. unit: of depth; tokens keep its order and
    proportions alone.
    """
    if spec.content == "depth":
        return DepthMap(np.asarray(value, np.float32), unit)  # type: ignore[arg-type]
    return value
