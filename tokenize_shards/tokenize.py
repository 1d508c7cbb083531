"""The `tokenize` command's work: committed label shards to committed token shards, by the tokenizers the manifest
names.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from labelers.core.labeler import Labeler
from labelers.core.registry import all_modalities, get_labeler
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.execution.work import Pool
from pipeline.plan import Ref, Step
from pipeline.recipes import Target
from pipeline.records import Commit, recipe_id, shard_name
from pipeline.run import Progress, Report, bring_up_to_date
from pipeline.shard_task import look, replace
from pipeline.suspects import Suspects
from tokenize_shards.encode import encode_shard
from tokenize_shards.grammar import VERSIONS
from tokenize_shards.inputs import ShardViews
from tokenize_shards.shards import TokenMeta, verify_tokens, write_tokens
from tokenize_shards.table import TokenSpec, configure, specs
from tokenize_shards.tokenizer import Tokenizer, load_tokenizer
from tokenize_shards.values import width_of, without_tokenizer

VERSION = 1
GPU_SHARE = 0.5  # of a worker that encodes stored labels
GPU_READERS = 6  # threads that decode and cut for a worker with a GPU, which is much faster than one of them


@dataclass(frozen=True)
class TokenTarget:
    """Token modalities that are made together because they look at the same thing.

    labeler: what computes their modality on the view; None where labels are stored. tokenizers: token modality ->
    sha256, of those that have one. recipes: token modality -> recipe id.
    """

    name: str
    specs: tuple[TokenSpec, ...]
    labeler: Target | None
    tokenizers: Mapping[str, str]
    recipes: Mapping[str, str]
    reads: tuple[Ref, ...]
    views: int
    seed: int

    def encoders(self, ds: Dataset) -> dict[str, Tokenizer]:
        """What encodes each token modality."""
        fitted = {name: load_tokenizer(ds.weights_path(sha)) for name, sha in self.tokenizers.items()}
        return {**fitted, **without_tokenizer(self.specs)}

    def step(self) -> Step:
        return Step(self.name, self.reads, tuple((s.name, self.recipes[s.name]) for s in self.specs))


def table_of(config: Config) -> dict[str, TokenSpec]:
    """The token table of a run: its profile, with the configuration's settings. ConfigError for what no row has."""
    table = specs(config.tokens.profile)
    for name, values in config.tokens.settings.items():
        if name not in table:
            raise ConfigError(f"tokens.settings: no token modality is named {name!r}{_nearest(name, table)}")
        try:
            table[name] = configure(table[name], values)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"tokens.settings: {error}") from None
    return table


def _nearest(name: str, table: Mapping[str, TokenSpec]) -> str:
    near = difflib.get_close_matches(name, table, n=1)
    return f"; did you mean {near[0]!r}? " if near else f". Known: {', '.join(table)}."


def wanted_specs(ds: Dataset, config: Config, only: Sequence[str] = ()) -> list[TokenSpec]:
    """The token modalities of a run: those asked for, by name or pattern, or every row of the table whose source the
    manifest has.
    """
    table, have = table_of(config), ds.manifest().modalities
    asked = list(only) or config.tokens.modalities
    if asked is None:
        return [spec for spec in table.values() if spec.modality in have and not spec.extra]
    chosen: set[str] = set()
    for name in asked:
        fitting = [row for row in table if fnmatchcase(row, name)]
        if not fitting:
            raise ConfigError(f"no token modality is named {name!r}{_nearest(name, table)}")
        if name in table and table[name].modality not in have:
            raise ConfigError(f"{name}: {table[name].modality} is not labelled yet. Run `manymodal label` first.")
        chosen |= {row for row in fitting if table[row].modality in have}
    return [spec for spec in table.values() if spec.name in chosen]


def owners(ds: Dataset, config: Config, wanted: Sequence[TokenSpec]) -> list[TokenSpec]:
    """The rows whose tokenizers these use, each once: what `fit` fits. A shared one whose own modality is not labelled
    has nothing to be fitted on, and is left out; values have none.
    """
    table, have = table_of(config), ds.manifest().modalities
    found = {spec.owner for spec in wanted if table[spec.owner].modality in have and spec.kind != "values"}
    return [spec for spec in table.values() if spec.name in found]


def other_settings(ds: Dataset, spec: TokenSpec) -> str:
    """What the fitted tokenizer of a row was fitted with that the row has not now, in words; '' where they agree."""
    sha256 = ds.manifest().tokenizers[spec.name]
    try:
        then = json.loads(ds.storage.read_bytes(f"_fits/{sha256}.json")).get("spec")
    except FileNotFoundError:
        then = None  # brought from elsewhere
    now = json.loads(json.dumps(asdict(spec)))
    changed = [key for key in now if then is not None and then.get(key) != now[key]]
    return ", ".join(f"{key} {then[key]}, now {now[key]}" for key in changed if key in then)


