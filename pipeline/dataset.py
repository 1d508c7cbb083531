"""A data set on storage: index, commits, recipes, manifests and weights, found by name, and read with their digests
checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from labelers.core.ahead import ahead
from labelers.core.images import decode_stored
from labelers.core.labeler import Sample
from labelers.core.modality import Label, Modality, Null
from pipeline import weights
from pipeline.commits import commit_key, data_key, read_commit
from pipeline.errors import ConfigError, DamageError, ManymodalError
from pipeline.records import (
    FORMAT,
    Commit,
    IndexRow,
    Manifest,
    canonical_json,
    file_sha256,
    recipe_id,
    shard_name,
)  # fmt: skip
from pipeline.shards import HEADER, NULL_EXT, iter_tar, read_labels, read_parquet, write_parquet
from pipeline.storage import Storage, open_storage
from pipeline.survey import Survey, survey

INDEX_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "uri", "sha256")),
        *((name, pa.int32()) for name in ("width", "height")),
        ("bytes", pa.int64()),
    ]
)
IMAGE_EXTS = ("jpg", "png", "webp")
NO_PIXELS = np.zeros((0, 0, 3), np.uint8)
REPAIR = "Run `manymodal repair`, then this command again."


class Dataset:
    """One data set. Cheap to open, safe to open many times; holds no state but caches of immutable records."""

    def __init__(self, storage: Storage, name: str, shard_size: int) -> None:
        self.storage, self.name, self.shard_size = storage, name, shard_size
        self._trusted: set[tuple[str, str]] = set()
        self.index = lru_cache(maxsize=256)(self._read_index)

    # -- the data set itself

    @staticmethod
    def create(root: str, name: str, shard_size: int) -> Dataset:
        """Create, or open one made with the same settings. ConfigError where it exists with another shard size."""
        if not 1 <= shard_size <= 1_000_000:
            raise ConfigError(f"shard_size: {shard_size} is outside 1..1000000")
        storage = open_storage(root)
        record = {"format": FORMAT, "name": name, "shard_size": shard_size}
        try:
            storage.read_bytes("dataset.json")
        except FileNotFoundError:
            storage.check()
        storage.put_if_absent("dataset.json", canonical_json(record))
        ds = Dataset.open(root)
        if ds.shard_size != shard_size:
            raise ConfigError(
                f"{root}: was created with shard_size {ds.shard_size}, not {shard_size}; a data set keeps its shard size. "
                f"Set shard_size: {ds.shard_size}, or choose another root."
            )
        return ds

    @staticmethod
    def open(root: str) -> Dataset:
        """Open an existing data set. ConfigError where there is none, or its format is newer than this program."""
        storage = open_storage(root)
        try:
            record = json.loads(storage.read_bytes("dataset.json"))
        except FileNotFoundError:
            raise ConfigError(
                f"{root}: no data set there (dataset.json is absent). Run `manymodal ingest` first."
            ) from None
        except ValueError as error:
            raise DamageError(f"{root}/dataset.json is not JSON ({error}). Restore it from a copy.") from error
        if record.get("format") != FORMAT:
            raise ConfigError(
                f"{root}: has format {record.get('format')}, this program reads {FORMAT}. Install its version."
            )
        return Dataset(storage, record["name"], record["shard_size"])

    # -- the index

    def shards(self) -> list[int]:
        """Numbers of the index shards, ascending. DamageError where one is missing in the middle."""
        names = self.storage.list("index")
        found = sorted(int(key[-14:-8]) for key in names if key.endswith(".parquet"))
        if found != list(range(len(found))):
            gap = next(k for k in range(len(found)) if k not in found)
            raise DamageError(
                f"{self.storage.url}/index: shard {gap} is missing. Restore it, or ingest again elsewhere."
            )
        return found

    def index_key(self, k: int) -> str:
        return f"index/{shard_name(k, 'parquet')}"

    def _read_index(self, k: int) -> tuple[IndexRow, ...]:
        """The rows of index shard k, in order."""
        try:
            table = read_parquet(self.storage.local(self.index_key(k)))
        except FileNotFoundError:
            raise ConfigError(f"{self.storage.url}: has no index shard {k}. Run `manymodal ingest`.") from None
        if not table.schema.equals(INDEX_SCHEMA):
            raise DamageError(
                f"{self.storage.url}/{self.index_key(k)}: is no index shard (columns {table.schema.names})"
            )
        return tuple(IndexRow(**row) for row in table.to_pylist())

    def publish_index(self, k: int, rows: Sequence[IndexRow]) -> bool:
        """Write index shard k, once: False if it exists. Comes last at ingest; it is what makes a shard exist."""
        with self.storage.scratch() as folder:
            path = folder / shard_name(k, "parquet")
            write_parquet(path, pa.Table.from_pylist([asdict(row) for row in rows], schema=INDEX_SCHEMA))
            return self.storage.publish(path, self.index_key(k))

    def ids(self, k: int) -> list[str]:
        return [row.id for row in self.index(k)]

    # -- recipes and manifests

    def put_recipe(self, recipe: Mapping[str, Any]) -> str:
        """Record a recipe; returns its 8-digit id. DamageError in the (1 in 4 billion) case of two recipes with one id."""
        name, data = recipe_id(recipe), canonical_json(recipe)
        key = f"_recipes/{name}.json"
        if not self.storage.put_if_absent(key, data) and self.storage.read_bytes(key) != data:
            raise DamageError(f"{self.storage.url}/{key} holds another recipe; change a parameter to get another id")
        return name

    def recipe(self, name: str) -> dict[str, Any]:
        try:
            recipe: dict[str, Any] = json.loads(self.storage.read_bytes(f"_recipes/{name}.json"))
        except FileNotFoundError:
            raise DamageError(f"{self.storage.url}/_recipes/{name}.json is missing") from None
        return recipe

    def manifest(self, version: int | None = None) -> Manifest:
        """The current manifest (highest number), or the one of that version; empty where none was written."""
        names = [key for key in self.storage.list("_manifests") if key.endswith(".json")]
        if version is not None:
            names = [key for key in names if key.endswith(f"v{version:06d}.json")]
        return Manifest.from_json(self.storage.read_bytes(names[-1])) if names else Manifest()

    def update_manifest(
        self, modalities: Mapping[str, str] | None = None, tokenizers: Mapping[str, str] | None = None
    ) -> Manifest:
        """Switch the named modalities and tokenizers; all others stay. Atomic, and safe against others doing the same."""
        for _ in range(100):
            old = self.manifest()
            new = Manifest(
                old.version + 1,
                {**old.modalities, **(modalities or {})},
                {**old.tokenizers, **(tokenizers or {})},
            )
            if (new.modalities, new.tokenizers) == (old.modalities, old.tokenizers):
                return old
            if self.storage.put_if_absent(f"_manifests/v{new.version:06d}.json", new.to_json()):
                return new
        raise ManymodalError(f"{self.storage.url}/_manifests: 100 other writers came first. Run the command again.")

    # -- weights

    def put_weights(self, path: Path, sha256: str) -> None:
        """Keep a copy of resolved weights, a file or a folder, by digest, where every worker finds it."""
        weights.put_weights(self.storage, path, sha256)

    def weights_path(self, sha256: str) -> Path:
        """Local path of weights kept by `put_weights`, their digest checked once a process."""
        return weights.weights_path(self.storage, sha256, self._trusted_local)

    # -- commits and labels

    def commit_of(self, modality: str, recipe: str, k: int) -> Commit | None:
        return read_commit(self.storage, modality, recipe, k)

    def sound_commit(self, modality: str, recipe: str, k: int) -> Commit | None:
        """The commit of a shard, if it is whole and its data file is there with the committed length; else None."""
        try:
            commit = self.commit_of(modality, recipe, k)
            return commit if commit is not None and self.storage.size(data_key(commit)) == commit.bytes else None
        except (FileNotFoundError, DamageError):
            return None

    def survey(self, modality: str, recipe: str) -> Survey:
        """Commits and visible damage of a recipe, from listings alone."""
        return survey(self.storage, modality, recipe)

    def commits(self, modality: str, recipe: str) -> dict[int, Commit]:
        """Every commit of a recipe whose data file is there with the committed length; others do not count."""
        return self.survey(modality, recipe).commits

    def _trusted_local(self, key: str, sha256: str) -> Path:
        path = self.storage.local(key, sha256)
        if (key, sha256) not in self._trusted:
            if file_sha256(path) != sha256 and file_sha256(self.storage.local(key, fresh=True)) != sha256:
                mend = "Delete it and run `manymodal label`." if key.startswith("_weights/") else REPAIR
                raise DamageError(f"{self.storage.url}/{key}: its bytes do not have the committed sha256. {mend}")
            self._trusted.add((key, sha256))
        return path

    def prefetch(self, commits: Iterable[Commit]) -> None:
        """Say which shards will be read soon; where reading takes time, they come in the background."""
        self.storage.prefetch([(data_key(commit), commit.sha256) for commit in commits])

    def open_shard(self, modality: str, recipe: str, k: int, commit: Commit | None = None) -> tuple[Path, Commit]:
        """A committed shard's local file, digest checked, and its commit, which is read unless the caller has it.
        DamageError where there is no sound one.
        """
        commit = commit or self.commit_of(modality, recipe, k)
        if commit is None:
            mend = REPAIR if modality == "rgb" else "Run `manymodal label`."
            raise DamageError(f"{self.storage.url}/{commit_key(modality, recipe, k)}: not committed. {mend}")
        try:
            return self._trusted_local(data_key(commit), commit.sha256), commit
        except FileNotFoundError:
            raise DamageError(
                f"{self.storage.url}/{data_key(commit)}: committed, but the file is missing. {REPAIR}"
            ) from None

    def labels(
        self, modality: Modality, k: int, recipe: str | None = None, commit: Commit | None = None
    ) -> list[Label | Null]:
        """The labels of a shard in index order, of the given recipe or the manifest's. commit: see `open_shard`."""
        recipe = recipe or self.current(modality.name)
        path, commit = self.open_shard(modality.name, recipe, k, commit)
        pairs = list(read_labels(path, modality))
        if [key for key, _ in pairs] != self.ids(k):
            raise DamageError(f"{self.storage.url}/{data_key(commit)}: ids are not those of index shard {k}, in order")
        return [label for _, label in pairs]

    def current(self, modality: str) -> str:
        """The current recipe of a modality. ConfigError where it has none."""
        recipe = self.manifest().modalities.get(modality)
        if recipe is None:
            raise ConfigError(f"{self.storage.url}: has no {modality} yet. Run `manymodal label` with it enabled.")
        return recipe

    def image_files(
        self, k: int, recipe: str | None = None, commit: Commit | None = None
    ) -> Iterator[tuple[str, dict[str, bytes]]]:
        """(id, {extension: bytes}) of the rgb shard, in index order: the image file and its side-cars."""
        path, _ = self.open_shard("rgb", recipe or self.current("rgb"), k, commit)
        ids = self.ids(k)
        found = 0
        for key, members in iter_tar(path):
            if key == HEADER:
                continue
            if found == len(ids) or key != ids[found]:
                break
            found += 1
            yield key, members
        else:
            if found == len(ids):
                return
        raise DamageError(f"{self.storage.url}/{path.name}: rgb ids are not those of index shard {k}, in order")

    def stream(
        self, k: int, pixels: bool = True, recipe: str | None = None, threads: int = 1, commit: Commit | None = None
    ) -> Iterator[Sample | Null]:
        """The samples of a shard in index order, without labels, decoded by threads ahead of whoever takes them; a Null
        for one that was removed. pixels: False gives empty images.
        """

        def sample(file: tuple[IndexRow, dict[str, bytes]]) -> Sample | Null:
            row, members = file
            if NULL_EXT in members:
                return Null(members[NULL_EXT].decode())
            ext = next(e for e in members if e in IMAGE_EXTS)
            image = decode_stored(members[ext]) if pixels else NO_PIXELS
            sidecars = {e: data for e, data in members.items() if e not in IMAGE_EXTS}
            return Sample(row.id, image, sidecars, uri=row.uri, size=(row.height, row.width))

        images = self.image_files(k, recipe, commit)
        files = ((row, members) for row, (_, members) in zip(self.index(k), images, strict=True))
        return ahead(sample, files, threads) if pixels else map(sample, files)

    def samples(
        self, k: int, reads: Mapping[str, tuple[Modality, str]] | None = None, pixels: bool = True
    ) -> list[Sample | Null]:
        """The samples of a shard in index order, decoded, with the labels named in `reads` (name -> modality, recipe);
        a Null for a sample that was removed.
        """
        columns = {name: self.labels(m, k, recipe) for name, (m, recipe) in (reads or {}).items()}
        return [with_labels(s, columns, i) for i, s in enumerate(self.stream(k, pixels))]


def with_labels(sample: Sample | Null, columns: Mapping[str, Sequence[Label | Null]], i: int) -> Sample | Null:
    """The sample with row i of the columns as its labels."""
    if isinstance(sample, Null) or not columns:
        return sample
    return replace(sample, labels={name: column[i] for name, column in columns.items()})
