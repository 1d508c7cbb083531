"""The configuration of a data set: one typed YAML file. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from labelers.core.labeler import Labeler
from labelers.core.registry import all_labelers, get_labeler
from pipeline.errors import ConfigError
from pipeline.storage import open_storage

CONFIG_NAME = "manymodal.yaml"
M = TypeVar("M", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ResourcesConfig(_Section):
    """What one worker of a labeler takes, where it is not what the labeler says: CPU cores, share of a GPU, and further
    resources that nodes declare, by name.
    """

    cpu: float | None = Field(None, ge=0)
    gpu: float | None = Field(None, ge=0)
    custom: dict[str, float] = {}


class LabelerConfig(_Section):
    """One labeler's settings. enabled: null leaves it to the labeler. params: its own parameters. weights: URL by slot.
    store: keep dense features in shards. resources: of a worker; they change no byte of a label.
    """

    enabled: bool | None = None
    params: dict[str, Any] = {}
    weights: dict[str, str] = {}
    store: bool = False
    batch: int | None = Field(None, ge=1)
    resources: ResourcesConfig = ResourcesConfig()


class TextConfig(_Section):
    """The vocabulary of all text and structures. corpus: text files (.txt, .jsonl, .parquet; .gz too) to learn it from
    beside the captions. vocab_size: ids at most. min_frequency: of a pair of pieces that becomes one. file: a
    vocabulary to import instead, tokenizer.json in 4M's layout or BERT's vocab.txt.
    """

    corpus: list[str] = []
    vocab_size: int = Field(30_000, ge=1)
    min_frequency: int = Field(2, ge=1)
    file: str | None = None


class TokensConfig(_Section):
    """Tokenization. profile: which sizes of grids and vocabularies. views: crops a sample, view 0 the centre. seed: of
    the views. holdout: share of photos left out of fitting. settings: token modality -> values that replace those of its
    row in the token table.
    """

    profile: Literal["offline", "published"] = "offline"
    settings: dict[str, dict[str, Any]] = {}
    text: TextConfig = TextConfig()

    views: int = Field(4, ge=1, le=64)
    seed: int = 0
    holdout: float = Field(0.15, ge=0.0, lt=1.0)
    fit_seconds: float = Field(12.0, gt=0, description="time to fit each network tokenizer")
    fit_steps: int | None = Field(None, ge=1, description="steps instead of seconds: reproducible")
    fit_buffer: int | None = Field(
        None, ge=1, description="views a fit holds in memory; more are streamed. null: 1600, of networks on views 240"
    )
    fit_workers: int = Field(1, ge=1, description="processes that fit together, under Ray Train")
    modalities: list[str] | None = Field(
        None, description="token modalities or patterns (tok_*@448); null: every one whose source is labelled"
    )


class Limits(_Section):
    """Seconds after which a run gives up on something. batch: a call of a labeler, whose samples are then tried in
    halves. stall: a run in which no shard ends. On Ray also: shard: a worker on one shard, which is then replaced.
    start: a worker that does not come up. silence: a node or a worker that gives no sign of life. node: how long to
    wait for a node that can hold a worker, where none can now; clusters that grow on demand need minutes.
    """

    batch_seconds: float = Field(600.0, ge=0)
    shard_seconds: float = Field(3600.0, gt=0)
    stall_seconds: float = Field(7200.0, gt=0)
    start_seconds: float = Field(900.0, gt=0)
    silence_seconds: float = Field(60.0, gt=0)
    node_seconds: float = Field(0.0, ge=0)


class Config(_Section):
    """All settings of a data set and its runs."""

    root: str = "."
    name: str = "photos"
    shard_size: int = Field(32, ge=1, le=1_000_000)
    sources: list[str] = []
    executor: Literal["ray", "local"] = "ray"
    share_decode: bool = Field(True, description="labelers that fit into one worker look at the same decoded images")
    labelers: dict[str, LabelerConfig] = {}
    tokens: TokensConfig = TokensConfig()
    limits: Limits = Limits()
    train: dict[str, Any] = Field({}, description="settings of the trainer; `manymodal train` checks them")

    def makers(self) -> dict[str, str]:
        """Which labeler makes each modality of a run, by modality, in the registry's order.

        A modality has one maker. A labeler that is switched on here takes the place of one that is on by default, for the
        modalities that both produce. ConfigError where two claim one with equal right.
        """
        claims: dict[str, dict[bool, str]] = {}
        for name, cls in all_labelers().items():
            asked = self.labelers.get(name, LabelerConfig()).enabled
            if asked or (asked is None and cls.default_on):
                for modality in cls.produces:
                    claim = claims.setdefault(modality.name, {})
                    if bool(asked) in claim:
                        raise ConfigError(_two_makers(modality.name, claim[bool(asked)], name))
                    claim[bool(asked)] = name
        return {modality: claim.get(True) or claim[False] for modality, claim in claims.items()}

    def enabled_labelers(self) -> dict[str, LabelerConfig]:
        """The labelers of a run, by name, in the registry's order: those that make some modality of it."""
        makers = set(self.makers().values())
        return {name: self.labelers.get(name, LabelerConfig()) for name in all_labelers() if name in makers}

    def labeler(self, name: str, files: Mapping[str, Path] | None = None) -> Labeler:
        """The labeler of that name with this configuration's parameters."""
        return make_labeler(name, self.labelers.get(name, LabelerConfig()).params, files)


