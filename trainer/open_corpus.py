"""From a data set's manifest to the streams and memory-mapped columns a loader reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from tokenize_shards.holdout import held_out
from tokenize_shards.rebuild import spec_of
from tokenize_shards.shards import TokenShard, open_tokens
from tokenize_shards.table import TokenSpec
from trainer.loader import Column, Corpus
from trainer.streams import Stream

PAIRS = ("tok_metadata",)  # sequences of (field, value) pairs, masked pair by pair


def stream_of(spec: TokenSpec, vocab: int) -> Stream:
    return Stream(spec.name, spec.stream, vocab, spec.length, spec.grid, spec.name in PAIRS)


def column_of(shard: TokenShard) -> Column:
    if shard.fixed is not None:
        return Column(shard.fixed, shard.valid)
    assert shard.values is not None
    return Column(shard.values, shard.valid, shard.offsets)


def open_corpus(ds: Dataset, holdout: float, names: Sequence[str] | None = None) -> Corpus:
    """The token shards of the current manifest, joined by position; names: token modalities (None: all of them).

    ConfigError for a modality that is not there or not complete, DamageError where ids are not those of the index.
    """
    manifest = ds.manifest()
    have = {name: recipe for name, recipe in manifest.modalities.items() if name.startswith("tok_")}
    missing = [name for name in names or () if name not in have]
    if missing:
        raise ConfigError(f"train.modalities: {missing[0]!r} has no tokens. There are: {', '.join(have) or 'none'}.")
    chosen = {name: have[name] for name in (names or have)}
    if not chosen:
        raise ConfigError(f"{ds.storage.url}: there is no token modality to train on. Run `manymodal tokenize` first.")
    shards: list[dict[str, Column]] = []
    streams: dict[str, Stream] = {}
    made = {name: ds.commits(name, recipe) for name, recipe in chosen.items()}
    for k in ds.shards():
        ds.prefetch(made[name][j] for name in chosen for j in (k, k + 1, k + 2) if j in made[name])
        columns = {}
        for name, recipe in chosen.items():
            if k not in made[name]:
                raise ConfigError(f"{name}: shard {k} is not tokenized. Run `manymodal tokenize` first.")
            path, _ = ds.open_shard(name, recipe, k)
            shard = open_tokens(path)
            if shard.ids != ds.ids(k):
                raise DamageError(f"{path}: ids are not those of index shard {k}, in order. Tokenize it again.")
            streams.setdefault(name, stream_of(spec_of(ds.recipe(recipe)), shard.meta.vocab))
            columns[name] = column_of(shard)
        shards.append(columns)
    held = [np.asarray(held_out(ds.ids(k), holdout), np.bool_) for k in ds.shards()]
    used = [s for s in streams.values() if any(bool(shard[s.name].valid.any()) for shard in shards)]
    kept = [{s.name: shard[s.name] for s in used} for shard in shards]
    return Corpus(used, kept, held, manifest.version, {s.name: chosen[s.name] for s in used})
