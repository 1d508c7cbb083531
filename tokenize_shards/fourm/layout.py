"""The shard layout 4M trains from: one folder of tars a modality, equal stems, and nothing that has to be unpickled.

    <out>/rgb/shard-00000.tar             <id>.jpg | .png | .webp
    <out>/tok_rgb/shard-00000.tar         <id>.npy   int16 (crops, tokens)
    <out>/caption/shard-00000.tar         <id>.txt; other sequences <id>.json, as their label is
    <out>/crop_settings/shard-00000.tar   <id>.npy   int32 (crops, 5): top, left, height, width, flip, in image pixels
    <out>/export.json                     the recipe of each modality, and the row of the token table of each tok_

Its readers walk all tars in step and lose the rest of a shard where a key is missing, so a sample that lacks one of the
exported modalities is left out of all of them, and counted.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from labelers.core.modality import Modality, Null
from labelers.core.registry import all_modalities
from pipeline.dataset import IMAGE_EXTS, Dataset
from pipeline.errors import ConfigError
from pipeline.records import canonical_json
from pipeline.storage import Storage, open_storage
from tokenize_shards.rebuild import spec_of
from tokenize_shards.shards import open_tokens
from tokenize_shards.views import view_of

CROPS = "crop_settings"
DESCRIPTION = "export.json"
MAX_TOKEN = np.iinfo(np.int16).max
Progress = Callable[[str, int, int, str], None]


@dataclass
class Exported:
    """samples: written. left_out: id -> the modality it lacks. modalities: folders written."""

    samples: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    modalities: list[str] = field(default_factory=list)


Column = Mapping[str, tuple[str, bytes]]  # id -> (extension, bytes), the samples that have the modality


def export(
    ds: Dataset, out: str, only: Sequence[str] = (), progress: Progress = lambda *_: None
) -> Exported:  # fmt: skip
    """Write the current manifest's images, fixed-width tokens and sequence labels. out: a folder, or s3://. only: these
    modalities, with rgb.

    ConfigError for a modality that is not there or not complete, or has tokens that do not fit int16.
    """
    columns, store = _columns(ds, only), open_storage(out)
    report = Exported(modalities=[*columns, *([CROPS] if any(n.startswith("tok_") for n in columns) else [])])
    for k in ds.shards():
        held = {name: read(k) for name, read in columns.items()}
        whole = [i for i in ds.ids(k) if all(i in column for column in held.values())]
        for i in set(ds.ids(k)) - set(whole):
            report.left_out[i] = next(name for name, column in held.items() if i not in column)
        if CROPS in report.modalities:
            held[CROPS] = _crops(ds, k, _views_of(ds, columns))
        for name, column in held.items():
            store.put(f"{name}/shard-{k:05d}.tar", _tar([(i, *column[i]) for i in whole]))
        report.samples += len(whole)
        progress("export", k + 1, len(ds.shards()), "")
    store.put(DESCRIPTION, canonical_json(_description(ds, columns)))
    return report


def _columns(ds: Dataset, only: Sequence[str]) -> dict[str, Callable[[int], Column]]:
    """How each exported modality is read; the label stands for tokens of sequences, which 4M makes when it reads."""
    current, known = ds.manifest().modalities, all_modalities()
    found: dict[str, Callable[[int], Column]] = {"rgb": lambda k: _images(ds, k)}
    for name in only or current:
        if name not in current:
            raise ConfigError(f"export: {name!r} is not in the data set. There are: {', '.join(current)}.")
        if name.startswith("tok_"):
            spec = spec_of(ds.recipe(current[name]))
            if spec.kind not in ("sequence", "values"):
                found[name] = lambda k, name=name: _tokens(ds, name, k)  # type: ignore[misc]
                continue
            name = spec.modality
        modality = known.get(name)
        if modality is not None and modality.stored and (only or modality.kind in ("text", "record")):
            found[name] = lambda k, modality=modality: _labels(ds, modality, k)  # type: ignore[misc]
    return found


def _images(ds: Dataset, k: int) -> Column:
    pairs = ((key, ext, data) for key, members in ds.image_files(k) for ext, data in members.items())
    return {key: (ext, data) for key, ext, data in pairs if ext in IMAGE_EXTS}


def _tokens(ds: Dataset, name: str, k: int) -> Column:
    path, _ = ds.open_shard(name, ds.current(name), k)
    shard = open_tokens(path)
    if shard.fixed is None:
        raise ConfigError(f"export: {name} has no fixed number of tokens")
    if shard.meta.vocab > MAX_TOKEN + 1:
        raise ConfigError(f"export: {name} has a vocabulary of {shard.meta.vocab}; the layout stores int16")
    return {i: ("npy", _npy(shard.fixed[row].astype(np.int16))) for row, i in enumerate(shard.ids) if shard.valid[row]}


def _labels(ds: Dataset, modality: Modality, k: int) -> Column:
    def member(label: Any) -> tuple[str, bytes]:
        if isinstance(label, str):
            return "txt", label.encode()
        raw = modality.encode(label)
        return (
            (modality.ext, raw) if modality.container == "tar" else ("json", json.dumps(raw, sort_keys=True).encode())
        )

    pairs = zip(ds.ids(k), ds.labels(modality, k), strict=True)
    return {i: member(label) for i, label in pairs if not isinstance(label, Null)}


def _views_of(ds: Dataset, columns: Mapping[str, Any]) -> tuple[int, int]:
    """(views, seed) that all exported tokens were made with. ConfigError where they differ: crops would not match."""
    made = {n: ds.recipe(ds.current(n))["params"] for n in columns if n.startswith("tok_")}
    found = {(params["views"], params["seed"]) for params in made.values()}
    if len(found) != 1:
        raise ConfigError(f"export: {', '.join(made)} were not cut by the same views; tokenize them with one seed")
    views, seed = next(iter(found))
    if not isinstance(seed, int):
        raise ConfigError(f"export: {', '.join(made)} were imported; their crop settings lie where they came from")
    return views, seed


def _crops(ds: Dataset, k: int, views: tuple[int, int]) -> Column:
    made = {}
    for row in ds.index(k):
        cut = [view_of(row.id, views[1], v, row.width, row.height) for v in range(views[0])]
        made[row.id] = ("npy", _npy(np.array([[v.y0, v.x0, v.side, v.side, v.flip] for v in cut], np.int32)))
    return made


def _npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    return data.getvalue()


def _description(ds: Dataset, columns: Mapping[str, Any]) -> dict[str, Any]:
    recipes = {name: ds.current(name) for name in columns}
    rows = {n: asdict(spec_of(ds.recipe(r))) for n, r in recipes.items() if n.startswith("tok_")}
    return {"name": ds.name, "recipes": {n: ds.recipe(r) for n, r in recipes.items()}, "tokens": rows}


def _tar(members: Sequence[tuple[str, str, bytes]]) -> bytes:
    """A tar with fixed times and owners; equal content gives equal bytes."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, ext, value in members:
            info = tarfile.TarInfo(f"{key}.{ext}")
            info.size, info.mode = len(value), 0o444
            tar.addfile(info, io.BytesIO(value))
    return data.getvalue()


def tars_in(store: Storage, folder: str) -> list[str]:
    """Keys of a folder's tars, in order."""
    return [key for key in store.list(folder) if key.endswith(".tar")]


def read_members(store: Storage, folder: str) -> Iterator[tuple[str, str, bytes]]:
    """(key, extension, bytes) of every plain member of a folder's tars, in order. ConfigError for a tar that is none."""
    tars = tars_in(store, folder)
    for place, name in enumerate(tars):
        store.prefetch((ahead, "") for ahead in tars[place + 1 : place + 3])
        path = store.local(name)
        try:
            with tarfile.open(path, "r:") as tar:
                for info in tar:
                    handle = tar.extractfile(info) if info.isreg() and "/" not in info.name else None
                    if handle is not None:
                        key, _, ext = info.name.partition(".")
                        yield key, ext, handle.read()
                    tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
        except tarfile.TarError as error:
            raise ConfigError(f"{store.url}/{name}: is no whole tar ({error}). Fetch it again.") from error
