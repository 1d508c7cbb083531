"""The `fit` command's work: tokenizers fitted on the data set's own labels, kept by digest, named by the manifest.

Fitting looks at views of its own (another seed than the token shards) of photos that are not held out; the held-out
figures in each report come from held-out photos. A fit that is killed goes on from its last snapshot. Several workers,
each a process with this code and a process group (ray_train.py), fit together; the first of them keeps the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.records import canonical_json, file_sha256
from tokenize_shards.fit_page import render_fit
from tokenize_shards.fit_state import StoredState
from tokenize_shards.gather import FitData, Gatherer
from tokenize_shards.kinds import make_mask_codec, make_pose_codec, make_tokenizer
from tokenize_shards.sequence import CODECS, SequenceTokenizer, codec_items
from tokenize_shards.table import AS_LABELS, TokenSpec
from tokenize_shards.text import NAME as TEXT
from tokenize_shards.text import fit_text, vocabulary
from tokenize_shards.tokenize import grouped, other_settings, owners, wanted_specs
from tokenize_shards.tokenizer import FitError, FitReport, Tokenizer
from tokenize_shards.wordpiece import WordPiece
from tokenize_shards.world import this_worker

Progress = Callable[[str, int, int, str], None]


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
    wanted = [
        spec for spec in owners(ds, config, wanted_specs(ds, config, only))
        if again or spec.name not in ds.manifest().tokenizers or other_settings(ds, spec)
    ]  # fmt: skip
    gatherer = Gatherer(ds, config)
    words: WordPiece | None = None
    for members in grouped(ds, wanted).values():
        progress(members[0].name, 0, 100, "reading")
        data = gatherer.gather(members)
        for spec in members:
            if spec.kind == "sequence" and words is None:
                words = vocabulary(ds, config)
            state = _state(ds, spec, config)
            try:
                tokenizer, report = _fit_one(spec, data[spec.name], words, config, progress, state)
            except FitError as error:
                if only:
                    raise
                progress(spec.name, 100, 100, f"left out: {error}")
                continue
            if not this_worker().rank:
                reports[spec.name] = _keep(ds, spec, tokenizer, report, data[spec.name])
                state.clear()
            progress(spec.name, 100, 100, "")
    return reports


def fit_together(ds: Dataset, config: Config, only: Sequence[str], again: bool) -> dict[str, dict[str, Any]]:
    """`fit_all` in config.tokens.fit_workers processes under Ray Train, each with a GPU where there are any."""
    import torch

    from pipeline.execution.ray_train import run_workers

    before = ds.manifest().tokenizers
    # By its full name: workers run in folders of their own.
    found = config.model_copy(update={"root": ds.storage.url})
    settings = {"config": found.model_dump(), "only": list(only), "again": again}
    run_workers(fit_as_worker, settings, config.tokens.fit_workers, torch.cuda.is_available())
    after = ds.manifest().tokenizers
    return {name: fit_report(ds, name) or {} for name in after if again or after[name] != before.get(name)}


def fit_as_worker(config: dict[str, Any], only: Sequence[str], again: bool) -> None:
    """What each process of `fit_together` does."""
    settings = Config(**config)
    fit_all(Dataset.open(settings.root), settings, only, again, lambda *_: None)


def _state(ds: Dataset, spec: TokenSpec, config: Config) -> StoredState:
    """Where snapshots of this fit are: under a key of all that decides it."""
    tokens = config.tokens
    decides = {
        "spec": asdict(spec), "seed": tokens.seed, "holdout": tokens.holdout, "seconds": tokens.fit_seconds,
        "steps": tokens.fit_steps, "reads": ds.current(spec.modality), "shards": len(ds.shards()),
        "workers": this_worker().size,
    }  # fmt: skip
    key = hashlib.sha256(canonical_json(decides)).hexdigest()[:16]
    return StoredState(ds.storage, f"{spec.name}-{key}")


def _fit_one(
    spec: TokenSpec, data: FitData, words: WordPiece | None, config: Config, progress: Progress, state: StoredState
) -> tuple[Tokenizer, FitReport]:
    budget: dict[str, Any] = {"seconds": config.tokens.fit_seconds}
    if config.tokens.fit_steps:
        budget = {"steps": config.tokens.fit_steps}
    reached = 0

    def tick(step: int, loss: float, left: float) -> None:
        nonlocal reached
        total = config.tokens.fit_steps or config.tokens.fit_seconds
        done = step / total if config.tokens.fit_steps else 1 - left / total
        reached = max(reached, min(99, int(100 * done)))  # a later stage counts from 0 again
        progress(spec.name, reached, 100, "")

    if spec.kind == "sequence":
        assert words is not None
        return _fit_sequence(spec, data, words, config, budget, tick, state)
    if not data.train:
        raise FitError(f"{spec.name}: no photo that may be learned from has {spec.modality}")
    if spec.channels == AS_LABELS:
        spec = replace(spec, channels=int(np.shape(data.train[0])[-1]))
    tokenizer = make_tokenizer(spec)
    if spec.kind == "mlp_pq" and "seconds" in budget:
        budget = {"seconds": budget["seconds"] / 3}  # a small network and few vectors: more time changes nothing
    report = tokenizer.fit(
        data.source(), data.heldout_array(), seed=config.tokens.seed, progress=tick, state=state, **budget
    )
    return tokenizer, report


def _fit_sequence(
    spec: TokenSpec, data: FitData, words: WordPiece, config: Config, budget: dict[str, Any],
    tick: Callable[..., None], state: StoredState,
) -> tuple[Tokenizer, FitReport]:  # fmt: skip
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
    report = codec.fit(train, heldout, seed=seed, progress=tick, state=state, **share)
    return SequenceTokenizer(spec.modality, limit, words, codec, seed, spec.content), report


def _keep(ds: Dataset, spec: TokenSpec, tokenizer: Tokenizer, report: FitReport, data: FitData) -> dict[str, Any]:
    """Store the tokenizer by digest, its report and its page beside it, and let the manifest name it."""
    with ds.storage.scratch() as folder:
        path = folder / spec.name
        tokenizer.save(path)
        sha256 = file_sha256(path)
        ds.put_weights(path, sha256)
        page = folder / "page.html"
        if render_fit(spec, tokenizer, report, data, page):
            ds.storage.publish(page, f"_fits/{sha256}.html")
    record = {
        **report.to_json(), "sha256": sha256, "vocab": tokenizer.vocab, "tokens": tokenizer.tokens, "spec": asdict(spec),
    }  # fmt: skip
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