def on_view(ds: Dataset, spec: TokenSpec) -> str:
    """The labeler that computes a row's modality on the view, as the manifest's recipe names it; '' where labels are
    stored.
    """
    modality = all_modalities().get(spec.modality)
    if modality is None or not modality.on_view:
        return ""
    return str(ds.recipe(ds.current(spec.modality))["labeler"])


def grouped(ds: Dataset, wanted: Sequence[TokenSpec]) -> dict[str, list[TokenSpec]]:
    """Specs by what they look at: a labeler run on views of one size, or a stored modality each; by a name for the
    group.
    """
    groups: dict[tuple[str, int], list[TokenSpec]] = {}
    for spec in wanted:
        labeler = on_view(ds, spec)
        groups.setdefault((labeler, spec.size) if labeler else (spec.name, -1), []).append(spec)
    return {"+".join(spec.name for spec in members): members for members in groups.values()}


def view_labeler(ds: Dataset, members: Sequence[TokenSpec]) -> Target | None:
    """The labeler, as the manifest's recipe has it, that computes these modalities on the view; None where they are
    stored.
    """
    name = on_view(ds, members[0])
    if not name:
        return None
    recipe = ds.recipe(ds.current(members[0].modality))
    files = {slot: weight["sha256"] for slot, weight in recipe["weights"].items()}
    return Target(name, recipe["params"], files, (), (), get_labeler(name).resources.batch)


