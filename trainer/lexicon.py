"""The token modalities of a data set as a model's user needs them: shards, tokenizers, and whether a model speaks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labelers.core.modality import Label, Modality, Null
from labelers.core.registry import all_modalities
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tokenize_shards import grammar
from tokenize_shards.decode import as_label
from tokenize_shards.rebuild import spec_of
from tokenize_shards.sequence import SequenceTokenizer
from tokenize_shards.shards import TokenShard, open_tokens
from tokenize_shards.table import TokenSpec
from tokenize_shards.tokenizer import Tokenizer, load_tokenizer
from tokenize_shards.values import maker_of, without_tokenizer

PREFIX = "tok_"


class Lexicon:
    """The current token modalities of a data set. Names are those of modalities ("rgb") or of tokens ("tok_rgb")."""

    def __init__(self, ds: Dataset) -> None:
        self.ds = ds
        self.recipes = {n: r for n, r in ds.manifest().modalities.items() if n.startswith(PREFIX)}
        self._specs: dict[str, TokenSpec] = {}
        self._tokenizers: dict[str, Tokenizer] = {}

    def name(self, text: str) -> str:
        """The token modality a person means. ConfigError where the data set has none."""
        name = text if text.startswith(PREFIX) else PREFIX + text
        if name not in self.recipes:
            known = ", ".join(n.removeprefix(PREFIX) for n in self.recipes) or "none; run `manymodal tokenize` first"
            raise ConfigError(f"{text}: the data set has no tokens of it. There are: {known}.")
        return name

    def spec(self, name: str) -> TokenSpec:
        if name not in self._specs:
            self._specs[name] = spec_of(self.ds.recipe(self.recipes[self.name(name)]))
        return self._specs[name]

    def modality(self, name: str) -> Modality | None:
        """What its labels are; None for pictures, which no labeler makes."""
        return all_modalities().get(self.spec(name).modality)

    def digest(self, name: str) -> str:
        """sha256 of its tokenizer; "" of vectors, which have none."""
        return str(self.ds.recipe(self.recipes[name])["weights"].get("tokenizer", {}).get("sha256", ""))

    def readable(self, name: str) -> bool:
        """Whether its tokens can be turned into labels: those of an imported data set came without a tokenizer."""
        return bool(self.digest(name) or without_tokenizer([self.spec(name)]))

    def tokenizer(self, name: str) -> Tokenizer:
        """ConfigError where the data set has none."""
        if name not in self._tokenizers:
            spec = self.spec(name)
            plain = without_tokenizer([spec]).get(spec.name)
            if not self.readable(name):
                raise ConfigError(
                    f"{name}: its tokens were imported without their tokenizer, so nothing can be made of them; bring it "
                    f"with `manymodal adopt DATA {name} SOURCE`"
                )
            self._tokenizers[name] = plain or load_tokenizer(self.ds.weights_path(self.digest(name)))
        return self._tokenizers[name]

    def allowed(self, name: str) -> np.ndarray | None:
        """The ids a well-formed sequence can hold; None where every id may stand anywhere."""
        tokenizer = self.tokenizer(name)
        if isinstance(tokenizer, SequenceTokenizer):
            return grammar.allowed_ids(tokenizer.grammar, tokenizer.words)
        return None

    def check_view(self, names: Sequence[str], view: int) -> None:
        """ConfigError where one of them has no such view."""
        for name in names:
            spec = self.spec(name)
            if spec.kind == "values" and not spec.size:
                continue  # of the whole photo: one view for all
            count = next((self.shard(name, k).meta.views for k in self.ds.shards()), 0)
            if not 0 <= view < max(count, 1):
                raise ConfigError(f"view {view}: {name} has views 0..{count - 1}")

    def shard(self, name: str, k: int) -> TokenShard:
        return open_tokens(self.ds.open_shard(name, self.recipes[name], k)[0])

    def decode(self, name: str, tokens: Sequence[np.ndarray | None]) -> list[Label | Null | None]:
        """Labels of the tokens that are there, None where there are none."""
        some = [ids for ids in tokens if ids is not None]
        if not some:
            return [None] * len(tokens)
        tokenizer = self.tokenizer(name)
        batch = some if tokenizer.tokens is None else np.stack(some)
        labels = iter(tokenizer.decode(batch))
        return [None if ids is None else as_label(self.spec(name), next(labels)) for ids in tokens]

    def expected(self, name: str, probabilities: np.ndarray) -> list[Label] | None:
        """Labels that tokens of these probabilities (n, tokens, vocab) stand for on average; None where they have none."""
        labels = self.tokenizer(name).expected(probabilities)
        return None if labels is None else [as_label(self.spec(name), one) for one in labels]

    def averages(self, name: str) -> bool:
        """Whether its tokens have an average: those of vectors do."""
        return type(self.tokenizer(name)).expected is not Tokenizer.expected

    def check(self, record: Mapping[str, Any], names: Sequence[str]) -> None:
        """ConfigError where a checkpoint was trained on tokens of another tokenizer than the data set's."""
        trained: Mapping[str, str] = record.get("recipes", {})
        for name in names:
            mine = trained.get(name)
            if mine is None or mine == self.recipes[name]:
                continue
            if _maker(self.ds, mine) != maker_of(self.ds, self.ds.recipe(self.recipes[name])):
                raise ConfigError(
                    f"{name}: the model was trained on {name}@{mine}, the data set's current tokens are "
                    f"{name}@{self.recipes[name]}, of another tokenizer. Promote {name}@{mine}, or train again."
                )


def _maker(ds: Dataset, recipe: str) -> str:
    """What decides what tokens of a recipe mean; empty where the data set does not know it."""
    if not ds.storage.exists(f"_recipes/{recipe}.json"):
        return ""
    return maker_of(ds, ds.recipe(recipe))
