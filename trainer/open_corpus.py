"""From a data set's manifest to the streams and memory-mapped columns a loader reads.

What can be known from commits and recipes is checked at once; the tokens themselves too where they are near and few
enough (FULL_CHECK bytes), and otherwise shard by shard, when one is first opened.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.records import Commit
from tokenize_shards.fourm.layout import CROPS
from tokenize_shards.holdout import held_out
from tokenize_shards.rebuild import spec_of
from tokenize_shards.sequence import SequenceTokenizer
from tokenize_shards.shards import TokenShard, open_tokens
from tokenize_shards.table import TokenSpec
from tokenize_shards.tokenizer import load_tokenizer
from tokenize_shards.values import maker_of
from trainer.corpus import Column, Corpus, LazyShards, Shard
from trainer.streams import Stream

PAIRS = ("tok_metadata",)  # sequences of (field, value) pairs, masked pair by pair
FULL_CHECK = 8 << 30
ASKED = 40
UNCUT = ("color_palette", "caption", "metadata")  # contents that no view cuts
MIDDLE = "the middle of the photo"


def stream_of(spec: TokenSpec, vocab: int, width: int = 0) -> Stream:
    return Stream(spec.name, spec.stream, vocab, spec.length, spec.grid, spec.name in PAIRS, width)


def column_of(shard: TokenShard, width: int = 0) -> Column:
    """width: of the vectors of other shards; a shard without any cannot say it."""
    if shard.fixed is not None:
        return Column(shard.fixed, shard.valid)
    assert shard.values is not None
    values = shard.values if len(shard.values) or not width else np.zeros((0, width), np.float16)
    return Column(values, shard.valid, shard.offsets)


class Opener:
    """Opens the token shards of some modalities of a data set, and brings far ones near ahead of time."""

    def __init__(self, ds: Dataset, chosen: Mapping[str, str], commits: Mapping[str, Mapping[int, Commit]]) -> None:
        self.ds, self.chosen, self.commits = ds, dict(chosen), commits
        self.vocab: dict[str, int] = {}
        self.width: dict[str, int] = {}
        self.asked: OrderedDict[int, None] = OrderedDict()  # an evicted shard may have to be fetched again

    def __call__(self, k: int) -> Shard:
        return {name: column_of(self.open(name, k), self.width.get(name, 0)) for name in self.chosen}

    def open(self, name: str, k: int) -> TokenShard:
        """One shard, its digest, ids and recipe checked. DamageError where they are not what they should be."""
        recipe = self.chosen[name]
        path, _ = self.ds.open_shard(name, recipe, k)
        shard = open_tokens(path)
        if shard.ids != self.ds.ids(k):
            raise DamageError(f"{path}: ids are not those of index shard {k}, in order. Tokenize it again.")
        vocab = self.vocab.setdefault(name, shard.meta.vocab)
        if (shard.meta.recipe, shard.meta.vocab) != (recipe, vocab):
            raise DamageError(
                f"{path}: was made by recipe {shard.meta.recipe} with {shard.meta.vocab} tokens, where the manifest says "
                f"{recipe} and other shards have {vocab}. Tokenize it again."
            )
        if shard.valid.any() and shard.meta.width != self.width.setdefault(name, shard.meta.width):
            raise DamageError(
                f"{path}: has vectors of {shard.meta.width} numbers where other shards have {self.width[name]}. Label "
                "it again by one model."
            )
        return shard

    def fetch(self, k: int) -> None:
        """Have the files of a shard come near in the background; asked again, only after others."""
        if k not in self.asked:
            self.asked[k] = None
            while len(self.asked) > ASKED:
                self.asked.popitem(last=False)
            self.ds.prefetch(self.commits[name][k] for name in self.chosen)


def choose(ds: Dataset, names: Sequence[str] | None, manifest: Mapping[str, str], stale: bool) -> dict[str, str]:
    """Token modality -> recipe. ConfigError where one is missing, or was made from labels that are no longer current."""
    have = {name: recipe for name, recipe in manifest.items() if name.startswith("tok_")}
    missing = [name for name in names or () if name not in have]
    if missing:
        raise ConfigError(f"train.modalities: {missing[0]!r} has no tokens. There are: {', '.join(have) or 'none'}.")
    chosen = {name: have[name] for name in (names or have)}
    if not chosen:
        raise ConfigError(f"{ds.storage.url}: there is no token modality to train on. Run `manymodal tokenize` first.")
    for name, recipe in chosen.items() if not stale else ():
        for source, read in ds.recipe(recipe)["reads"].items():
            if manifest.get(source, read) != read:
                raise ConfigError(
                    f"{name}@{recipe}: was made from {source}@{read}, but {source}@{manifest[source]} is current. "
                    "Run `manymodal tokenize`, or set train.stale: true to train on it all the same."
                )
    return chosen


def agree(ds: Dataset, recipes: Mapping[str, str]) -> None:
    """ConfigError where token modalities do not show the same parts of the photos, or write words by another vocabulary.

    Each is right by itself: a data set gets there by tokenizing a part of its modalities after a setting has changed.
    """
    made = {name: ds.recipe(recipe) for name, recipe in recipes.items()}
    cuts = {name: cut for name, recipe in made.items() if (cut := _cut(recipe))}
    if not any(CROPS in cut for cut in cuts.values()):
        cuts = {name: cut for name, cut in cuts.items() if cut != MIDDLE}  # which is the first view of every seed
    words = {name: digest for name, recipe in made.items() if (digest := _vocabulary(ds, recipe))}
    for found, what in ((cuts, "were cut by other views"), (words, "have vocabularies of their own")):
        first = next(iter(found), "")
        other = next((name for name in found if found[name] != found[first]), None)
        if other is not None:
            raise ConfigError(
                f"{first} and {other} {what} ({found[first]:.32}; {found[other]:.32}) and cannot be trained on together. "
                "Run `manymodal tokenize` for all of them, or choose some with train.modalities."
            )


def _cut(recipe: dict[str, Any]) -> str:
    """What decides where the views of a photo are; "" of tokens that are the same in every view."""
    spec, params = spec_of(recipe), recipe["params"]
    if spec.content in UNCUT or (spec.stream in ("vector", "embedding") and not params.get("computed")):
        return ""
    seed = params.get("seed")
    return MIDDLE if params.get("views", 1) == 1 and not isinstance(seed, str) else f"tokens.seed {seed}"


def _vocabulary(ds: Dataset, recipe: dict[str, Any]) -> str:
    """The digest of the words a sequence is written in; "" of other tokens, and where the tokenizer is not here."""
    sequence = spec_of(recipe).kind == "sequence"  # networks need not be loaded for this
    digest = recipe["weights"].get("tokenizer", {}).get("sha256", "") if sequence else ""
    tokenizer = load_tokenizer(ds.weights_path(digest)) if digest else None
    return tokenizer.words.digest if isinstance(tokenizer, SequenceTokenizer) else ""


def open_corpus(
    ds: Dataset, holdout: float, names: Sequence[str] | None = None, manifest: int | None = None, stale: bool = False,
    heldout_views: int | None = 0, shards: int | None = None,
) -> Corpus:  # fmt: skip
    """The token shards of a manifest (None: the current one), joined by position; names: token modalities (None: all).
    holdout: share of the photos that is not trained on; heldout_views: see Corpus. shards: how many, the first ones (None:
    all): a data set may grow while a run is stopped.

    ConfigError for a modality that is not there, not complete or stale, or not of the same views as others, DamageError
    where bytes, ids or tokens are not what they should be.
    """
    record = ds.manifest(manifest)
    chosen = choose(ds, names, record.modalities, stale)
    of_index = ds.shards()[:shards]
    commits = {name: ds.commits(name, recipe) for name, recipe in chosen.items()}
    for name, found in commits.items():
        k = next((k for k in of_index if k not in found), None)
        if k is not None:
            raise ConfigError(f"{name}: shard {k} is not tokenized. Run `manymodal tokenize` first.")
    agree(ds, chosen)
    used = {
        name: recipe
        for name, recipe in chosen.items()
        if any(commits[name][k].count > len(commits[name][k].nulls) for k in of_index) or not of_index
    }
    held = [np.asarray(held_out(ds.ids(k), holdout), np.bool_) for k in of_index]
    if not used or not any(map(len, held)):
        raise ConfigError(f"{ds.storage.url}: there is no sample to train on: every token shard is empty.")
    far = "://" in ds.storage.url
    opener = Opener(ds, used, commits)
    if not far:
        unused = Opener(ds, {name: recipe for name, recipe in chosen.items() if name not in used}, commits)
        for k in of_index:
            unused(k)  # null throughout, but what they are of must be right
    streams = [first_of(ds, opener, name) for name in used]
    lazy = LazyShards(len(of_index), opener, opener.fetch if far else None)
    makers = {name: maker_of(ds, ds.recipe(recipe)) for name, recipe in used.items()}
    corpus = Corpus(
        streams,
        lazy,
        held,
        record.version,
        used,
        makers,
        heldout_views=heldout_views,
        codes=partial(codes_of, ds, used),
    )
    if not far and sum(c.bytes for found in commits.values() for c in found.values()) <= FULL_CHECK:
        for _ in lazy:
            pass  # opened, and so checked
    return corpus


def first_of(ds: Dataset, opener: Opener, name: str) -> Stream:
    """The stream of a token modality, by its recipe and its first shard that holds any."""
    commits = opener.commits[name]
    meta = opener.open(name, min(k for k, commit in commits.items() if commit.count > len(commit.nulls))).meta
    return stream_of(spec_of(ds.recipe(opener.chosen[name])), meta.vocab, meta.width)


def codes_of(ds: Dataset, recipes: Mapping[str, str], name: str) -> np.ndarray | None:
    """The codebook of a stream's tokenizer, (vocab, k) float32; None where it has none."""
    weights = ds.recipe(recipes[name])["weights"] if name in recipes else {}
    digest = weights.get("tokenizer", {}).get("sha256", "")
    return load_tokenizer(ds.weights_path(digest)).codes() if digest else None
