"""Tokens back into labels: a recipe of its own that `diff` compares with the labels the tokens came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelers.core.modality import Null
from labelers.metadata import BINS, BY_NAME
from pipeline.care.diff import Diff, cells, diff
from pipeline.care.repair import repair
from pipeline.care.verify import refs_on, verify
from pipeline.cli.care import reader_of, steps_of
from pipeline.cli.explain import column_of
from pipeline.commits import data_key
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.plan import Ref
from tests.tokenize_shards.small import DARK, SIDE, SILENT, number_of, small_config
from tests.world import snapshot
from tokenize_shards.decode import decode, is_decoded, modality_of
from tokenize_shards.inputs import ShardViews
from tokenize_shards.rebuild import spec_of
from tokenize_shards.shards import open_tokens
from tokenize_shards.tokenize import tokenize
from tokenize_shards.tokenizer import load_tokenizer

NAMES = ("canny_edge", "caption", "color_palette", "metadata", "rgb", "small_global", "small_map", "small_vector")


@pytest.fixture
def decoded(fitted: Path) -> tuple[Dataset, Any, dict[str, Ref]]:
    """(data set, config, decoded label recipe of each modality) for view 0 of everything."""
    ds, config = Dataset.open(str(fitted)), small_config(fitted)
    assert not tokenize(ds, config).failed
    before = ds.manifest()
    report, made = decode(ds, config)
    assert not report.failed, report.errors
    assert report.done == len(NAMES) * len(ds.shards())
    assert ds.manifest() == before, "decoded labels never become current by themselves"
    return ds, config, {ref[0]: ref for ref in made}


def compare(ds: Dataset, a: Ref, b: Ref) -> tuple[Diff, Any]:
    column = column_of(ds, a, b)
    return diff(ds, a, b, column), column


def test_labels_are_the_tokens_decoded(decoded: tuple[Dataset, Any, dict[str, Ref]]) -> None:
    ds, _, made = decoded
    assert sorted(made) == sorted(NAMES)
    for name, ref in made.items():
        recipe = ds.recipe(ref[1])
        ((token_name, token_recipe),) = recipe["reads"].items()
        assert recipe["labeler"] == "decode" and token_name == f"tok_{name}" and token_name in recipe["backend"]
        tokenizer = load_tokenizer(ds.weights_path(recipe["weights"]["tokenizer"]["sha256"]))
        for k in ds.shards():
            tokens = open_tokens(ds.open_shard(token_name, token_recipe, k)[0])
            for row, label in enumerate(ds.labels(modality_of(name), k, ref[1])):
                ids = tokens.row(row, 0)
                if isinstance(label, Null):
                    assert ids is None and number_of(ds, k, row) in (DARK, SILENT) and label.reason
                    continue
                (wanted,) = tokenizer.decode(ids[None] if spec_of(recipe).kind != "sequence" else [ids])
                if name == "metadata":
                    assert label == wanted
                elif np.asarray(label).dtype.kind == "f":  # other rows in the batch round differently
                    assert np.allclose(label, wanted, rtol=1e-3, atol=1e-3), (name, row)
                else:
                    assert np.array_equal(label, wanted), (name, row)


def test_a_second_run_does_nothing_and_another_view_is_another_recipe(
    decoded: tuple[Dataset, Any, dict[str, Ref]],
) -> None:
    ds, config, made = decoded
    before = snapshot(Path(ds.storage.url))
    report, again = decode(ds, config)
    assert (report.todo, {ref[0]: ref for ref in again}) == (0, made)
    assert snapshot(Path(ds.storage.url)) == before
    report, other = decode(ds, config, ["tok_rgb"], view=2)
    assert report.done == len(ds.shards()) and other[0] != made["rgb"]
    seen = ShardViews(ds, 0, [2], config.tokens.seed).cut(spec_of(ds.recipe(other[0][1])), ds.current("rgb"))
    found, _ = compare(ds, other[0], ("rgb", ds.current("rgb")))
    errors = [
        10 * np.log10(255**2 / np.square(a.astype(float) - b[0]).mean())
        for a, b in zip(ds.labels(modality_of("rgb"), 0, other[0][1]), seen, strict=True)
    ]
    assert len(errors) == 4 and found.samples == 9 and 0 < found.metrics["psnr_db"]["mean"] < 60
    worst = {(k, place): metrics["psnr_db"] for _, k, place, _, metrics in found.worst}
    assert [worst[0, i] for i in range(4)] == pytest.approx(errors)
    with pytest.raises(ConfigError, match=r"has views 0\.\.2, not 3"):
        decode(ds, config, ["tok_rgb"], view=3)
    with pytest.raises(ConfigError, match="tok_depth: has no tokens"):
        decode(ds, config, ["tok_depth"])


def test_diff_measures_what_tokenization_costs(decoded: tuple[Dataset, Any, dict[str, Ref]]) -> None:
    ds, _, made = decoded
    means: dict[str, dict[str, float]] = {}
    for name, ref in made.items():
        found, column = compare(ds, ref, (name, ds.current(name)))
        assert found.samples + found.both_null == 9 and not found.only_a and not found.only_b, name
        means[name] = {metric: v["mean"] for metric, v in found.metrics.items()}
        for shown in cells(ds, found, column)[:1]:
            assert shown[2].shape[:2] == ((SIDE, SIDE) if spec_of(ds.recipe(ref[1])).size else (224, 224))
    assert means["color_palette"] == {"colour_distance": 0.0}, "exact: the palette that was drawn"
    assert means["caption"] == {"word_f1": 1.0}
    assert 0 < means["metadata"]["field_agreement"] < 1, "counts are exact, binned values are those of their bin"
    for name, metric in (("canny_edge", "edge_f1"), ("small_map", "cosine"), ("small_global", "cosine")):
        assert 0 < means[name][metric] <= 1
    ref = made["metadata"]
    truth, back = (ds.labels(modality_of("metadata"), 0, r) for r in (ds.current("metadata"), ref[1]))
    for a, b in zip(truth, back, strict=True):
        for field, value in a["values"].items():  # type: ignore[index]
            f = BY_NAME[field]
            width = f.unit if f.kind == "count" else (f.high - f.low) / BINS
            assert value is None or abs(b["values"][field] - value) <= width, field  # type: ignore[index]


def test_decoded_labels_are_looked_after_like_others(decoded: tuple[Dataset, Any, dict[str, Ref]]) -> None:
    ds, config, made = decoded
    assert set(made.values()) < set(refs_on(ds)) and all(is_decoded(ds, ref) for ref in made.values())
    assert verify(ds, reader_of) == []
    digests = {}
    for name in ("rgb", "metadata"):
        commit = ds.commit_of(*made[name], 1)
        assert commit is not None
        digests[name] = commit.sha256
        path = Path(ds.storage.url) / data_key(commit)
        assert path.parent.name == f"{name}@{made[name][1]}"
        path.write_bytes(path.read_bytes()[:-7])
    source = snapshot(Path(ds.storage.url) / "rgb")
    findings = verify(ds, reader_of)
    assert {(f.modality, f.recipe, f.shard) for f in findings} == {(*made["rgb"], 1), (*made["metadata"], 1)}
    result = repair(ds, config, findings, lambda refs: steps_of(ds, config, refs), lambda *_: None)
    assert (len(result.repaired), result.identical, result.left) == (2, 2, [])
    assert snapshot(Path(ds.storage.url) / "rgb") == source, "the images are not touched"