def _two_makers(modality: str, a: str, b: str) -> str:
    return (
        f"labelers: {a} and {b} would both make {modality}; a run makes a modality in one way. Switch one off: "
        f"--set labelers.{a}.enabled=false, or {b}. What it made before stays beside the other's as a recipe of its own: "
        f"`manymodal diff` compares them, `manymodal promote` makes either current again."
    )


def make_labeler(name: str, params: Mapping[str, Any], files: Mapping[str, Path] | None = None) -> Labeler:
    """A labeler from plain values. ConfigError for an unknown name or parameter."""
    try:
        cls = get_labeler(name)
    except KeyError as error:
        raise ConfigError(f"labelers: {error.args[0]}") from None
    return cls(validate(cls.Params, dict(params), f"labelers.{name}.params"), files)


def _nearest(model: type[BaseModel], location: Sequence[str | int]) -> str:
    """'; did you mean ...?' for an unknown key at `location` below `model`, or ''."""
    fields = model
    for part in location[:-1]:
        if part in fields.model_fields:
            fields = _section_in(fields.model_fields[str(part)].annotation) or fields
    known = list(fields.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f". Known: {', '.join(known)}."


def _section_in(annotation: Any) -> Any:
    """The model in an annotation, also as the items or values of a collection, or a branch of a union; None if none."""
    found = (_section_in(arg) for arg in get_args(annotation))
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for section in found if section is not None), None)


def _keys(values: Any, error: Mapping[str, Any]) -> list[str | int]:
    """The location of an error by the keys of the values, without the branches of unions that pydantic names there."""
    found = []
    for part in error["loc"]:
        if isinstance(values, Mapping) and (part in values or error["type"] == "missing"):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
        else:
            continue
        found.append(part)
    return found


def _first(errors: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first error; in a union, that of the branch that fits what was given, and so got furthest into it."""
    at = _keys(values, errors[0])
    if len(at) == len(errors[0]["loc"]):
        return errors[0]
    return max((e for e in errors if _keys(values, e)[: len(at)] == at), key=lambda e: len(_keys(values, e)))


def validate(model: type[M], values: Mapping[str, Any], where: str) -> M:
    """Values as the typed model. ConfigError naming the key, the value, and for an unknown key the nearest known one."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = _first(error.errors(), values)
        keys = _keys(values, first)
        path = ".".join([p for p in (where,) if p] + [str(part) for part in keys])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{path}: unknown key{_nearest(model, keys)}") from None
        raise ConfigError(f"{path}: {first['msg']}, got {first.get('input')!r}") from None


def _assign(values: dict[str, Any], assignment: str) -> None:
    """Apply one `--set a.b=c` to nested dictionaries; the value is read as YAML."""
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {assignment}: expected key.key=value")
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {assignment}: {parent} is no section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not YAML: {' '.join(str(error).split())}") from None


def load_config(target: str, assignments: Sequence[str] = ()) -> Config:
    """The configuration for a command's argument: a YAML file, or a data set's root (with or without a manymodal.yaml
    in it).

    Both may lie at s3://bucket/prefix. A relative `root` in a file counts from the file's folder. ConfigError for
    anything that cannot be used.
    """
    folder, _, name = target.rstrip("/").rpartition("/")
    if name.endswith((".yaml", ".yml")):
        values = _read_yaml(folder or ("/" if target.startswith("/") else "."), name)
        if values is None:
            raise ConfigError(f"{target}: no such file. `manymodal init FOLDER` writes a commented one.")
        root = str(values.get("root", "."))
        values["root"] = root if "://" in root else _joined(folder, root)
    else:
        values = _read_yaml(target, CONFIG_NAME) or {}
        values["root"] = target
    for assignment in assignments:
        _assign(values, assignment)
    config = validate(Config, values, "")
    _refuse_job_copy(config.root)
    for name, settings in config.labelers.items():
        labeler = make_labeler(name, settings.params)
        slots = [*labeler.weights, *labeler.sources]
        unknown = set(settings.weights) - set(slots)
        if unknown:
            raise ConfigError(
                f"labelers.{name}.weights: unknown slot {min(unknown)!r}. Known: {', '.join(slots) or 'none'}."
            )
    return config


def _joined(folder: str, root: str) -> str:
    """A root as a file in `folder` names it."""
    if "://" in folder:
        return folder if root == "." else f"{folder}/{root.removeprefix('./')}"
    return str(Path(folder) / os.path.expanduser(root))


def _refuse_job_copy(root: str) -> None:
    """A job's working directory is a copy that Ray deletes: a data set must not lie there."""
    if "://" not in root and "runtime_resources/working_dir_files" in str(Path(root).absolute()):
        raise ConfigError(
            f"root: {root!r} is relative, and would lie in the copy of the working directory that Ray made for this job "
            "and deletes. Give an absolute path that every node sees, or s3://bucket/prefix."
        )


def _read_yaml(folder: str, name: str) -> dict[str, Any] | None:
    """What a YAML file in a folder or bucket says; None where there is none."""
    path = f"{folder}/{name}"
    try:
        data = open_storage(folder).read_bytes(name)
    except FileNotFoundError:
        return None
    try:
        values = yaml.safe_load(data.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found a {type(values).__name__}")
    return values
