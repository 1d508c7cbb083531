"""The `fit` command's work: tokenizers fitted on the data set's own labels, kept by digest, named by the manifest.

Fitting looks at views of its own (another seed than the token shards) of photos that are not held out; the held-out
figures in each report come from held-out photos. Given up here: streaming; the views of a fit are held in memory, a few
hundred of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelers.core.modality import Null
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.records import canonical_json, file_sha256
from tokenize_shards.holdout import held_out
from tokenize_shards.inputs import Cut, ShardViews
from tokenize_shards.kinds import make_mask_codec, make_pose_codec, make_tokenizer
from tokenize_shards.sequence import CODECS, SequenceTokenizer, codec_items
from tokenize_shards.table import TokenSpec
from tokenize_shards.text import NAME as TEXT
from tokenize_shards.text import fit_text, vocabulary
from tokenize_shards.tokenize import grouped, owners, view_labeler, wanted_specs
from tokenize_shards.tokenizer import FitError, FitReport, Tokenizer
from tokenize_shards.wordpiece import WordPiece

FIT_SEED = 0x5EED  # added to the seed of the views, so that a fit sees other crops than are tokenized
MAX_VIEWS = {"cut": 1600, "on_view": 240}  # views of a fit, held-out ones included; networks on views are slow
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class FitData:
    """Inputs of one tokenizer: views of photos to learn from, and of held-out ones."""

    train: list[Cut]
    heldout: list[Cut]


class Gatherer:
    """Reads inputs for fits from the shards, evenly over all photos, up to a number of views."""

    def __init__(self, ds: Dataset, config: Config) -> None:
        self.ds, self.seed = ds, config.tokens.seed + FIT_SEED
        self.held = {k: held_out(ds.ids(k), config.tokens.holdout) for k in ds.shards()}
        self.samples = sum(len(held) for held in self.held.values())

    def _rows(self, limit: int) -> tuple[dict[int, list[int]], int]:
        """Rows of each shard to look at, and views a row, so that at most `limit` views are made."""
        stride, first = max(1, -(-self.samples // limit)), 0
        rows = {}
        for k, held in self.held.items():  # every stride-th sample of the data set, not of each shard
            rows[k] = list(range(-first % stride, len(held), stride))
            first += len(held)
        return rows, int(np.clip(limit // max(1, sum(map(len, rows.values()))), 1, 8))

    def gather(self, members: Sequence[TokenSpec]) -> dict[str, FitData]:
        """The inputs of one group of token modalities, by name."""
        target = view_labeler(self.ds, members)
        labeler = target.build(self.ds) if target else None
        rows, views = self._rows(MAX_VIEWS["on_view" if labeler else "cut"])
        data = {spec.name: FitData([], []) for spec in members}
        for k, chosen in rows.items():
            if not chosen:
                continue
            shard = ShardViews(self.ds, k, range(views), self.seed, chosen)
            if labeler is not None:
                found = shard.on_view(labeler, members)
            else:
                found = {spec.name: shard.cut(spec, self.ds.current(spec.modality)) for spec in members}
            for name, cuts in found.items():
                for row, views_of_row in zip(chosen, cuts, strict=True):
                    if not isinstance(views_of_row, Null):
                        (data[name].heldout if self.held[k][row] else data[name].train).extend(views_of_row)
        return data


def fit_all(
    ds: Dataset, config: Config, only: Sequence[str], again: bool, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Fit the wanted tokenizers that the manifest lacks (all of them with `again`); token modality -> report.

    "text" in `only` is the text vocabulary. A tokenizer whose modality has nothing to learn from is left out, with a
    note in its report, unless it was asked for.
    """
    reports: dict[str, dict[str, Any]] = {}
    if TEXT in only:
        if again or TEXT not in ds.manifest().tokenizers:
            progress(TEXT, 0, 100, "reading")
            reports[TEXT] = fit_text(ds, config)[1]
            progress(TEXT, 100, 100, "")
        only = [name for name in only if name != TEXT]
        if not only:
            return reports
    have = {} if again else ds.manifest().tokenizers
    wanted = [spec for spec in owners(ds, config, wanted_specs(ds, config, only)) if spec.name not in have]
    gatherer = Gatherer(ds, config)
    words: WordPiece | None = None
    for members in grouped(ds, wanted).values():
        progress(members[0].name, 0, 100, "reading")
        data = gatherer.gather(members)
        for spec in members:
            if spec.kind == "sequence" and words is None:
                words = vocabulary(ds, config)
            try:
                tokenizer, report = _fit_one(spec, data[spec.name], words, config, progress)
            except FitError as error:
                if only:
                    raise
                progress(spec.name, 100, 100, f"left out: {error}")
                continue
            reports[spec.name] = _keep(ds, spec, tokenizer, report)
            progress(spec.name, 100, 100, "")
    return reports


