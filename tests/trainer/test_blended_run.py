"""Runs on more than one data set, and on texts beside them: resumed on what they began with, and not made twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset import Dataset
from pipeline.records import IndexRow
from tests.trainer.corpus import EDGES, RGB, TINY, add_tokens, sample_id, write_world
from tests.trainer.test_train import Stopped, digests, stop_at
from trainer.model import SIZES
from trainer.train import TrainConfig, train

SIZES_OF = (6, 5)
Two = tuple[Dataset, Dataset]


def config(**changed: Any) -> TrainConfig:
    return TrainConfig(**{"steps": 8, "batch": 4, "n_in": 12, "n_out": 12, "save_every": 3, **changed})


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Two:
    monkeypatch.setitem(SIZES, "micro", TINY)
    return write_world(tmp_path / "a"), write_world(tmp_path / "b", SIZES_OF, 2, (EDGES, RGB))


def on_both(two: Two) -> TrainConfig:
    return config(datasets=[{"root": two[1].storage.url}])


def test_a_stopped_run_goes_on_with_the_manifests_all_its_data_sets_had(two: Two, tmp_path: Path) -> None:
    whole = digests(Path(train(two[0], on_both(two).model_copy(update={"name": "whole"})).path))
    with pytest.raises(Stopped):
        train(two[0], on_both(two), stop_at(5))
    add_tokens(two[1], EDGES, SIZES_OF, 2, salt=1)
    report = train(two[0], on_both(two))
    assert not report.already and digests(Path(report.path))["model.safetensors"] == whole["model.safetensors"]
    again = train(two[0], on_both(two))
    assert not again.already, "what the other data set has now is new"


def test_a_finished_run_is_not_repeated_for_what_it_did_not_read(two: Two) -> None:
    train(two[0], on_both(two))
    two[1].update_manifest({"canny_edge": "deadbeef"})  # a label, not its tokens
    assert train(two[0], on_both(two)).already


@pytest.mark.parametrize("kind", ["txt", "parquet", "large", "category"])
def test_texts_are_trained_on_beside_a_real_data_set(trained: Path, kind: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setenv("MANYMODAL_CACHE", str(tmp_path / "cache"))
    lines = [f"a red car number {i % 7} on a road" for i in range(20)]
    if kind == "txt":
        (tmp_path / "lines.txt").write_text("\n".join(lines))
    else:
        column = pa.array(lines, pa.large_string() if kind == "large" else pa.string())
        pq.write_table(pa.table({"text": column.dictionary_encode() if kind == "category" else column}),
                       tmp_path / "lines.parquet")  # fmt: skip
    texts = [{"path": str(tmp_path / f"lines.{'txt' if kind == 'txt' else 'parquet'}"), "weight": 0.5}]
    settings = config(name="texts", holdout=0.25, n_in=24, n_out=24, text=texts)
    ds = Dataset.open(str(trained))
    assert train(ds, settings).steps == 8
    assert train(ds, settings).already


def test_a_stopped_run_goes_on_without_photos_that_came_since(two: Two) -> None:
    ds = two[1]
    with pytest.raises(Stopped):
        train(ds, config(), stop_at(5))
    wanted = [p.name for p in sorted((Path(ds.storage.url) / "_models" / "model.run").glob("step-*"))]
    ds.publish_index(2, [IndexRow(sample_id(n), f"made-up/{n}", f"{n:064x}", 8, 8, 1) for n in range(11, 15)])
    report = train(Dataset.open(ds.storage.url), config())
    assert wanted == ["step-00000003"] and report.steps == 8 and not report.already
    for spec in (EDGES, RGB):
        add_tokens(ds, spec, (*SIZES_OF, 4), 2, only=[2])
    again = train(Dataset.open(ds.storage.url), config())
    assert not again.already, "a finished run has not seen the new photos"
    assert train(Dataset.open(ds.storage.url), config()).already
