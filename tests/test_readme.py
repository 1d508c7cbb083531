"""The README's example labeler is complete: it is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelers.core.labeler import Sample
from labelers.core.modality import Null
from labelers.core.registry import all_labelers, all_modalities
from pipeline.config import Config, LabelerConfig
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from tests.world import fake_photos

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.fixture
def sharpness(monkeypatch: pytest.MonkeyPatch) -> Any:
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert code is not None
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code[1], "README.md", "exec"), namespace)
    monkeypatch.setitem(all_labelers(), "sharpness", namespace["Sharpness"])
    return namespace["Sharpness"]


def test_example_labels_a_data_set(sharpness: Any, tmp_path: Path) -> None:
    ds = Dataset.create(str(tmp_path / "ds"), "readme", 5)
    ingest(ds, [str(fake_photos(tmp_path / "photos", 7))])
    chosen = {name: LabelerConfig(enabled=name == "sharpness") for name in all_labelers()}
    report = label(ds, Config(root=str(tmp_path / "ds"), executor="local", labelers=chosen))
    assert (report.done, report.failed) == (2, 0)
    for k in ds.shards():
        assert all(isinstance(value, np.ndarray) for value in ds.labels(all_modalities()["sharpness"], k))


def test_example_says_null_where_it_cannot(sharpness: Any) -> None:
    (row,) = sharpness().label([Sample("a", np.zeros((1, 1, 3), np.uint8))])
    assert isinstance(row["sharpness"], Null)


def test_every_default_modality_is_in_the_table() -> None:
    text = README.read_text(encoding="utf-8")
    for name in (*all_modalities(), "rgb"):
        if not name.startswith("fake_"):
            assert re.search(rf"^\| [^|]*\b{name}\b", text, re.M), f"{name} is not in the README's table"
