"""Training: it learns, stops and goes on as if it had not, and says what is wrong. Tiny random networks and tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError, Incomplete
from pipeline.records import file_sha256
from tests.trainer.corpus import CAPTION, EDGES, METADATA, SPECS, TINY, add_tokens, write_world
from trainer import checkpoint
from trainer.card import CARD
from trainer.feed import Item
from trainer.logs import LINES, read_lines
from trainer.mixture import demo
from trainer.model import SIZES
from trainer.open_corpus import open_corpus
from trainer.train import MAX_BAD_STEPS, Run, TrainConfig, components, model_folder, thin, train

SIZES_OF = (8, 8, 8)


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "micro", TINY)


@pytest.fixture
def ds(tmp_path: Path) -> Dataset:
    return write_world(tmp_path, SIZES_OF)


def config(**changed: Any) -> TrainConfig:
    return TrainConfig(**{"steps": 8, "batch": 4, "n_in": 12, "n_out": 12, "save_every": 3, **changed})


def digests(folder: Path) -> dict[str, str]:
    return {p.name: file_sha256(p) for p in sorted(folder.iterdir())}


class Stopped(Exception):
    """A run that is killed."""


def stop_at(step: int) -> Callable[[str, int, int, str], None]:
    def progress(name: str, done: int, total: int, text: str) -> None:
        if done == step:
            raise Stopped

    return progress


def test_it_learns_what_the_tokens_have_in_common(ds: Dataset) -> None:
    """Everything follows from the class that RGB shows, so the held-out loss falls far below what counting can reach."""
    report = train(ds, config(steps=160, batch=8, lr=3e-3, n_in=16, n_out=16, save_every=1000))
    losses = [loss for _, loss in report.curve]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert set(report.heldout) == {spec.name for spec in SPECS}
    for name, found in report.heldout.items():
        assert found["given"] == ("any" if name == "tok_rgb" else "RGB")
        assert found["loss"] < 0.8 * found["unigram"] < found["uniform"], name
    assert report.steps == 160 and report.skipped == 0 and not report.already


@pytest.mark.parametrize("stopped", [1, 5, 6])
def test_interrupted_and_resumed_is_as_if_it_had_not_stopped(tmp_path: Path, stopped: int) -> None:
    whole, broken = (write_world(tmp_path / name, SIZES_OF) for name in ("whole", "broken"))
    wanted = train(whole, config())
    with pytest.raises(Stopped):
        train(broken, config(), stop_at(stopped))
    kept = [path.name for path in checkpoint.steps(model_folder(broken, "model.run"))]
    assert kept == (["step-00000003"] if stopped > 3 else [])
    got = train(broken, config())
    assert got.curve == wanted.curve, "the same losses at every step, before and after"
    assert got.heldout == wanted.heldout
    one, two = (digests(model_folder(d, "model")) for d in (whole, broken))
    assert one == two


def steps_seen(ds: Dataset, settings: TrainConfig, **how: Any) -> list[int]:
    seen: list[int] = []
    train(ds, settings, lambda name, done, total, text: seen.append(done) if name == "train" else None, **how)
    return seen


def test_again_starts_anew(ds: Dataset) -> None:
    with pytest.raises(Stopped):
        train(ds, config(), stop_at(5))
    assert steps_seen(ds, config(), again=True) == list(range(1, 9))
    assert steps_seen(ds, config()) == []


def test_a_finished_run_is_not_repeated(ds: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(ds, config())
    before, written = digests(Path(first.path)), Path(first.path).stat().st_mtime_ns

    def no_step(run: Run) -> float:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(Run, "one_step", no_step)
    again = train(ds, config())
    assert again.already and again.steps == 8
    assert again.curve == first.curve and again.heldout == first.heldout
    assert digests(Path(first.path)) == before and Path(first.path).stat().st_mtime_ns == written


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(ds: Dataset) -> None:
    said: list[str] = []
    report = train(ds, config(), lambda name, done, total, text: said.append(text), dry=True)
    assert report.steps == 0 and not model_folder(ds, "model.run").exists()
    assert len(said) == 1 and "parameters" in said[0] and "s a step measured" in said[0]
    assert report.estimate["seconds"] > 0 and report.estimate["flops"] > 0


def test_old_checkpoints_go_but_those_to_be_kept(ds: Dataset) -> None:
    train(ds, config(save_every=1, keep=2, keep_every=3))
    kept = [path.name for path in checkpoint.steps(model_folder(ds, "model.run"))]
    assert kept == [f"step-{n:08d}" for n in (3, 6, 7, 8)]


def test_the_checkpoint_says_what_it_was_made_from(ds: Dataset) -> None:
    report = train(ds, config(seed=5))
    record = json.loads((Path(report.path) / checkpoint.RECORD).read_bytes())
    manifest = ds.manifest()
    assert record["manifest"] == report.manifest == manifest.version
    assert record["recipes"] == dict(manifest.modalities)
    assert record["config"] == config(seed=5).model_dump(mode="json")
    assert record["step"] == 8 and len(record["curve"]) == 8
    assert record["loader"]["position"] == 8 * 4
    assert record["heldout"].keys() == report.heldout.keys()
    assert record["heldout_views"] == {} and record["trained_views"] == 2, "two views are too few to hold one out"


def test_held_out_views_are_judged_logged_and_kept_apart(tmp_path: Path) -> None:
    ds = write_world(tmp_path, SIZES_OF, views=4)
    report = train(ds, config())
    assert report.heldout_views.keys() == report.heldout.keys() == {spec.name for spec in SPECS}
    record = checkpoint.read_record(Path(report.path))
    assert record["trained_views"] == 3 and record["heldout_views"] == report.heldout_views
    last = read_lines(model_folder(ds, "model.run") / LINES)[-1]
    for key, found in (("heldout", report.heldout), ("heldout_views", report.heldout_views)):
        assert last[key] == {n: h["loss"] for n, h in found.items()}
    page = Path(report.page).read_text(encoding="utf-8")
    assert page.index("New views of known photos") < page.index("New photos: loss at step 8")
    assert "new views of known photos" in (Path(report.path) / CARD).read_text(encoding="utf-8")
    assert train(ds, config()).heldout_views == report.heldout_views, "a finished run is not repeated"
    with pytest.raises(Stopped):
        train(ds, config(seed=1), stop_at(5), again=True)
    with pytest.raises(ConfigError, match=r"heldout_views"):
        train(ds, config(seed=1, heldout_views=2))


def test_going_on_with_other_settings_is_refused(ds: Dataset) -> None:
    with pytest.raises(Stopped):
        train(ds, config(), stop_at(5))
    with pytest.raises(ConfigError, match=r"another train\.lr; go on with the same.*--again"):
        train(ds, config(lr=0.5))
    assert train(ds, config(save_every=4, name="other")).steps == 8
    assert steps_seen(ds, config(lr=0.5), again=True)[0] == 1


def test_going_on_with_another_mixture_of_the_same_name_is_refused(
    ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        train(ds, config(mixture="published"), stop_at(5))
    monkeypatch.setattr("trainer.config.published", lambda embedding: demo())
    with pytest.raises(ConfigError, match=r"trained with another train\.mixture"):
        train(ds, config(mixture="published"))


def test_a_stopped_run_goes_on_with_the_manifest_it_had(ds: Dataset) -> None:
    with pytest.raises(Stopped):
        train(ds, config(), stop_at(5))
    had = ds.manifest()
    add_tokens(ds, EDGES, SIZES_OF, 2, salt=1)
    report = train(ds, config())
    assert report.manifest == had.version
    record = checkpoint.read_record(Path(report.path))
    assert record["recipes"]["tok_canny_edge"] == had.modalities["tok_canny_edge"]


def test_how_often_it_saves_does_not_matter_to_a_resumed_run(ds: Dataset) -> None:
    with pytest.raises(Stopped):
        train(ds, config(), stop_at(5))
    assert steps_seen(ds, config(save_every=50)) == [4, 5, 6, 7, 8]


def test_new_tokens_are_trained_on_anew(ds: Dataset) -> None:
    train(ds, config())
    add_tokens(ds, EDGES, SIZES_OF, 2, salt=1)
    report = train(ds, config())
    assert not report.already and report.manifest == ds.manifest().version


def test_the_live_page_has_the_name_of_its_run(ds: Dataset) -> None:
    report = train(ds, config(name="mine", holdout=0.3))
    html = Path(report.page).read_text()
    assert "<title>mine</title>" in html and "<h1>mine</h1>" in html and "New photos: loss at step 8" in html


def test_a_damaged_checkpoint_is_named_and_the_advice_works(ds: Dataset) -> None:
    folder = Path(train(ds, config()).path)
    weights = folder / checkpoint.MODEL
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamageError, match="delete it and train again"):
        train(ds, config())
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert not train(ds, config()).already


def spoil(monkeypatch: pytest.MonkeyPatch, which: Callable[[int], bool]) -> None:
    """Make the loss and the gradients of some steps, counted from 0, not a number."""
    backward = Run.backward

    def spoiled(run: Run, item: Item) -> float:
        value = backward(run, item)
        if not which(run.step):
            return value
        for parameter in run.model.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(float("nan"))
        return float("nan")

    monkeypatch.setattr(Run, "backward", spoiled)


def test_a_loss_that_is_no_number_stops_with_what_to_do(ds: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda step: step >= 4)
    seen: list[int] = []
    with pytest.raises(
        Incomplete, match=rf"{MAX_BAD_STEPS} steps in a row were not finite \(step 23\); lower train.lr"
    ):
        train(ds, config(steps=100), lambda name, done, total, text: seen.append(done))
    assert max(seen) == 4 + MAX_BAD_STEPS - 1
    model, record = checkpoint.load_model(checkpoint.steps(model_folder(ds, "model.run"))[-1])
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters()), "what was saved is sound"
    assert record["step"] == 21 and record["skipped"] == 17


def test_single_bad_steps_are_skipped_and_counted(ds: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda step: step in (2, 5))
    report = train(ds, config())
    assert report.skipped == 2 and report.steps == 8
    assert [step for step, _ in report.curve] == [1, 2, 4, 5, 7, 8]
    assert train(ds, config()).skipped == 2, "the record of it can be read"


def test_bad_steps_that_are_not_in_a_row_stop_nothing(ds: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda step: step % 2 == 0)
    assert train(ds, config(steps=2 * MAX_BAD_STEPS + 2, save_every=1000)).skipped == MAX_BAD_STEPS + 1


def test_a_bad_step_changes_no_weight(ds: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(open_corpus(ds, 0.15), config())
    before = {name: p.clone() for name, p in run.model.state_dict().items()}
    spoil(monkeypatch, lambda step: True)
    run.one_step()
    assert run.step == run.skipped == 1
    assert all(torch.equal(p, before[name]) for name, p in run.model.state_dict().items())


def test_the_learning_rate_warms_up_and_falls(ds: Dataset) -> None:
    run = Run(open_corpus(ds, 0.15), config(steps=100, warmup=0.1, lr=1.0))
    rates = []
    for run.step in range(100):
        rates.append(run.rate())
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1) and rates[-1] == pytest.approx(0.05, abs=2e-3)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_only_matrices_decay(ds: Dataset) -> None:
    run = Run(open_corpus(ds, 0.0), config(weight_decay=0.1, eps=3e-4))
    decayed, plain, rows = run.optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"], rows["weight_decay"]) == (0.1, 0.0, 0.1)
    assert all(p.ndim == 2 for p in decayed["params"]) and all(p.ndim < 2 for p in plain["params"])
    assert {id(p) for p in rows["params"]} == {id(p) for p in (run.model.table.weight, *run.model.heads.parameters())}
    assert (rows["eps"], decayed["eps"], plain["eps"]) == (3e-4, 1e-8, 1e-8)


def test_without_rgb_any_streams_predict_any(tmp_path: Path) -> None:
    ds = write_world(tmp_path, SIZES_OF, specs=(CAPTION, METADATA))
    report = train(ds, config())
    assert set(report.heldout) == {"tok_caption", "tok_metadata"}
    assert {h["given"] for h in report.heldout.values()} == {"any"}
    assert all("2all" not in c.name or c.name.startswith("all") for c in components(config(), ["tok_caption"]))


@pytest.mark.parametrize(
    "bad", [{"stepz": 3}, {"steps": 0}, {"holdout": 1.0}, {"size": "huge"}, {"name": "../up"}, {"lr": 0}]
)
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        TrainConfig(**bad)


def test_a_thinned_curve_keeps_its_mean_and_its_end() -> None:
    curve = [(i + 1, float(i % 7)) for i in range(1000)]
    short = thin(curve, 100)
    assert len(short) == 100 and short[-1][0] == 1000
    assert sum(v for _, v in short) / 100 == pytest.approx(sum(v for _, v in curve) / 1000)
    assert thin(curve[:5], 100) == curve[:5] and thin([]) == []
