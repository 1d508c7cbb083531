"""Fitting on a data set: held-out photos are never looked at, and the same labels and settings give the same files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.core.modality import Null
from labelers.core.registry import all_modalities
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from pipeline.records import file_sha256
from tests.tokenize_shards.small import SILENT, WORDS, number_of, small_config, small_table
from tests.world import fake_photos
from tokenize_shards import gather as module
from tokenize_shards.fit import fit_all, fit_report, fit_together
from tokenize_shards.gather import Gatherer
from tokenize_shards.holdout import held_out
from tokenize_shards.sequence import SequenceTokenizer
from tokenize_shards.table import specs
from tokenize_shards.tokenizer import FitError, load_tokenizer
from tokenize_shards.vit_vq import ViTVQ

NAMES = [
    "tok_rgb", "tok_canny_edge", "tok_caption", "tok_color_palette", "tok_metadata",
    "tok_small_map", "tok_small_global", "tok_small_vector",
]  # fmt: skip


def fit(root: Path, *only: str, again: bool = False, **tokens: Any) -> dict[str, dict[str, Any]]:
    return fit_all(Dataset.open(str(root)), small_config(root, **tokens), only, again, lambda *_: None)


def held_ids(ds: Dataset) -> set[str]:
    """The photos held out, worked out from the index alone."""
    return {i for k in ds.shards() for i, out in zip(ds.ids(k), held_out(ds.ids(k), 0.25), strict=True) if out}


def test_inputs_are_divided_by_photo(labelled: Path) -> None:
    ds = Dataset.open(str(labelled))
    data = Gatherer(ds, small_config(labelled)).gather([specs()["tok_color_palette"]])["tok_color_palette"]
    train, held = ({cut[2] for cut in cuts} for cuts in (data.train, data.heldout))
    assert held == held_ids(ds) and len(held) == 2
    assert train | held == {i for k in ds.shards() for i in ds.ids(k)} and not train & held
    assert len(data.train) == 8 * len(train), "eight views a photo where there is room"


def test_a_fit_sees_other_views_than_are_tokenized(labelled: Path) -> None:
    gatherer = Gatherer(Dataset.open(str(labelled)), small_config(labelled, seed=5))
    assert gatherer.seed != 5
    cuts = gatherer.gather([specs()["tok_color_palette"]])["tok_color_palette"].train
    assert len({cut[1] for cut in cuts if cut[3] > 0}) > 4 * len({cut[2] for cut in cuts})


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 200))
def test_a_fit_looks_at_no_more_views_than_allowed_spread_over_all(sizes: list[int], limit: int) -> None:
    gatherer = Gatherer.__new__(Gatherer)
    gatherer.held, gatherer.samples = {k: np.zeros(n, bool) for k, n in enumerate(sizes)}, sum(sizes)
    rows, views = gatherer._rows(limit)
    places = [sum(sizes[:k]) + row for k, chosen in rows.items() for row in chosen]
    assert 1 <= len(places) * views <= limit and 1 <= views <= 8
    assert all(0 <= row < sizes[k] for k, chosen in rows.items() for row in chosen)
    assert len({b - a for a, b in pairwise(places)}) <= 1, "evenly, whatever the shards"
    assert len(places) == sum(sizes) or 2 * len(places) >= limit, "and not far fewer"


def test_shards_without_a_chosen_photo_are_not_read(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.MAX_VIEWS, "cut", 2)
    ds = Dataset.open(str(labelled))
    read, files = list[int](), ds.image_files

    def told(k: int, *more: Any) -> Any:
        read.append(k)
        return files(k, *more)

    monkeypatch.setattr(ds, "image_files", told)
    data = Gatherer(ds, small_config(labelled)).gather([specs()["tok_rgb"]])["tok_rgb"]
    assert read == [0, 1] and len(data.train) + len(data.heldout) == 3, "one held out, for the two that are not"


def test_fitting_names_every_tokenizer_in_the_manifest(fitted: Path) -> None:
    ds = Dataset.open(str(fitted))
    manifest = ds.manifest()
    assert sorted(manifest.tokenizers) == sorted([*NAMES, "text"])
    for name, sha256 in manifest.tokenizers.items():
        path = ds.weights_path(sha256)
        assert file_sha256(path) == sha256
        tokenizer, report = load_tokenizer(path), fit_report(ds, name)
        assert report is not None and report["sha256"] == sha256
        assert (report["kind"], report["vocab"], report["tokens"]) == (
            tokenizer.kind,
            tokenizer.vocab,
            tokenizer.tokens,
        )
        assert name == "text" or tokenizer.tokens == specs()[name].tokens
    for name, figure in (("tok_rgb", "psnr_db"), ("tok_canny_edge", "f1"), ("tok_small_map", "cosine")):
        report = fit_report(ds, name)
        assert report is not None and report["steps"] == 2 and set(report["metrics"]) == {figure}


def test_fitting_again_does_nothing_unless_asked(fitted: Path) -> None:
    before = Dataset.open(str(fitted)).manifest()
    assert fit(fitted) == {}
    assert Dataset.open(str(fitted)).manifest() == before
    reports = fit(fitted, "tok_rgb", "tok_small_map", "tok_caption", again=True)
    assert sorted(reports) == ["tok_caption", "tok_rgb", "tok_small_map"]
    assert Dataset.open(str(fitted)).manifest() == before, "the same steps and seed give the same files"
    fit(fitted, "tok_canny_edge", again=True, seed=1)
    after = Dataset.open(str(fitted)).manifest().tokenizers
    assert {name for name in NAMES if after[name] != before.tokenizers[name]} == {"tok_canny_edge"}


def test_the_vocabulary_is_shared_and_knows_no_held_out_caption(fitted: Path) -> None:
    ds = Dataset.open(str(fitted))
    texts = [load_tokenizer(ds.weights_path(sha)) for name, sha in ds.manifest().tokenizers.items()]
    words = [tokenizer.words for tokenizer in texts if isinstance(tokenizer, SequenceTokenizer)]
    assert len(words) == 4 and len({w.digest for w in words}) == 1
    held = held_ids(ds)
    for k in ds.shards():
        for row, sample in enumerate(ds.ids(k)):
            number = number_of(ds, k, row)
            learned = sample not in held and number != SILENT
            assert (WORDS[number] in words[0].ids) == learned
    assert "table" in words[0].ids


def test_a_later_sequence_takes_the_vocabulary_there_is(labelled: Path) -> None:
    fit(labelled, "tok_caption")
    ds = Dataset.open(str(labelled))
    fit(labelled, "tok_metadata", holdout=0.0)  # captions of every photo: another vocabulary, were it fitted anew
    made = ds.manifest().tokenizers
    first, second = (load_tokenizer(ds.weights_path(made[name])) for name in ("tok_caption", "tok_metadata"))
    assert isinstance(first, SequenceTokenizer) and isinstance(second, SequenceTokenizer)
    assert first.words.digest == second.words.digest


def test_a_budget_of_seconds_and_progress(labelled: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    config = small_config(labelled, fit_steps=None, fit_seconds=0.3)
    reports = fit_all(
        Dataset.open(str(labelled)), config, ["tok_canny_edge"], False, lambda *values: told.append(values)
    )
    assert reports["tok_canny_edge"]["steps"] >= 1
    assert told[0] == ("tok_canny_edge", 0, 100, "reading") and told[-1] == ("tok_canny_edge", 100, 100, "")
    shares = [done for _, done, _, _ in told]
    assert shares == sorted(shares) and all(total == 100 for _, _, total, _ in told)


def test_a_modality_nobody_has_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    with small_table():
        root, notes = tmp_path / "ds", list[tuple[str, str]]()
        ds = Dataset.create(str(root), "w", 4)
        ingest(ds, [str(fake_photos(tmp_path / "photos", 3))])
        label(ds, small_config(root), only=["caption", "color_palette"])
        assert all(isinstance(found, Null) for found in ds.labels(all_modalities()["caption"], 0))
        config = small_config(root, modalities=["tok_caption", "tok_color_palette"])
        reports = fit_all(ds, config, [], False, lambda name, done, total, note: notes.append((name, note)))
        assert list(reports) == ["tok_color_palette"] and set(ds.manifest().tokenizers) == {"text", "tok_color_palette"}
        assert [name for name, note in notes if note.startswith("left out: tok_caption: no photo")] == ["tok_caption"]
        with pytest.raises(FitError, match="no photo that may be learned from has caption"):
            fit_all(ds, config, ["tok_caption"], False, lambda *_: None)
        assert fit_report(ds, "tok_caption") is None


def test_what_cannot_be_fitted_is_refused(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no token modality is named 'tok_rgbb'"):
        fit(labelled, "tok_rgbb")
    Dataset.create(str(tmp_path / "new"), "new", 4)
    with pytest.raises(ConfigError, match="tok_rgb: rgb is not labelled yet"):
        fit(tmp_path / "new", "tok_rgb")


def test_networks_get_the_shape_of_their_row(fitted: Path) -> None:
    ds = Dataset.open(str(fitted))
    for name, content, resolution, patch in (
        ("tok_rgb", "pixels", 32, 8), ("tok_canny_edge", "edges", 32, 8), ("tok_small_map", "features", 4, 1),
    ):  # fmt: skip
        tokenizer = load_tokenizer(ds.weights_path(ds.manifest().tokenizers[name]))
        assert isinstance(tokenizer, ViTVQ)
        found = tokenizer.spec
        assert (found.content, found.resolution, found.patch) == (content, resolution, patch)
        assert (found.channels, found.vocab) == (specs()[name].channels, specs()[name].vocab)


def test_workers_open_a_data_set_of_a_relative_root(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fitted.parent)
    sent: dict[str, Any] = {}
    monkeypatch.setattr(
        "pipeline.execution.ray_train.run_workers", lambda function, settings, *_: sent.update(settings)
    )
    fit_together(Dataset.open("ds"), small_config("ds"), [], False)
    assert sent["config"]["root"] == str(fitted) and sent["config"]["shard_size"] == 4
