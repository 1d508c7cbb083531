"""`manymodal evaluate` on a small data set: perfect where things are equal, empty where something is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelers.core.registry import all_labelers, all_modalities
from pipeline.care.verify import refs_on
from pipeline.cli.judge import run_evaluate
from pipeline.config import Config, LabelerConfig
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from pipeline.records import Commit
from pipeline.shard_task import replace
from pipeline.shards import label_file, verify_labels, write_labels
from tests.labelers.tiny import photo
from tests.trainer.trained import config_of
from trainer.evaluation.job import COLUMNS, PUBLISHED
from trainer.train import TrainConfig, train


def cells(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, float | None]]:
    return {(row["modality"], row["score"]): {c: row[c] for c in COLUMNS} for row in report["rows"]}


def add_truth(root: Path, name: str, labeler: str = "import_edges") -> str:
    """The data set's own labels of a modality once more, as if somebody had imported them; the recipe."""
    ds, modality = Dataset.open(str(root)), all_modalities()[name]
    recipe = ds.put_recipe({**ds.recipe(ds.current(name)), "labeler": labeler, "backend": "import"})
    for k in ds.shards():
        labels, inputs = ds.labels(modality, k), dict(ds.commit_of(name, ds.current(name), k).inputs)  # type: ignore[union-attr]
        draft = Commit(name, recipe, k, label_file(modality, k), 0, 0, "")
        replace(
            ds, draft, lambda path, labels=labels, inputs=inputs, k=k: write_labels(path, modality, ds.ids(k), labels, inputs),
            lambda path: verify_labels(path, modality),
        )  # fmt: skip
    return recipe


def test_the_whole_table(trained: Path) -> None:
    truth = add_truth(trained, "canny_edge")
    report = run_evaluate(config_of(trained), ["rgb"], [], rows=0, everything=True, options={"steps": 2}, quiet=True)
    found = cells(report)
    assert report["samples"] == 9 and {(m, s) for m, s, _ in PUBLISHED} <= set(found)
    assert all(value is None for m, s, _ in PUBLISHED for value in found[m, s].values()), "nothing published is here"
    edges = found["canny_edge", "edge_f1"]
    assert edges["labels_vs_truth"] == 1, "they are the same"
    assert edges["model_vs_labels"] == pytest.approx(edges["model_vs_truth"]) and 0 <= edges["tokenizer_bound"] <= 1  # type: ignore[operator]
    assert found["rgb", "psnr_db"]["model_vs_labels"] is None, "RGB is what is given"
    assert found["rgb", "psnr_db"]["tokenizer_bound"] > 5  # type: ignore[operator]
    assert found["color_palette", "colour_distance"]["tokenizer_bound"] == 0, "a palette is exact in its tokens"
    assert (
        found["caption", "word_f1"]["tokenizer_bound"] == 1 and found["caption", "word_f1"]["labels_vs_truth"] is None
    )
    assert (
        found["small_global", "cosine"]["tokenizer_bound"] is None
        and "tokens, decoded" in report["notes"]["small_global"]
    )
    assert "top5" in {s for m, s in found if m == "small_vector"}
    assert set(report["perplexity"]) >= {"canny_edge", "caption"} and all(v > 1 for v in report["perplexity"].values())
    written = json.loads(Path(report["page"]).with_suffix(".json").read_text())
    assert written["rows"] == report["rows"] and Path(report["plot"]).stat().st_size > 1000
    assert "labels against ground truth" in Path(report["page"]).read_text()
    add_truth(trained, "canny_edge", "import_other")
    with pytest.raises(ConfigError, match="canny_edge: has 2 imported recipes; name the truth with --truth"):
        run_evaluate(config_of(trained), ["rgb"], ["canny_edge"], quiet=True)
    again = run_evaluate(
        config_of(trained), ["rgb"], ["canny_edge"], [f"canny_edge@{truth}"], rows=0, labels_only=True, quiet=True
    )
    assert cells(again)["canny_edge", "edge_f1"] == {
        **dict.fromkeys(COLUMNS),
        "labels_vs_truth": 1.0,
        "tokenizer_bound": edges["tokenizer_bound"],
    }


def test_held_out_samples_alone_and_ensembles_and_neighbours(trained: Path, tmp_path: Path) -> None:
    report = run_evaluate(config_of(trained), ["rgb"], ["canny_edge"], quiet=True)
    assert report["samples"] == 2, "a quarter of shards of 4, 4 and 1"
    one = run_evaluate(
        config_of(trained), ["rgb"], ["canny_edge", "small_vector"], rows=0, everything=True, variants=3,
        options={"temperature": 1.0}, quiet=True, classes=str(_classes(trained, tmp_path)),
    )  # fmt: skip
    assert 0 <= cells(one)["small_vector", "knn_top1"]["model_vs_labels"] <= 1  # type: ignore[operator]
    assert np.isfinite(cells(one)["canny_edge", "edge_f1"]["model_vs_labels"])  # type: ignore[arg-type]


