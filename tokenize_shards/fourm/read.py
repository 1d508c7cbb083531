"""Data sets in 4M's layout, read in: images through ingest, tokens and labels as committed shards, equal keys joined.

Tokens keep the crops they came with, whose settings another program chose; their recipe says so by the digest of those
settings, and they are never mixed with tokens of other crops. Labels are captions (text, or JSON of a text or several, of
which the first is taken) and, of a data set that this program exported, all it wrote.

A folder is the truth about the images it has: what it holds of them replaces what was imported before, and what it lacks
is null. Images it has not keep what an earlier import gave them, so that a data set can come in several folders.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from labelers.core.modality import Label, LabelError, Modality, Null
from labelers.core.registry import all_modalities
from pipeline.care.removed import REMOVED, removed
from pipeline.dataset import IMAGE_EXTS, Dataset
from pipeline.errors import ConfigError
from pipeline.ingest.ingest import ingest
from pipeline.plan import Ref
from pipeline.records import Commit, canonical_json, shard_name
from pipeline.shard_task import replace
from pipeline.shards import label_file, verify_labels, write_labels
from pipeline.storage import Storage, open_storage
from tokenize_shards.fourm.layout import CROPS, DESCRIPTION, Progress, read_members, tars_in
from tokenize_shards.shards import TokenMeta, open_tokens, verify_tokens, write_tokens
from tokenize_shards.table import TokenSpec, specs

LABELER = "import_4m"  # in recipes
ABSENT = Null("not in the data set it was imported from")


@dataclass
class Imported:
    """samples: in the data set now. tokens, labels: modality -> samples that have it."""

    samples: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Folder:
    """What is read. ids: key -> sample, here: those samples. crops: digest of its crop settings. gone: samples of the data
    set that somebody removed.
    """

    store: Storage
    ids: dict[str, str]
    here: set[str]
    crops: str
    gone: set[str]

    def held(self, name: str) -> tuple[str, set[str]]:
        """(digest of what a modality's tars have of the samples, those samples)."""
        found, there = hashlib.sha256(), set()
        for key, ext, data in read_members(self.store, name):
            if key in self.ids:
                found.update(f"{self.ids[key]}.{ext} {len(data)} ".encode())
                found.update(data)
                there.add(self.ids[key])
        return found.hexdigest()[:16], there

    def completed(
        self, ds: Dataset, k: int, rows: Sequence[Any], earlier: Ref, read: Callable[[str], Sequence[Any]]
    ) -> list[Any]:
        """The rows of shard k as they are committed: with what an earlier import, if there was one, has of images that are
        not here, and without what was removed. read: the rows of shard k of a recipe.
        """
        ids = ds.ids(k)
        if earlier[1] and not self.here.issuperset(ids) and ds.commit_of(*earlier, k) is not None:
            old = read(earlier[1])
            rows = [row if i in self.here else before for i, row, before in zip(ids, rows, old, strict=True)]
        return [Null(REMOVED) if i in self.gone else row for i, row in zip(ids, rows, strict=True)]


def read_layout(ds: Dataset, folder: str, progress: Progress = lambda *_: None) -> Imported:
    """Images, tokens and labels of a data set in 4M's layout, in a folder or at s3://. ConfigError for a folder that is none, or
    tokens that do not fit the row of the token table they belong to.
    """
    store = open_storage(folder)
    tars = tars_in(store, "rgb")
    if not tars:
        raise ConfigError(f"{folder}: has no rgb/*.tar; a data set in 4M's layout has one folder of tars a modality")
    report = Imported(ingest(ds, [f"{store.url}/{tar}" for tar in tars]).samples)
    ids = {
        key: hashlib.sha256(data).hexdigest()[:32] for key, ext, data in read_members(store, "rgb") if ext in IMAGE_EXTS
    }
    rows = _rows(store)
    read = _Folder(store, ids, set(ids.values()), _digest(store, CROPS)[:16], removed(ds))
    current = {}
    for i, (name, spec) in enumerate(rows.items()):
        recipe, report.tokens[name] = _read_tokens(ds, read, spec)
        current[name] = recipe
        progress("import", i + 1, len(rows), name)
    for modality in _labelled(store):
        current[modality.name], report.labels[modality.name] = _read_labels(ds, read, modality)
    ds.update_manifest(current)
    return report


def _rows(store: Storage) -> dict[str, TokenSpec]:
    """The row of the token table of each tok_ folder: from our own description, or the published table."""
    described = _description(store).get("tokens", {})
    known, found = specs("published"), {}
    for name in [key.rstrip("/") for key in store.list("") if key.startswith("tok_") and key.endswith("/")]:
        if name in described:
            found[name] = TokenSpec(**described[name])
        elif name in known:
            found[name] = known[name]
        else:
            raise ConfigError(f"{store.url}/{name}: no token modality is named {name!r}. Known: {', '.join(known)}.")
    return found


def _labelled(store: Storage) -> list[Modality]:
    """The modalities of the folders of labels that can be read."""
    folders = {key.rstrip("/") for key in store.list("") if key.endswith("/")}
    ours = set(_description(store).get("recipes", {}))
    return [m for name, m in all_modalities().items() if name in folders and (name == "caption" or name in ours)]


def _description(store: Storage) -> dict[str, Any]:
    """What this program wrote beside a data set that it exported; empty for others."""
    try:
        found = json.loads(store.read_bytes(DESCRIPTION))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{store.url}/{DESCRIPTION}: is no JSON ({error}). Fetch it again, or delete it.") from error
    return found if isinstance(found, dict) else {}


def _digest(store: Storage, folder: str) -> str:
    found = hashlib.sha256()
    for key, _, data in read_members(store, folder):
        found.update(key.encode() + data)
    return found.hexdigest()


def _put_recipe(ds: Dataset, read: _Folder, name: str, params: dict[str, Any], content: str) -> tuple[str, str]:
    """Record what a modality is made of; (recipe id, recipe of an earlier import that has more images, or "").

    params["folders"] names all that it is made of, (content, crops) each, the last one in force where two have an image.
    ConfigError where an earlier import has more images, and was made in another way.
    """
    folders, earlier = [[content, read.crops]], ""
    current = ds.manifest().modalities.get(name, "")
    before = ds.recipe(current) if current else {}
    if before.get("labeler") == LABELER and _more(ds, name, current, read.here):
        how = {key: value for key, value in before["params"].items() if key not in ("folders", "seed")}
        if canonical_json(how) != canonical_json(params):
            raise ConfigError(
                f"{read.store.url}/{name}: lacks images whose {name} was imported before, and was not made as theirs was "
                "(tokenizer, number of crops, or labeler). Import it into a data set of its own, or all from one folder."
            )
        # Data sets imported before recipes had folders: the recipe stands for them.
        old = before["params"].get("folders") or [[current, before["params"].get("seed", "").removeprefix(f"{CROPS} ")]]
        folders, earlier = [*(one for one in old if one != folders[0]), *folders], current
    params = {**params, "folders": folders}
    if "views" in params:
        params["seed"] = f"{CROPS} {'+'.join(sorted({crops for _, crops in folders}))}"
    kind = "tokens" if "views" in params else "labels"
    recipe = {"modality": name, "labeler": LABELER, "version": 1, "params": params, "weights": {},
              "reads": {"rgb": ds.current("rgb")}, "backend": f"imported {kind} (4M layout)"}  # fmt: skip
    return ds.put_recipe(recipe), earlier


def _more(ds: Dataset, name: str, recipe: str, here: set[str]) -> bool:
    """Whether a recipe has a modality of images that are not among these."""
    return any(set(ds.ids(k)) - here - commit.nulls.keys() for k, commit in ds.commits(name, recipe).items())


def _count(ds: Dataset, name: str, recipe: str) -> int:
    """Samples that have a modality."""
    return sum(commit.count - len(commit.nulls) for commit in ds.commits(name, recipe).values())


def _read_tokens(ds: Dataset, read: _Folder, spec: TokenSpec) -> tuple[str, int]:
    """Commit the tokens of one folder; (recipe id, samples that have them)."""
    content, there = read.held(spec.name)
    stream = _arrays(read.store, spec, read.ids)
    folder = f"{read.store.url}/{spec.name}"
    first = next(stream, None)
    if first is None:
        raise ConfigError(f"{folder}: holds no tokens of a sample that was read")
    views = len(first[1])
    weights = _description(read.store).get("recipes", {}).get(spec.name, {}).get("weights", {})
    tokenizer = weights.get("tokenizer", {}).get("sha256", "")
    params = {"spec": asdict(spec), "views": views, "computed": {}}
    params |= {"tokenizer": tokenizer} if tokenizer else {}  # by which others know what the tokens mean; it is not here
    made, earlier = _put_recipe(ds, read, spec.name, params, content)
    for k, rows in _by_shard(ds, itertools.chain([first], stream), there):
        for row in rows:
            if not isinstance(row, Null) and len(row) != views:
                raise ConfigError(f"{folder}: a sample has {len(row)} crops, others {views}")
        if ds.sound_commit(spec.name, made, k) is None:
            rows = read.completed(ds, k, rows, (spec.name, earlier), partial(_rows_of, ds, spec.name, k))
            meta = TokenMeta(spec.name, views, spec.tokens, spec.vocab or 0, made, _inputs(ds, k))
            write = partial(write_tokens, meta=meta, ids=ds.ids(k), rows=rows)
            replace(ds, Commit(spec.name, made, k, shard_name(k, "arrow"), 0, 0, ""), write, verify_tokens)
    return made, _count(ds, spec.name, made)


def _by_shard(ds: Dataset, entries: Iterator[tuple[str, Any]], there: set[str]) -> Iterator[tuple[int, list[Any]]]:
    """(shard, one entry a sample) of a stream of (id, entry), which is read no further than each shard needs; samples that
    are not in it are ABSENT. there: those that are.
    """
    waiting: dict[str, Any] = {}
    for k in ds.shards():
        wanted = there.intersection(ds.ids(k))
        while not wanted <= waiting.keys() and (entry := next(entries, None)) is not None:
            waiting[entry[0]] = entry[1]
        yield k, [waiting.pop(i, ABSENT) for i in ds.ids(k)]


def _rows_of(ds: Dataset, name: str, k: int, recipe: str) -> list[Any]:
    """The tokens of each sample of a shard, or why it has none."""
    shard = open_tokens(ds.open_shard(name, recipe, k)[0])
    assert shard.fixed is not None
    return [shard.fixed[row] if shard.valid[row] else Null(shard.reasons[i]) for row, i in enumerate(shard.ids)]


def _inputs(ds: Dataset, k: int) -> dict[str, str]:
    """The image shard that what was read belongs to."""
    commit = ds.sound_commit("rgb", ds.current("rgb"), k)
    return {"rgb": commit.sha256 if commit else ""}


def _read_labels(ds: Dataset, read: _Folder, modality: Modality) -> tuple[str, int]:
    """Commit the labels of one folder; (recipe id, samples that have one). What is no label is a null that says why."""
    name = modality.name
    content, there = read.held(name)
    params = {"made_by": _description(read.store).get("recipes", {}).get(name, {})}
    made, earlier = _put_recipe(ds, read, name, params, content)
    for k, rows in _by_shard(ds, _labels(read.store, modality, read.ids), there):
        if ds.sound_commit(name, made, k) is None:
            labels = read.completed(ds, k, rows, (name, earlier), partial(ds.labels, modality, k))
            inputs = _inputs(ds, k)
            draft = Commit(name, made, k, label_file(modality, k), 0, 0, "", inputs)
            write = partial(write_labels, modality=modality, ids=ds.ids(k), labels=labels, inputs=inputs)
            replace(ds, draft, write, partial(verify_labels, modality=modality))
    return made, _count(ds, name, made)


def _labels(store: Storage, modality: Modality, ids: dict[str, str]) -> Iterator[tuple[str, Label | Null]]:
    """(id, label) of the samples that were read."""
    for key, ext, data in read_members(store, modality.name):
        if key not in ids:
            continue
        try:
            label: Label | Null = _label(modality, ext, data)
            modality.check(label)
        except (LabelError, ValueError, KeyError, TypeError) as error:
            label = Null(f"bad entry: {' '.join(str(error).split())[:300]}")
        yield ids[key], label


def _label(modality: Modality, ext: str, data: bytes) -> Label:
    """A member of a tar as a label. LabelError, or what Python says, where it is none."""
    if ext not in ("txt", "json"):
        return modality.decode(data)
    if modality.kind != "text":
        return modality.decode(json.loads(data))
    text = data.decode("utf-8-sig") if ext == "txt" else json.loads(data)
    return str(text[0] if isinstance(text, list) else text).strip()


def _arrays(store: Storage, spec: TokenSpec, ids: dict[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    """(id, uint16 (crops, tokens)) of the samples that were read. ConfigError for arrays of another kind."""
    folder = f"{store.url}/{spec.name}"
    for key, ext, data in read_members(store, spec.name):
        if ext != "npy" or key not in ids:
            continue
        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ConfigError(f"{folder}: {key}.npy is no array of numbers ({error})") from error
        good = array.ndim == 2 and array.shape[1] == spec.tokens and np.issubdtype(array.dtype, np.integer)
        if not good or (array.size and (array.min() < 0 or array.max() >= (spec.vocab or 0))):
            raise ConfigError(
                f"{folder}: {key}.npy is {array.dtype} {array.shape}; expected integers (crops, {spec.tokens}), 0 to {spec.vocab}"
            )
        yield ids[key], array.astype(np.uint16)
