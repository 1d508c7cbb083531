"""The small records that make a data set: index rows, recipes, commits, manifests. Pure data; no storage, ray or torch."""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class IndexRow:
    """One sample of the index, the spine of the data set. uri: where it came from. sha256, bytes: of the source file.

    width, height: pixels of the upright image in the rgb shard.
    """

    id: str
    uri: str
    sha256: str
    width: int
    height: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The record that makes one shard of one recipe exist.

    file: name of the data file beside `_commits`. count: rows. bytes, sha256: of the file. inputs: modality -> sha256
    of the shard it was computed from. nulls: id -> reason. seconds: time of labelling. attempt: which try made it, from
    1. host: where.
    """

    modality: str
    recipe: str
    shard: int
    file: str
    count: int
    bytes: int
    sha256: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    nulls: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    attempt: int = 1

    def to_json(self) -> builtins.bytes:
        return canonical_json(asdict(self))

    @staticmethod
    def from_json(data: builtins.bytes) -> Commit:
        """Raises ValueError for anything but a whole commit record."""
        try:
            return Commit(**json.loads(data))
        except TypeError as error:
            raise ValueError(f"not a commit record: {error}") from error


def require_of(commit: Commit, modality: str, recipe: str, shard: int) -> None:
    """ValueError where a record that lies under one shard's name is that of another."""
    if (commit.modality, commit.recipe, commit.shard) != (modality, recipe, shard):
        raise ValueError(f"that of {commit.modality}@{commit.recipe} shard {commit.shard}")


@dataclass(frozen=True)
class Manifest:
    """Which recipe of each modality is current, and which fitted tokenizer each token modality uses. Highest version
    wins.
    """

    version: int = 0
    modalities: Mapping[str, str] = field(default_factory=dict)
    tokenizers: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return canonical_json(asdict(self))

    @staticmethod
    def from_json(data: bytes) -> Manifest:
        return Manifest(**json.loads(data))


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and fixed spacing, so that equal values have equal bytes and digests."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode()


def recipe_id(recipe: Mapping[str, Any]) -> str:
    """The first 8 hex digits of the sha256 of the canonical recipe."""
    return hashlib.sha256(canonical_json(recipe)).hexdigest()[:8]


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hex, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def shard_name(k: int, ext: str) -> str:
    """'shard-000012.tar'"""
    return f"shard-{k:06d}.{ext}"


RGB_RECIPE: dict[str, Any] = {
    "modality": "rgb", "labeler": "ingest", "version": 1, "backend": "source images", "params": {}, "weights": {}, "reads": {},
}  # fmt: skip
SOURCE = ("rgb", recipe_id(RGB_RECIPE))  # the images themselves; other recipes of rgb are pictures made of them


def folder_of(modality: str, recipe: str) -> str:
    """The folder of one recipe of a modality. The images, fixed at ingest, have one without a recipe in its name."""
    return modality if (modality, recipe) == SOURCE else f"{modality}@{recipe}"