def token_recipes(
    ds: Dataset, config: Config, members: Sequence[TokenSpec], current: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The recipes of one group, reading the recipes `current` names. ConfigError where a tokenizer is not fitted."""
    manifest = ds.manifest()
    computes = bool(on_view(ds, members[0]))
    read = "rgb" if computes else members[0].modality
    recipes = []
    for spec in members:
        sha256 = manifest.tokenizers.get(spec.owner)
        if spec.kind == "values":
            views = (config.tokens.views, config.tokens.seed) if spec.size else (1, 0)  # 0: of the whole photo
            params = {"spec": asdict(spec), "views": views[0], "seed": views[1], "computed": {}}
            recipes.append(_recipe(spec, params, {read: current[read]}))
            continue
        if sha256 is None:
            of = f", which uses the one of {spec.owner}" if spec.shares else ""
            raise ConfigError(f"{spec.name}{of}: no tokenizer is fitted. Run `manymodal fit` first.")
        if spec.owner == spec.name and (changed := other_settings(ds, spec)):
            raise ConfigError(f"{spec.name}: its tokenizer was fitted with {changed}. Run `manymodal fit` again.")
        computed = {spec.modality: current[spec.modality]} if computes else {}
        params = {"spec": asdict(spec), "views": config.tokens.views, "seed": config.tokens.seed, "computed": computed}
        params |= {"grammar": VERSIONS[spec.content]} if spec.content in VERSIONS else {}
        recipes.append(_recipe(spec, params, {read: current[read]}, sha256))
    return recipes


def _recipe(spec: TokenSpec, params: dict[str, Any], reads: dict[str, str], sha256: str = "") -> dict[str, Any]:
    """sha256: of the tokenizer; empty where there is none."""
    return {
        "modality": spec.name, "labeler": "tokenize", "version": VERSION, "params": params,
        "backend": f"{spec.kind}, fitted here" if sha256 else "the labels as they are",
        "weights": {"tokenizer": {"url": "fitted", "sha256": sha256}} if sha256 else {}, "reads": reads,
    }  # fmt: skip


def make_target(
    ds: Dataset, config: Config, name: str, members: Sequence[TokenSpec]
) -> tuple[TokenTarget, list[dict[str, Any]]]:
    """The target of one group, and its recipes. ConfigError where a tokenizer is not fitted."""
    manifest = ds.manifest()
    recipes = token_recipes(ds, config, members, manifest.modalities)
    target = TokenTarget(
        name, tuple(members), view_labeler(ds, members),
        {s.name: manifest.tokenizers[s.owner] for s in members if s.kind != "values"},
        {str(r["modality"]): recipe_id(r) for r in recipes}, tuple(recipes[0]["reads"].items()),
        recipes[0]["params"]["views"], recipes[0]["params"]["seed"],
    )  # fmt: skip
    return target, recipes


def fitted_specs(ds: Dataset, config: Config, only: Sequence[str] = ()) -> list[TokenSpec]:
    """The wanted token modalities, without those nobody asked for by name and that lack the tokenizer they need."""
    fitted, asked = ds.manifest().tokenizers, bool(only or config.tokens.modalities)
    return [spec for spec in wanted_specs(ds, config, only) if asked or spec.owner in fitted or spec.kind == "values"]


def token_steps(ds: Dataset, config: Config, current: Mapping[str, str], only: Sequence[str] = ()) -> list[Step]:
    """The steps of `tokenize` once the recipes in `current` are the current ones; for the plan."""
    steps = []
    for name, members in grouped(ds, fitted_specs(ds, config, only)).items():
        recipes = token_recipes(ds, config, members, {**ds.manifest().modalities, **current})
        outputs = tuple((str(recipe["modality"]), recipe_id(recipe)) for recipe in recipes)
        steps.append(Step(name, tuple(recipes[0]["reads"].items()), outputs))
    return steps


@dataclass(frozen=True)
class MakeTokenWorker:
    """Builds the worker of a token target in its process; pickles."""

    root: str
    target: TokenTarget

    def __call__(self) -> Callable[[int, int], tuple[Commit, ...]]:
        ds, target = Dataset.open(self.root), self.target
        tokenizers = target.encoders(ds)
        labeler = target.labeler.build(ds) if target.labeler else None
        threads = GPU_READERS if _has_gpu() else 1
        return lambda shard, attempt: tokenize_shard(ds, target, tokenizers, labeler, shard, attempt, threads)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def tokenize_shard(
    ds: Dataset,
    target: TokenTarget,
    tokenizers: Mapping[str, Tokenizer],
    labeler: Labeler | None,
    k: int,
    attempt: int = 1,
    threads: int = 1,
) -> tuple[Commit, ...]:
    """Encode every view of shard k for the target's token modalities, and commit what is due; the commits in force.

    attempt: from 1; after the first, which a worker did not survive, the labeler looks at one row at a time.
    """
    start = time.monotonic()
    due = look(ds, target.step(), k)
    commits = dict(due.current)
    todo = [spec for spec in target.specs if (spec.name, target.recipes[spec.name]) in due.outputs]
    if todo:
        shard = ShardViews(ds, k, range(target.views), target.seed, threads=threads)
        suspects = _suspects(ds, target, k, attempt)
        rows = encode_shard(shard, todo, target.reads[0][1], tokenizers, labeler, suspects)
        for spec in todo:
            recipe = target.recipes[spec.name]
            spent = round(time.monotonic() - start, 3)
            draft = Commit(spec.name, recipe, k, shard_name(k, "arrow"), 0, 0, "", attempt=attempt, seconds=spent)
            vocab, width = tokenizers[spec.name].vocab, width_of(rows[spec.name]) if spec.kind == "values" else 0
            meta = TokenMeta(spec.name, target.views, spec.tokens, vocab, recipe, due.inputs, width)
            write = partial(write_tokens, meta=meta, ids=ds.ids(k), rows=rows[spec.name])
            commits[spec.name, recipe] = replace(ds, draft, write, verify_tokens, inputs=due.inputs)
        if suspects is not None:
            suspects.clear()
    return tuple(commits[ref] for ref in target.step().outputs)


def _suspects(ds: Dataset, target: TokenTarget, k: int, attempt: int) -> Suspects | None:
    """Where rows that kill the labeler's workers are marked, once one has died on the shard, in this run or an earlier
    one.
    """
    if target.labeler is None:
        return None
    first = target.specs[0].name
    found = Suspects(ds.storage, f"{first}@{target.recipes[first]}", k)
    return found if attempt > 1 or (found.any_before() and found.marks()) else None


def tokenize(ds: Dataset, config: Config, only: Sequence[str] = (), progress: Progress = lambda *_: None) -> Report:
    """Bring the tokens of every wanted modality up to date."""
    wanted = fitted_specs(ds, config, only)
    if not wanted:
        raise ConfigError(f"{config.root}: no tokenizer is fitted. Run `manymodal fit` first.")
    made = [make_target(ds, config, name, members) for name, members in grouped(ds, wanted).items()]
    recipes = [recipe for _, found in made for recipe in found]
    pools = {target.name: _pool(config, target) for target, _ in made}
    return bring_up_to_date(ds, config, "tokenize", recipes, [target.step() for target, _ in made], pools, progress)


def _pool(config: Config, target: TokenTarget) -> Pool:
    """Workers of a target: a labeler's GPU share, or a part of one for a network of our own (used where there is one)."""
    if target.labeler is not None:
        return Pool(MakeTokenWorker(config.root, target), 1.0, get_labeler(target.labeler.labeler).resources.gpu)
    network = any(spec.kind == "vit_vq" for spec in target.specs)
    return Pool(MakeTokenWorker(config.root, target), 1.0, GPU_SHARE if network else 0.0)
