"""Data sets in 4M's layout, read in: images through ingest, tokens as committed token shards, equal keys joined.

Tokens keep the crops they came with, whose settings another program chose; their recipe says so by the digest of those
settings, and they are never mixed with tokens of other crops.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from labelers.core.modality import Null
from pipeline.dataset import IMAGE_EXTS, Dataset
from pipeline.errors import ConfigError
from pipeline.ingest.ingest import ingest
from pipeline.records import Commit, shard_name
from pipeline.shard_task import replace
from pipeline.storage import Storage, open_storage
from tokenize_shards.fourm.layout import CROPS, DESCRIPTION, Progress, read_members, tars_in
from tokenize_shards.shards import TokenMeta, verify_tokens, write_tokens
from tokenize_shards.table import TokenSpec, specs

ABSENT = Null("not in the data set it was imported from")


@dataclass
class Imported:
    """samples: in the data set now. tokens: token modality -> samples that have it."""

    samples: int = 0
    tokens: dict[str, int] = field(default_factory=dict)


def read_layout(ds: Dataset, folder: str, progress: Progress = lambda *_: None) -> Imported:
    """Images and tokens of a data set in 4M's layout, in a folder or at s3://. ConfigError for a folder that is none, or
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
    ds.update_manifest(current)
    return report


def _rows(store: Storage) -> dict[str, TokenSpec]:
    """The row of the token table of each tok_ folder: from our own description, or the published table."""
    described: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        described = json.loads(store.read_bytes(DESCRIPTION)).get("tokens", {})
    known, found = specs("published"), {}
    for name in [key.rstrip("/") for key in store.list("") if key.startswith("tok_") and key.endswith("/")]:
        if name in described:
            found[name] = TokenSpec(**described[name])
        elif name in known:
            found[name] = known[name]
        else:
            raise ConfigError(f"{store.url}/{name}: no token modality is named {name!r}. Known: {', '.join(known)}.")
    return found


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
    waiting = dict([first])
    for k in ds.shards():
        wanted = set(ds.ids(k))
        while not wanted <= waiting.keys() and (entry := next(stream, None)) is not None:
            if len(entry[1]) != views:
                raise ConfigError(f"{folder}: sample {entry[0]} has {len(entry[1])} crops, others {views}")
            waiting[entry[0]] = entry[1]
        rows = [waiting.pop(i, ABSENT) for i in ds.ids(k)]
        have += sum(not isinstance(row, Null) for row in rows)
        commit = ds.sound_commit("rgb", rgb, k)
        if ds.sound_commit(spec.name, made, k) is not None:
            continue
        meta = TokenMeta(spec.name, views, spec.tokens, spec.vocab or 0, made, {"rgb": commit.sha256 if commit else ""})
        write = partial(write_tokens, meta=meta, ids=ds.ids(k), rows=rows)
        replace(ds, Commit(spec.name, made, k, shard_name(k, "arrow"), 0, 0, ""), write, verify_tokens)
    return made, have


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
