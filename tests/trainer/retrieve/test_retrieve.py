"""Indexes are exact, kept with their digests, and hold the right samples; retrieval scores itself by real embeddings."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from labelers.core.registry import all_modalities
from pipeline.cli.find import run_index, run_retrieve
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from tests.trainer.trained import config_of
from trainer.generate.chain import Request
from trainer.generate.decoding import Decoding
from trainer.generate.job import Job, Order
from trainer.predict import Predictor
from trainer.retrieve import index as index_module
from trainer.retrieve.index import VectorIndex
from trainer.retrieve.vectors import drawn, labelled, predicted, tokenized, unit


def test_an_index_of_labels_finds_what_a_search_by_hand_finds(trained: Path) -> None:
    ds = Dataset.open(str(trained))
    record = run_index(config_of(trained), "small_vector", "labels", [])
    assert (record["name"], record["count"], record["missing"], record["dim"]) == ("small_vector", 8, 1, 12)
    assert record["recipe"] == ds.current("small_vector")
    index = VectorIndex.load(ds, "small_vector")
    rows = labelled(ds, "small_vector").rows
    found = index.search(rows, 3)
    assert np.array_equal(found.rows, np.argsort(-(rows @ rows.T), axis=1, kind="stable")[:, :3])
    assert np.allclose(found.cosine[:, 0], 1, atol=1e-6)
    for id, (k, row) in zip(index.ids, index.spots, strict=True):
        assert ds.ids(k)[row] == id
        own = unit(ds.labels(all_modalities()["small_vector"], k)[row])
        assert np.allclose(rows[index.ids.index(id)], own)


def test_a_graph_takes_over_where_there_are_many(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "EXACT", 4)
    ds = Dataset.open(str(trained))
    run_index(config_of(trained), "small_vector", "labels", [])
    index = VectorIndex.load(ds, "small_vector")
    rows = labelled(ds, "small_vector").rows
    assert "HNSW" in type(index.index).__name__
    assert np.array_equal(index.search(rows, 1).rows[:, 0], np.arange(8))


def test_retrieval_by_real_tokens_and_by_predictions(trained: Path) -> None:
    ds, config = Dataset.open(str(trained)), config_of(trained)
    run_index(config, "small_global", "tokens", [], view=1)
    report = run_retrieve(config, ["rgb"], {}, "small_global-tokens", k=8, rows=0)
    assert len(report["neighbours"]) == 9 and report["figures"]["queries"] == 8, (
        "one photo is too dark for an embedding"
    )
    assert report["figures"]["self@8"] == 1 and report["figures"]["recall@8"] == 1, (
        "all eight are among the first eight"
    )
    assert -1 <= report["figures"]["cosine"] <= 1
    few = run_retrieve(config, ["rgb"], {}, "small_global-tokens", k=1, rows=0)
    rows, queries = tokenized(ds, "small_global", 1), tokenized(ds, "small_global", 0)
    cosine = queries.rows @ rows.rows.T
    others = np.where(np.eye(8, dtype=bool), -1.0, cosine).max(axis=1)
    ahead, level = (float(np.mean(cosine.diagonal() > others + slack)) for slack in (1e-6, -1e-6))
    assert ahead <= few["figures"]["real_self@1"] <= level and level < 1, "photos of one vector may come in any order"
    page = Path(report["page"]).read_text()
    assert "found</small>" in page and "itself" in page


def test_an_index_of_predictions_and_a_query_by_hand(trained: Path) -> None:
    config = config_of(trained)
    record = run_index(config, "small_vector", "model", ["rgb"])
    assert record["name"] == "small_vector-model-rgb" and record["from"] == ["tok_rgb"] and len(record["model"]) == 64
    same = run_retrieve(config, ["rgb"], {}, record["name"], k=1, rows=0)
    assert all(found[0]["cosine"] == pytest.approx(1, abs=1e-4) for found in same["neighbours"].values())
    by_hand = run_retrieve(config, [], {"caption": "a gazpacho on a table"}, record["name"], k=3)
    assert [(name, len(found)) for name, found in by_hand["neighbours"].items()] == [("given", 3)]
    assert by_hand["figures"] == {}, "it is of no photo"
    part = run_retrieve(config, [], {"rgb": "left"}, record["name"], k=1, rows=3)
    assert len(part["neighbours"]) == 3, "a region is of a photo"


def job_of(root: Path, targets: tuple[str, ...], variants: int, given: dict[str, str] | None = None) -> Job:
    how = {name: Decoding(temperature=1.0, steps=1) for name in targets}
    order = Order(("tok_rgb",), Request(targets, how), given or {}, variants=variants)
    return Job(Dataset.open(str(root)), Predictor.load(root / "_models" / "model"), order)


def test_what_is_expected_is_what_many_drawn_ones_come_to(trained: Path) -> None:
    """Both as far as a tiny tokenizer's decoder is linear: the more are drawn, the nearer their mean comes."""
    spots = [(0, 0), (0, 1), (0, 2)]
    one, many = (job_of(trained, ("tok_small_global",), n) for n in (1, 200))
    expected = predicted(one, "tok_small_global", spots)
    near = [np.sum(expected.rows * drawn(job, "tok_small_global", spots).rows, axis=1) for job in (one, many)]
    assert (near[1] > 0.99).all() and near[1].mean() > near[0].mean()
    assert np.array_equal(predicted(many, "tok_small_global", spots).rows, expected.rows), "nothing is drawn"


def test_what_is_expected_follows_what_was_drawn_before_it(trained: Path) -> None:
    chained = job_of(trained, ("tok_canny_edge", "tok_small_global"), 3)
    (_, labels), *_ = chained.expected("tok_small_global", [(0, 0)])
    assert len(labels) == 3, "one for each of the edges that were drawn"
    alone = job_of(trained, ("tok_small_global",), 3)
    ((_, same),) = alone.expected("tok_small_global", [(0, 0)])
    assert len(same) == 1 and not np.allclose(labels[0], same[0])
    with pytest.raises(ConfigError, match="has no average"):
        next(chained.expected("tok_canny_edge", [(0, 0)]))
    part = job_of(trained, ("tok_small_global",), 2, {"tok_small_global": "50%"})
    assert not part.averages("tok_small_global") and len(predicted(part, "tok_small_global", [(0, 0)]).rows) == 1


def test_what_cannot_be_searched_is_refused(trained: Path) -> None:
    config, ds = config_of(trained), Dataset.open(str(trained))
    for says, call in (
        ("is no embedding to search by. Known: ", lambda: run_index(config, "canny_edge", "labels", [])),
        ("is not one of labels, tokens, model", lambda: run_index(config, "small_vector", "truth", [])),
        ("name what the model predicts from", lambda: run_index(config, "small_vector", "model", [])),
        ("has views 0..1", lambda: run_index(config, "small_global", "tokens", [], view=7)),
        ("has no such index", lambda: run_retrieve(config, ["rgb"], {}, "small_vector")),
        ("name what to search from", lambda: run_retrieve(config, [], {}, "small_vector")),
        ("is less than 1", lambda: run_retrieve(config, ["rgb"], {}, "small_vector", k=0)),
    ):
        with pytest.raises(ConfigError, match=re.escape(says)):
            call()
    run_index(config, "small_vector", "labels", [])
    with pytest.raises(ConfigError, match="queries have 5 numbers, the index 12"):
        VectorIndex.load(ds, "small_vector").search(np.zeros((1, 5), np.float32), 1)
    file = trained / "_indexes" / "small_vector" / "vectors.faiss"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(DamageError, match="is not the file that was written"):
        VectorIndex.load(ds, "small_vector")