def _fit_one(
    spec: TokenSpec, data: FitData, words: WordPiece | None, config: Config, progress: Progress
) -> tuple[Tokenizer, FitReport]:
    budget: dict[str, Any] = {"seconds": config.tokens.fit_seconds}
    if config.tokens.fit_steps:
        budget = {"steps": config.tokens.fit_steps}

    def tick(step: int, loss: float, left: float) -> None:
        total = config.tokens.fit_steps or config.tokens.fit_seconds
        done = step / total if config.tokens.fit_steps else 1 - left / total
        progress(spec.name, min(99, int(100 * done)), 100, "")

    if spec.kind == "sequence":
        assert words is not None
        return _fit_sequence(spec, data, words, config, budget, tick)
    if not data.train:
        raise FitError(f"{spec.name}: no photo that may be learned from has {spec.modality}")
    tokenizer = make_tokenizer(spec)
    if spec.kind == "mlp_pq" and "seconds" in budget:
        budget = {"seconds": budget["seconds"] / 3}  # a small network and few vectors: more time changes nothing
    train = np.stack(data.train)
    heldout = np.stack(data.heldout) if data.heldout else train[:0]
    return tokenizer, tokenizer.fit(train, heldout, seed=config.tokens.seed, progress=tick, **budget)


def _fit_sequence(
    spec: TokenSpec, data: FitData, words: WordPiece, config: Config, budget: dict[str, Any], tick: Callable[..., None]
) -> tuple[Tokenizer, FitReport]:
    """The sequence tokenizer of a modality; where its grammar needs a codec (of body poses, of masks), that is fitted
    first, and its figures are reported.
    """
    if not data.train:
        raise FitError(f"{spec.name}: no photo that may be learned from has {spec.modality}")
    limit, seed = spec.max_tokens or 0, config.tokens.seed
    if spec.content not in CODECS:
        tokenizer = SequenceTokenizer(spec.modality, limit, words, None, seed, spec.content)
        return tokenizer, tokenizer.fit(data.train, data.heldout)
    side = int(spec.params.get("mask_size", 0))
    train, heldout = (codec_items(spec.content, cuts, side) for cuts in (data.train, data.heldout))
    if not len(train):
        raise FitError(f"{spec.name}: no photo that may be learned from has any {CODECS[spec.content]}")
    poses = spec.content == "human_poses"
    codec: Tokenizer = make_pose_codec(spec, train.shape[1]) if poses else make_mask_codec(spec)
    share = {"seconds": budget["seconds"] / 2} if poses and "seconds" in budget else budget
    report = codec.fit(train, heldout, seed=seed, progress=tick, **share)
    return SequenceTokenizer(spec.modality, limit, words, codec, seed, spec.content), report


def _keep(ds: Dataset, spec: TokenSpec, tokenizer: Tokenizer, report: FitReport) -> dict[str, Any]:
    """Store the tokenizer by digest and its report beside it, and let the manifest name it."""
    with ds.storage.scratch() as folder:
        path = folder / spec.name
        tokenizer.save(path)
        sha256 = file_sha256(path)
        ds.put_weights(path, sha256)
    record = {**report.to_json(), "sha256": sha256, "vocab": tokenizer.vocab, "tokens": tokenizer.tokens}
    ds.storage.put_if_absent(f"_fits/{sha256}.json", canonical_json(record))
    ds.update_manifest(tokenizers={spec.name: sha256})
    return record


def fit_report(ds: Dataset, name: str) -> dict[str, Any] | None:
    """The report of the fit that made the current tokenizer of a token modality, or None."""
    sha256 = ds.manifest().tokenizers.get(name)
    try:
        found: dict[str, Any] = json.loads(ds.storage.read_bytes(f"_fits/{sha256}.json"))
    except FileNotFoundError:
        return None
    return found
