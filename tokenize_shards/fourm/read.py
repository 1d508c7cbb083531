"""Data sets in 4M's layout, read in: images through ingest, tokens and labels as committed shards, equal keys joined.

Tokens keep the crops they came with, whose settings another program chose; their recipe says so by the digest of those
settings, and they are never mixed with tokens of other crops. Labels are captions (text, or JSON of a text or several, of
which the first is taken) and, of a data set that this program exported, all it wrote.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from labelers.core.modality import Label, LabelError, Modality, Null
from labelers.core.registry import all_modalities
from pipeline.dataset import IMAGE_EXTS, Dataset
from pipeline.errors import ConfigError
from pipeline.ingest.ingest import ingest
from pipeline.records import Commit, shard_name
from pipeline.shard_task import replace
from pipeline.shards import label_file, verify_labels, write_labels
from pipeline.storage import Storage, open_storage
from tokenize_shards.fourm.layout import CROPS, DESCRIPTION, Progress, read_members, tars_in
from tokenize_shards.shards import TokenMeta, verify_tokens, write_tokens
from tokenize_shards.table import TokenSpec, specs

ABSENT = Null("not in the data set it was imported from")


@dataclass
class Imported:
    """samples: in the data set now. tokens, labels: modality -> samples that have it."""

    samples: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)


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
    crops = _digest(store, CROPS)
    current = {}
    for i, (name, spec) in enumerate(rows.items()):
        recipe, report.tokens[name] = _read_tokens(ds, store, spec, ids, crops)
        current[name] = recipe
        progress("import", i + 1, len(rows), name)
    for modality in _labelled(store):
        current[modality.name], report.labels[modality.name] = _read_labels(ds, store, modality, ids)
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


def _read_tokens(ds: Dataset, store: Storage, spec: TokenSpec, ids: dict[str, str], crops: str) -> tuple[str, int]:
    """Commit the tokens of one folder; (recipe id, samples that have them)."""
    stream = _arrays(store, spec, ids)
    folder = f"{store.url}/{spec.name}"
    first = next(stream, None)
    if first is None:
        raise ConfigError(f"{folder}: holds no tokens of a sample that was read")
    views = len(first[1])
    params = {"spec": asdict(spec), "views": views, "seed": f"crop_settings {crops[:16]}", "computed": {}}
    rgb = ds.current("rgb")
    recipe = {"modality": spec.name, "labeler": "import_4m", "version": 1, "params": params, "reads": {"rgb": rgb},
              "backend": "imported tokens (4M layout)", "weights": {}}  # fmt: skip
    made, have = ds.put_recipe(recipe), 0
    for k, rows in _by_shard(ds, itertools.chain([first], stream)):
        for row in rows:
            if not isinstance(row, Null) and len(row) != views:
                raise ConfigError(f"{folder}: a sample has {len(row)} crops, others {views}")
        have += sum(not isinstance(row, Null) for row in rows)
        if ds.sound_commit(spec.name, made, k) is None:
            meta = TokenMeta(spec.name, views, spec.tokens, spec.vocab or 0, made, _inputs(ds, k))
            write = partial(write_tokens, meta=meta, ids=ds.ids(k), rows=rows)
            replace(ds, Commit(spec.name, made, k, shard_name(k, "arrow"), 0, 0, ""), write, verify_tokens)
    return made, have


def _by_shard(ds: Dataset, entries: Iterator[tuple[str, Any]]) -> Iterator[tuple[int, list[Any]]]:
    """(shard, one entry a sample) of a stream of (id, entry), which is read no further than each shard needs; samples that
    are not in it are ABSENT.
    """
    waiting: dict[str, Any] = {}
    for k in ds.shards():
        wanted = set(ds.ids(k))
        while not wanted <= waiting.keys() and (entry := next(entries, None)) is not None:
            waiting[entry[0]] = entry[1]
        yield k, [waiting.pop(i, ABSENT) for i in ds.ids(k)]


def _inputs(ds: Dataset, k: int) -> dict[str, str]:
    """The image shard that what was read belongs to."""
    commit = ds.sound_commit("rgb", ds.current("rgb"), k)
    return {"rgb": commit.sha256 if commit else ""}


def _read_labels(ds: Dataset, store: Storage, modality: Modality, ids: dict[str, str]) -> tuple[str, int]:
    """Commit the labels of one folder; (recipe id, samples that have one). What is no label is a null that says why."""
    came = _description(store).get("recipes", {}).get(modality.name, {})
    recipe = {"modality": modality.name, "labeler": "import_4m", "version": 1, "params": {"made_by": came}, "weights": {},
              "reads": {"rgb": ds.current("rgb")}, "backend": "imported labels (4M layout)"}  # fmt: skip
    made, have = ds.put_recipe(recipe), 0
    for k, rows in _by_shard(ds, _labels(store, modality, ids)):
        have += sum(not isinstance(row, Null) for row in rows)
        if ds.sound_commit(modality.name, made, k) is None:
            inputs = _inputs(ds, k)
            draft = Commit(modality.name, made, k, label_file(modality, k), 0, 0, "", inputs)
            write = partial(write_labels, modality=modality, ids=ds.ids(k), labels=rows, inputs=inputs)
            replace(ds, draft, write, partial(verify_labels, modality=modality))
    return made, have


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