def test_what_the_model_learned_from_is_not_held_out(trained: Path) -> None:
    """Whatever the tokenizers kept out."""
    everything = TrainConfig(name="all", steps=2, batch=4, holdout=0.0, n_in=24, n_out=24)
    train(Dataset.open(str(trained)), everything)
    with pytest.raises(ConfigError, match="no photo was kept out of training"):
        run_evaluate(config_of(trained), ["rgb"], ["canny_edge"], model="all", quiet=True)
    for rows, judged in ((1, 1), (2, 2), (0, 2)):
        report = run_evaluate(config_of(trained), ["rgb"], ["canny_edge"], rows=rows, quiet=True)
        assert report["samples"] == judged


@pytest.mark.parametrize("view", [-1, 2])
def test_a_view_that_is_not_there_is_refused(trained: Path, view: int) -> None:
    with pytest.raises(ConfigError, match=f"view {view}: "):
        run_evaluate(config_of(trained), ["rgb"], ["canny_edge"], view=view, quiet=True)


def _classes(root: Path, folder: Path) -> Path:
    ds, path = Dataset.open(str(root)), folder / "classes.csv"
    names = [Path(row.uri).name for k in ds.shards() for row in ds.index(k)]
    path.write_text("".join(f"{name},{'even' if i % 2 else 'odd'}\n" for i, name in enumerate(names)))
    return path


def test_labels_are_judged_without_tokens_and_without_a_model(tmp_path: Path) -> None:
    root = tmp_path / "ds"
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        Image.fromarray(photo((48, 64), i)).save(photos / f"{i}.png")
    ds = Dataset.create(str(root), "untokenized", 2)
    ingest(ds, [str(photos)])
    true: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}],
    }
    for i in range(2):  # the third photo has no truth
        true["images"].append({"id": i, "file_name": f"{i}.png", "height": 48, "width": 64})
        true["annotations"].append({"id": i, "image_id": i, "category_id": 1, "bbox": [20, 10, 20, 20]})
    found = json.loads(json.dumps(true))
    found["annotations"][1]["bbox"] = [40, 10, 10, 10]
    for name, source in (("truth", true), ("found", found)):
        (tmp_path / f"{name}.json").write_text(json.dumps(source))
        assert not label(ds, import_only(root, tmp_path / f"{name}.json")).failed
    truth = next(r for m, r in refs_on(ds) if m == "det" and r != ds.current("det"))
    with pytest.raises(ConfigError, match="det: has 2 imported recipes"):
        run_evaluate(config_of(root), ["rgb"], ["det"], labels_only=True, quiet=True)
    report = run_evaluate(config_of(root), ["rgb"], ["det"], [f"det@{truth}"], rows=0, labels_only=True, quiet=True)
    scores = cells(report)
    assert scores["det", "ap50"] == {**dict.fromkeys(COLUMNS), "labels_vs_truth": pytest.approx(51 / 101)}
    assert (report["samples"], report["pairs"]) == (3, {"det": {"labels_vs_truth": 2}})
    assert "samples of labels against ground truth: 2" in Path(report["page"]).read_text()
    whole = run_evaluate(config_of(root), ["rgb"], [], [f"det@{truth}"], rows=0, labels_only=True, quiet=True)
    assert whole["rows"] == report["rows"], "without names, what has a truth"
    with pytest.raises(ConfigError, match="canny_edge: the data set has no tokens of it"):
        run_evaluate(config_of(root), ["rgb"], ["canny_edge"], labels_only=True, quiet=True)


def import_only(root: Path, source: Path) -> Config:
    chosen = {name: LabelerConfig(enabled=False) for name in all_labelers()}
    chosen["import_det"] = LabelerConfig(enabled=True, weights={"source": f"file:{source}"})
    return Config(root=str(root), executor="local", labelers=chosen)


def test_classes_are_the_truth_of_an_embedding(trained: Path, tmp_path: Path) -> None:
    classes = str(_classes(trained, tmp_path))
    report = run_evaluate(
        config_of(trained), [], ["small_vector"], rows=0, labels_only=True, classes=classes, quiet=True
    )
    found = cells(report)["small_vector", "knn_top1"]
    assert 0 <= found["labels_vs_truth"] <= 1 and found["model_vs_truth"] is None  # type: ignore[operator]
    assert cells(report)["small_vector", "cosine"]["labels_vs_truth"] is None, "it is not compared with itself"
