"""The cells of the page, a column (modality) at a time: label, tokens decoded, and prediction from RGB, all in the
frame of view 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from labelers.core.labeler import Labeler
from labelers.core.modality import Label, Modality, Null
from labelers.core.registry import all_modalities
from labelers.core.show import Cell, Picture, Words
from pipeline.dataset import Dataset
from pipeline.gallery.page import CellTriple
from tokenize_shards import grammar
from tokenize_shards.decode import decode_views
from tokenize_shards.frame import as_seen
from tokenize_shards.inputs import ShardViews
from tokenize_shards.rebuild import spec_of
from tokenize_shards.sequence import SIDE, SequenceTokenizer
from tokenize_shards.shards import open_tokens
from tokenize_shards.table import TokenSpec
from tokenize_shards.tokenize import view_labeler
from tokenize_shards.tokenizer import Tokenizer, load_tokenizer
from tokenize_shards.values import without_tokenizer
from tokenize_shards.views import cut_image
from trainer.generate.decoding import Decoding
from trainer.open_corpus import UNCUT
from trainer.predict import Predictor

Key = tuple[int, int]  # (shard, row)
RGB = "tok_rgb"
# Of an image tokens are drawn, not the likeliest taken: that is the empty one wherever a model is not sure.
DRAWN, LIKELIEST = Decoding(steps=6, counts="linear", temperature=0.7), Decoding(steps=6)
SHOWN_VIEW = int(SIDE)
Tokens = dict[Key, np.ndarray | None]


@dataclass
class Photo:
    """One photo of the page, and its cells so far. pixels: view 0, uint8 (224, 224, 3)."""

    key: Key
    id: str
    uri: str
    held_out: bool
    image: np.ndarray
    pixels: np.ndarray
    cells: dict[str, CellTriple] = field(default_factory=dict)


class Columns:
    """Reads, decodes and predicts for the chosen photos. predictor: None where nothing is trained."""

    def __init__(self, ds: Dataset, photos: Sequence[Photo], seed: int, predictor: Predictor | None) -> None:
        self.ds, self.photos, self.predictor, self.seed = ds, list(photos), predictor, seed
        self.manifest = ds.manifest()
        rows: dict[int, list[int]] = {}
        for photo in photos:
            rows.setdefault(photo.key[0], []).append(photo.key[1])
        self.shards = {k: ShardViews(ds, k, [0], seed, sorted(chosen)) for k, chosen in rows.items()}
        self.specs = {
            name: spec_of(ds.recipe(rid)) for name, rid in self.manifest.modalities.items() if name.startswith("tok_")
        }
        self.given = self.tokens(RGB) if RGB in self.specs else {}
        self._labelers: dict[str, Labeler] = {}

    def fill(self, name: str) -> None:
        """Add the cells of one modality to every photo."""
        modality = all_modalities().get(name)
        spec = self.specs.get(f"tok_{name}")
        labels = self.labels(name, modality, spec)
        decoded, predicted = self.from_tokens(spec) if spec else ({}, {})
        for photo in self.photos:
            whole = self.show(name, modality, labels.get(photo.key), photo.pixels if spec else photo.image)
            cell = [self.show(name, modality, part.get(photo.key), photo.pixels) for part in (decoded, predicted)]
            photo.cells[name] = CellTriple(whole, *cell)

    # -- labels: of what has tokens, in the frame of view 0; of the rest, on the whole photo

    def labels(self, name: str, modality: Modality | None, spec: TokenSpec | None) -> dict[Key, Label | Null]:
        if name == "rgb":
            return {photo.key: photo.pixels for photo in self.photos}
        assert modality is not None, name
        found: dict[Key, Label | Null] = {}
        for k, shard in self.shards.items():
            if modality.on_view and spec is not None:
                cut = shard.on_view(self._labeler(spec), [spec])[spec.name]
                rows = [one if isinstance(one, Null) else one[0] for one in cut]
            elif modality.stored or self.ds.sound_commit(name, self.manifest.modalities[name], k) is not None:
                rows = list(shard.labels(modality, self.manifest.modalities[name]))
                if spec is not None and spec.content not in UNCUT:  # else the whole label is shown
                    rows = self._framed(shard, spec, self.manifest.modalities[name], rows)
            else:
                rows = [Null("computed when it is tokenized; it has no tokens yet")] * len(shard.rows)
            found |= {(k, row): label for row, label in zip(shard.rows, rows, strict=True)}
        return found

    def _framed(
        self, shard: ShardViews, spec: TokenSpec, recipe: str, labels: Sequence[Label | Null]
    ) -> list[Label | Null]:
        """Labels of whole photos as the tokenizer is given them: cut by the view, with what they hold moved along."""
        rows = zip(labels, shard.cut(spec, recipe), strict=True)
        return [
            cut if isinstance(cut, Null) else as_seen(spec, cut[0], self.seed, getattr(label, "unit", "relative"))
            for label, cut in rows
        ]

    def _labeler(self, spec: TokenSpec) -> Labeler:
        target = view_labeler(self.ds, [spec])
        assert target is not None
        if target.labeler not in self._labelers:
            self._labelers[target.labeler] = target.build(self.ds)
        return self._labelers[target.labeler]

    # -- tokens, decoded and predicted

    def tokens(self, name: str) -> Tokens:
        """The tokens of view 0 of each photo; None for nulls."""
        found: Tokens = {}
        for k, shard in self.shards.items():
            opened = open_tokens(self.ds.open_shard(name, self.manifest.modalities[name], k)[0])
            found |= {(k, row): opened.row(row, 0) for row in shard.rows}
        return found

    def from_tokens(self, spec: TokenSpec) -> tuple[dict[Key, Label | Null], dict[Key, Label | Null]]:
        """Labels of one modality: its tokens decoded, and what the model predicts."""
        recipe = self.ds.recipe(self.manifest.modalities[spec.name])
        if spec.kind == "values":
            return decode(spec, without_tokenizer([spec])[spec.name], self.tokens(spec.name)), {}
        if "tokenizer" not in recipe["weights"]:  # imported tokens
            return {}, {}
        tokenizer = load_tokenizer(self.ds.weights_path(recipe["weights"]["tokenizer"]["sha256"]))
        real = self.given if spec.name == RGB else self.tokens(spec.name)
        decoded = decode(spec, tokenizer, real)
        predicted: Tokens = {}
        if self.predictor is not None and spec.name in self.predictor.streams and self.given:
            predicted = self.complete(real) if spec.name == RGB else self.predict(spec, tokenizer)
        return decoded, decode(spec, tokenizer, predicted)

    def predict(self, spec: TokenSpec, tokenizer: Tokenizer) -> Tokens:
        assert self.predictor is not None
        keys = [key for key, ids in self.given.items() if ids is not None]
        allowed = (
            grammar.allowed_ids(tokenizer.grammar, tokenizer.words)
            if isinstance(tokenizer, SequenceTokenizer)
            else None
        )
        tokens = self.predictor.predict(
            {RGB: [self.given[key] for key in keys]},
            spec.name,
            DRAWN if spec.stream == "image" else LIKELIEST,
            allowed=allowed,
        )
        return dict(zip(keys, tokens, strict=True))

    def complete(self, real: Tokens) -> Tokens:
        """RGB from the left half of its own tokens: what the model makes of the hidden right half."""
        assert self.predictor is not None
        grid = self.specs[RGB].grid
        assert grid is not None
        shown = np.flatnonzero(np.arange(grid[0] * grid[1]) % grid[1] < grid[1] // 2)
        keys = [key for key, ids in real.items() if ids is not None]
        known = [real[key] for key in keys]
        tokens = self.predictor.complete(RGB, np.stack([ids for ids in known if ids is not None]), shown, DRAWN)
        return dict(zip(keys, tokens, strict=True))

    def show(self, name: str, modality: Modality | None, label: Label | Null | None, image: np.ndarray) -> Cell | None:
        if label is None:
            return None
        if isinstance(label, Null):
            return Words(label.reason, muted=True)
        if name == "rgb" or modality is None:
            return Picture(label)
        return modality.show(label, image)


def decode(spec: TokenSpec, tokenizer: Tokenizer, tokens: Mapping[Key, np.ndarray | None]) -> dict[Key, Label | Null]:
    """Labels of the tokens that are there."""
    some = {key: ids for key, ids in tokens.items() if ids is not None}
    return dict(zip(some, decode_views(spec, tokenizer, list(some.values())), strict=True))


def view_pixels(image: np.ndarray, shard: ShardViews, at: int) -> np.ndarray:
    """View 0 of a photo as the page shows it: uint8 (224, 224, 3)."""
    return cut_image(image, shard.views[at][0], SHOWN_VIEW)
