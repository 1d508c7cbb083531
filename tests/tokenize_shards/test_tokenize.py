"""Tokenizing a data set: every shard aligned with the index, tokens that depend on (id, seed, view) alone, no work twice."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelers.canny_edge import CannyEdge
from labelers.core.labeler import Sample
from labelers.core.modality import Null
from labelers.core.registry import all_modalities
from pipeline.care.promote import parse_ref
from pipeline.care.verify import refs_on
from pipeline.commits import retract
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, Incomplete
from pipeline.label import label
from pipeline.run import Report
from pipeline.suspects import DEADLY, Suspects
from tests.tokenize_shards.small import DARK, SIDE, SILENT, SmallNet, number_of, photo, small_config
from tests.world import snapshot
from tokenize_shards import table
from tokenize_shards.encode import encode_rows
from tokenize_shards.fit import fit_all
from tokenize_shards.shards import TokenShard, open_tokens
from tokenize_shards.table import specs
from tokenize_shards.tokenize import fitted_specs, grouped, make_target, tokenize, tokenize_shard, wanted_specs
from tokenize_shards.tokenizer import load_tokenizer
from tokenize_shards.views import View, cut_edges, cut_image, view_of

NAMES = ("canny_edge", "caption", "color_palette", "metadata", "rgb", "small_global", "small_map", "small_vector")


def run(root: Path, *only: str, **tokens: Any) -> Report:
    report = tokenize(Dataset.open(str(root)), small_config(root, **tokens), only)
    assert not report.failed, report.errors
    return report


def recipe(root: Path, name: str) -> str:
    return Dataset.open(str(root)).current(f"tok_{name}")


def shards(root: Path, name: str) -> list[TokenShard]:
    """The token shards of a modality that the manifest names, opened as a reader does."""
    ds = Dataset.open(str(root))
    return [open_tokens(ds.open_shard(f"tok_{name}", recipe(root, name), k)[0]) for k in ds.shards()]


def digests(root: Path) -> dict[str, list[str]]:
    ds = Dataset.open(str(root))
    commits = {n: ds.commits(f"tok_{n}", recipe(root, n)) for n in NAMES}
    return {n: [found[k].sha256 for k in ds.shards()] for n, found in commits.items()}


def encoder(root: Path, name: str) -> Any:
    ds = Dataset.open(str(root))
    return load_tokenizer(ds.weights_path(ds.manifest().tokenizers[f"tok_{name}"])).encode


def test_every_shard_is_aligned_with_the_index(fitted: Path) -> None:
    report = run(fitted)
    ds = Dataset.open(str(fitted))
    assert (report.done, report.executor) == (7 * 3, "local"), "what the network makes on the view is one step"
    for name in NAMES:
        for k, shard in enumerate(shards(fitted, name)):
            commit = ds.commit_of(f"tok_{name}", recipe(fitted, name), k)
            assert shard.ids == ds.ids(k) and commit is not None
            assert (commit.count, commit.nulls) == (len(shard), shard.reasons)
            assert (shard.meta.modality, shard.meta.views) == (f"tok_{name}", 3)
            assert shard.meta.recipe == recipe(fitted, name) and shard.meta.inputs == commit.inputs
            assert shard.meta.tokens == specs()[f"tok_{name}"].tokens


def test_labels_that_are_null_stay_null_with_their_reason(fitted: Path) -> None:
    run(fitted)
    ds = Dataset.open(str(fitted))
    numbers = {i: number_of(ds, k, row) for k in ds.shards() for row, i in enumerate(ds.ids(k))}
    found = {n: {numbers[i]: why for s in shards(fitted, n) for i, why in s.reasons.items()} for n in NAMES}
    dark = {DARK: "too_dark"}
    nulls = {"caption": {SILENT: "no_caption"}, "small_map": dark, "small_global": dark, "small_vector": dark}
    assert found == {name: nulls.get(name, {}) for name in NAMES}


def test_tokens_are_those_of_the_views_of_the_photo(fitted: Path) -> None:
    """From the photos themselves: labelled whole, cut by hash(id, seed, view), encoded."""
    run(fitted, seed=4)
    ds = Dataset.open(str(fitted))
    opened = {n: shards(fitted, n) for n in ("rgb", "canny_edge", "small_global")}
    encode = {n: encoder(fitted, n) for n in opened}
    for k in ds.shards():
        for row, sample in enumerate(ds.index(k)):
            image = photo(number_of(ds, k, row))
            edges = CannyEdge().label([Sample(sample.id, image)])[0]["canny_edge"]
            for number in range(3):
                box = view_of(sample.id, 4, number, sample.width, sample.height)
                picture = cut_image(image, box, SIDE)
                vector = SmallNet().label([Sample(sample.id, picture)])[0]["small_global"]
                wanted = {"rgb": picture, "canny_edge": cut_edges(edges, box, SIDE), "small_global": vector}
                for name, cut in wanted.items():
                    tokens = opened[name][k].row(row, number)
                    if isinstance(cut, Null):
                        assert tokens is None
                    else:
                        assert np.array_equal(tokens, encode[name](np.asarray(cut)[None])[0]), (name, sample, number)


def test_sequences_are_those_of_the_labels(fitted: Path) -> None:
    run(fitted)
    ds = Dataset.open(str(fitted))
    encode = encoder(fitted, "color_palette")
    palettes = {k: ds.labels(all_modalities()["color_palette"], k) for k in ds.shards()}
    for k, shard in enumerate(shards(fitted, "color_palette")):
        for row, sample in enumerate(shard.ids):
            for view in range(3):
                wanted = encode([(palettes[k][row], View(0, 0, 1, 1), sample, view)])[0]
                assert np.array_equal(shard.row(row, view), wanted)


def test_a_second_run_writes_nothing(fitted: Path) -> None:
    run(fitted)
    before = snapshot(fitted)
    report = run(fitted)
    assert (report.todo, report.done, report.executor) == (0, 0, "none")
    assert snapshot(fitted) == before


def test_one_modality_at_a_time_in_any_order_gives_the_same_bytes(fitted: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(fitted, other)
    run(fitted)
    for name in reversed(NAMES):
        run(other, f"tok_{name}")
    assert digests(fitted) == digests(other)
    assert {n: recipe(fitted, n) for n in NAMES} == {n: recipe(other, n) for n in NAMES}


def test_two_runs_at_once_give_the_same_bytes(fitted: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(fitted, other)
    run(fitted)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(run, other, *order) for order in ((), [f"tok_{name}" for name in reversed(NAMES)])]
        assert all(not future.result().failed for future in both)
    assert digests(fitted) == digests(other)


def test_a_photo_that_kills_the_workers_becomes_a_null(fitted: Path) -> None:
    """Attempts that died left their marks: the photo that has enough is not tried, all others one by one."""
    ds, config = Dataset.open(str(fitted)), small_config(fitted)
    ((name, members),) = grouped(ds, fitted_specs(ds, config, ["tok_small_map", "tok_small_global"])).items()
    target, recipes = make_target(ds, config, name, members)
    made = {str(r["modality"]): ds.put_recipe(r) for r in recipes}
    deadly, chance = ds.ids(1)[0], ds.ids(1)[1]
    marks = f"_suspects/{members[0].name}@{made[members[0].name]}/000001"
    for number, sample in enumerate([deadly] * DEADLY + [chance]):
        ds.storage.put_if_absent(f"{marks}/{sample}:0-{number}", b"")
    seen: list[str] = []

    class Watched(SmallNet):
        shard = 1

        def label(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
            (looked_at,) = {sample.id.partition(":")[0] for sample in samples}
            assert Suspects(ds.storage, marks.split("/")[1], self.shard).marks()[f"{looked_at}:0"] >= 1
            seen.append(looked_at)
            return super().label(samples)

    tokenize_shard(ds, target, target.encoders(ds), Watched(), 1)  # the first attempt of a later run
    assert seen == [sample for sample in ds.ids(1) if sample != deadly] and not ds.storage.list(marks)
    for name in made:
        assert open_tokens(ds.open_shard(name, made[name], 1)[0]).reasons[deadly] == "labeler failed: killed the worker"
    Watched.shard = 0
    with pytest.raises(Incomplete, match="assert 0 >= 1"):  # without a death there are no marks
        tokenize_shard(ds, target, target.encoders(ds), Watched(), 0)
    assert tokenize_shard(ds, target, target.encoders(ds), Watched(), 0, attempt=2)[0].attempt == 2


def test_a_view_the_tokenizer_refuses_costs_its_row(fitted: Path) -> None:
    """A row among others becomes a null with the reason; where all are refused, the tokenizer is at fault."""

    class Picky:
        tokens = 2

        def encode(self, batch: np.ndarray) -> np.ndarray:
            if (batch < 0).any():
                raise ValueError("negative")
            return batch.astype(np.uint16)

    good, bad = [np.array([1, 2])] * 2, [np.array([3, 4]), np.array([-1, 4])]
    found = encode_rows(Picky(), [good, Null("none"), bad, good])  # type: ignore[arg-type]
    assert found[1:3] == [Null("none"), Null("tokenizer failed: negative")]
    assert [np.array_equal(row, good) for row in (found[0], found[3])] == [True, True]
    with pytest.raises(ValueError, match="negative"):
        encode_rows(Picky(), [bad, Null("none"), bad])  # type: ignore[arg-type]


def test_settings_of_the_configuration_change_their_row_alone(fitted: Path) -> None:
    run(fitted)
    before = {n: recipe(fitted, n) for n in NAMES}
    changed = {"settings": {"tok_rgb": {"size": 16}, "tok_caption": {"max_tokens": 4}}}
    with pytest.raises(
        ConfigError, match=r"tok_rgb: its tokenizer was fitted with size 32, now 16.*Run `manymodal fit`"
    ):
        run(fitted, "tok_rgb", **changed)
    fit_all(Dataset.open(str(fitted)), small_config(fitted, **changed), [], False, lambda *_: None)
    assert run(fitted, **changed).done == 2 * 3
    assert {n for n in NAMES if recipe(fitted, n) != before[n]} == {"rgb", "caption"}
    assert shards(fitted, "rgb")[0].meta.tokens == 4
    for wrong, message in (
        ({"tok_rbg": {}}, "did you mean 'tok_rgb'"), ({"tok_rgb": {"sise": 4}}, "did you mean 'size'"),
        ({"tok_rgb": {"size": 9}}, "not a multiple"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            run(fitted, settings=wrong)


def test_patterns_choose_rows_and_large_ones_are_made_only_when_asked_for(labelled: Path) -> None:
    ds = Dataset.open(str(labelled))
    with pytest.MonkeyPatch.context() as patch:
        large = dataclasses.replace(specs()["tok_rgb"], name="tok_rgb@64", size=64, tokens=64, extra=True)
        patch.setattr(table, "_TABLE", {"offline": (*table._TABLE["offline"], large)})
        names = [spec.name for spec in wanted_specs(ds, small_config(labelled))]
        assert "tok_rgb" in names and "tok_rgb@64" not in names
        chosen = small_config(labelled, modalities=["tok_*@64", "tok_c*"])
        assert [spec.name for spec in wanted_specs(ds, chosen)] == [
            "tok_canny_edge", "tok_caption", "tok_color_palette", "tok_rgb@64",
        ]  # fmt: skip
        fit_all(ds, chosen, ["tok_rgb@64"], False, lambda *_: None)
        assert not tokenize(ds, chosen, ["tok_rgb@64"]).failed
        ref = parse_ref(ds, "tok_rgb@64")
        assert ref in refs_on(ds) and parse_ref(ds, f"tok_rgb@64@{ref[1][:5]}") == ref


def test_other_views_or_seeds_are_other_recipes_beside_the_old(fitted: Path) -> None:
    run(fitted)
    before, manifest = snapshot(fitted), Dataset.open(str(fitted)).manifest()
    few = shards(fitted, "rgb")
    assert run(fitted, views=5).done == 21
    many = shards(fitted, "rgb")
    assert run(fitted, views=5, seed=9).done == 21
    turned = shards(fitted, "rgb")
    after = snapshot(fitted)
    assert {name: after[name] for name in before} == before, "every file there was keeps its bytes and times"
    for old, more, other in zip(few, many, turned, strict=True):
        assert old.fixed is not None and more.fixed is not None and other.fixed is not None
        assert np.array_equal(more.fixed[:, :3], old.fixed), "a view is the same however many there are"
        assert np.array_equal(other.fixed[:, 0], old.fixed[:, 0]), "view 0 is the centre whatever the seed"
        assert not np.array_equal(other.fixed[:, 1:], more.fixed[:, 1:])
    assert run(fitted).todo == 0, "going back is no work"
    assert Dataset.open(str(fitted)).manifest().modalities == manifest.modalities


def test_another_tokenizer_touches_its_own_modality_alone(fitted: Path) -> None:
    run(fitted)
    before = {n: recipe(fitted, n) for n in NAMES}
    fit_all(Dataset.open(str(fitted)), small_config(fitted, seed=8), ["tok_rgb"], True, lambda *_: None)
    assert run(fitted).done == 3
    assert {n for n in NAMES if recipe(fitted, n) != before[n]} == {"rgb"}


def test_other_labels_touch_their_own_tokens_alone(fitted: Path) -> None:
    run(fitted)
    before = {n: recipe(fitted, n) for n in NAMES}
    config = small_config(fitted)
    config.labelers["canny_edge"].params = {"low": 20.0}
    label(Dataset.open(str(fitted)), config)
    assert run(fitted).done == 3
    assert {n for n in NAMES if recipe(fitted, n) != before[n]} == {"canny_edge"}


def test_a_lost_shard_is_made_again_with_the_same_bytes(fitted: Path) -> None:
    run(fitted)
    before, ds = digests(fitted), Dataset.open(str(fitted))
    commit = ds.commit_of("tok_small_map", recipe(fitted, "small_map"), 1)
    assert commit is not None
    retract(ds.storage, commit)
    report = run(fitted)
    assert report.done == 1 and digests(fitted) == before


def test_labels_that_are_missing_fail_their_shard_and_no_other(fitted: Path) -> None:
    ds = Dataset.open(str(fitted))
    commit = ds.commit_of("canny_edge", ds.current("canny_edge"), 1)
    assert commit is not None
    retract(ds.storage, commit)
    report = tokenize(ds, small_config(fitted), ["tok_canny_edge"])
    assert (report.todo, report.done, report.failed) == (3, 2, 1)
    assert "tok_canny_edge, shard 1" in report.errors[0] and "not committed" in report.errors[0]
    label(ds, small_config(fitted))
    assert run(fitted, "tok_canny_edge").done == 1
    assert [s.ids for s in shards(fitted, "canny_edge")] == [ds.ids(k) for k in ds.shards()]


def test_what_cannot_be_tokenized_is_refused(labelled: Path) -> None:
    ds = Dataset.open(str(labelled))
    with pytest.raises(ConfigError, match="no tokenizer is fitted. Run `manymodal fit`"):
        tokenize(ds, small_config(labelled))
    with pytest.raises(ConfigError, match="tok_rgb: no tokenizer is fitted"):
        tokenize(ds, small_config(labelled), ["tok_rgb"])
    with pytest.raises(ConfigError, match="no token modality is named 'tok_nothing'"):
        tokenize(ds, small_config(labelled, modalities=["tok_nothing"]))


def test_rows_that_are_null_cost_the_encoder_nothing() -> None:
    class Never:
        def encode(self, batch: Any) -> Any:
            raise AssertionError("nothing to encode")

    assert encode_rows(Never(), [Null("a"), Null("b")]) == [Null("a"), Null("b")]  # type: ignore[arg-type]
    assert encode_rows(Never(), []) == []  # type: ignore[arg-type]
