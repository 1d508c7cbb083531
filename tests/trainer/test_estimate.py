"""What a run will take, counted without memory; refusals before anything starts; logs, the live page, and the study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tests.trainer.corpus import CAPTION, EDGES, METADATA, RGB, STREAMS, TINY, add_tokens, write_world
from trainer import estimate as module
from trainer import loss
from trainer.config import TrainConfig
from trainer.estimate import check_memory, head_flops, memory, precision, skeleton, trunk_flops
from trainer.logs import LINES, numbers, read_lines
from trainer.model import SIZES
from trainer.open_corpus import open_corpus
from trainer.run import Run
from trainer.sweep import sweep
from trainer.train import Home, train

SIZES_OF = (8, 8)


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "micro", TINY)


@pytest.fixture
def ds(tmp_path: Path) -> Dataset:
    return write_world(tmp_path, SIZES_OF)


def config(**changed: Any) -> TrainConfig:
    return TrainConfig(**{"steps": 6, "batch": 4, "n_in": 12, "n_out": 12, "log_every": 2, **changed})


@pytest.mark.parametrize(("size", "trunk"), [("B", 198.2e6), ("L", 704.5e6), ("XL", 2818.5e6)])
def test_published_trunks_to_one_percent(size: str, trunk: float) -> None:
    assert skeleton(STREAMS, SIZES[size], False).trunk_parameters() == pytest.approx(trunk, rel=0.01)


def test_arithmetic_is_what_torch_counts(ds: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "ROWS", 1)  # without padding
    run = Run(open_corpus(ds, 0.0), config(precision="fp32"))
    run.model.compiled = True  # full products of masked scores, which are what is counted, not of groups
    item = run.feed.make()
    with FlopCounterMode(display=False) as counter:
        run.backward(item)
    size, samples = SIZES["micro"], 4
    attention = 3 * 4 * samples * size.dim * (size.encoder * 12 * 12 + size.decoder * 2 * 12 * 12)
    counted = counter.get_total_flops() + attention  # torch does not count the fused kernel on a CPU
    fused = any("attention" in str(op) for ops in counter.get_flop_counts().values() for op in ops)
    assert not fused
    assert trunk_flops(size, 12, 12) * samples + head_flops(size, item.logits) == pytest.approx(counted, rel=1e-3)


def test_memory_grows_with_size_batch_and_shrinks_by_division() -> None:
    def of(**changed: Any) -> int:
        made = config(**{"size": "B", "batch": 64, "n_in": 256, "n_out": 256, **changed})
        return memory(skeleton(STREAMS, SIZES[made.size], made.tied), made, made.workers)

    plain = of()
    assert of(size="L") > 2 * plain and of(batch=128) > plain > of(accumulate=4) > of(accumulate=4, recompute=True)
    assert of(ema=0.9) > plain > of(workers=8, strategy="fsdp") and of(workers=8) > of(workers=8, strategy="fsdp")


def test_a_config_larger_than_memory_is_refused_before_it_is_built(
    ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 8 << 30)
    built: list[Any] = []
    monkeypatch.setattr(Run, "_model", lambda run: built.append(run))
    with pytest.raises(
        ConfigError, match=r"size XL with 4 samples at a time needs about \d+\.\d GiB, 8\.0 GiB are free"
    ):
        train(ds, config(size="XL"))
    assert not built
    check_memory(7 << 30, config(), torch.device("cpu"), 1)


def test_tokens_of_labels_that_are_no_longer_current_are_refused(ds: Dataset) -> None:
    recipe = {**ds.recipe(ds.current("tok_canny_edge")), "reads": {"canny_edge": "aaaaaaaa"}}
    name = ds.put_recipe(recipe)
    ds.update_manifest({"canny_edge": "bbbbbbbb", "tok_canny_edge": name})
    with pytest.raises(ConfigError, match=r"was made from canny_edge@aaaaaaaa, but canny_edge@bbbbbbbb is current"):
        train(ds, config())
    with pytest.raises(ConfigError, match="shard 0 is not tokenized"):
        train(ds, config(stale=True))


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    empty = write_world(tmp_path, (1, 0), specs=())
    for k in (0,):
        assert len(empty.ids(k)) == 1
    add_tokens(empty, CAPTION, (0, 0), 1, only=[])
    with pytest.raises(ConfigError, match="tok_caption: shard 0 is not tokenized"):
        train(empty, config())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch": 10, "workers": 4}, "batch: 10 samples cannot be divided evenly over 4 workers.*use 8"),
        ({"mixture": [{"name": "x", "inputs": {"tok_depth": 1.0}}]}, "x: 'tok_depth' is no stream that is trained on"),
        ({"text": [{"path": "t.txt", "stream": "tok_rgb"}]}, "'tok_rgb' is no sequence modality.*tok_caption"),
        ({"modalities": ["tok_rgb", "tok_nothing"]}, "'tok_nothing' has no tokens"),
        ({"wandb": "project"}, "the package wandb is not installed"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused_before_the_first_step(
    ds: Dataset, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises((ConfigError, ValueError), match=said):
        train(ds, config(**changed))
    assert not Home(ds, "model").path.exists()


def test_a_run_logs_its_figures_and_shows_them_on_a_page(ds: Dataset) -> None:
    report = train(ds, config(eval_every=3, holdout=0.3))
    lines = read_lines(Home(ds, "model").path / LINES)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [2, 4, 6]
    wanted = {"loss", "lr", "grad_norm", "tokens_per_second", "mfu", "wait", "skipped", "epoch", "memory_bytes"}
    assert all(wanted <= line.keys() for line in steps)
    assert all(0 <= line["wait"] <= 1 and line["mfu"] > 0 for line in steps)
    judged = [line for line in lines if "heldout" in line]
    assert [line["step"] for line in judged] == [3, 6]
    assert judged[-1]["heldout"].keys() == report.heldout.keys()
    page = Path(report.page).read_text(encoding="utf-8")
    for said in ("6 of 6", "tokens a second", "utilisation", "waiting for data", "tok_metadata", "<svg"):
        assert said in page
    assert 'http-equiv="refresh"' not in page and "<script" not in page


def test_lines_of_steps_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    from trainer.logs import Lines

    log = Lines(tmp_path / LINES, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0})
    log.close()
    with (tmp_path / LINES).open("a") as file:
        file.write('{"step": 4, "lo')  # killed while it wrote
    Lines(tmp_path / LINES, 2).close()
    assert [line["step"] for line in read_lines(tmp_path / LINES)] == [1, 2]
    assert numbers({"a": 1, "b": {"c": 2.5, "d": "x"}, "e": True}) == [("a", 1.0), ("b/c", 2.5)]


def test_tensorboard_reads_what_was_written(ds: Dataset) -> None:
    pytest.importorskip("tensorboard")
    train(ds, config())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(Home(ds, "model").path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [2, 4, 6]
    assert "tokens_per_second" in events.Tags()["scalars"]


def test_a_study_trains_each_size_for_the_same_tokens_once(ds: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", SIZES["micro"].__class__(3, 3, 128, 2))
    said: list[str] = []
    found = sweep(ds, config(holdout=0.3), ["micro", "tiny"], lambda name, *_: said.append(name))
    small, large = found["points"]
    assert found["tokens"] == 6 * 4 * 24 and (small["size"], large["size"]) == ("micro", "tiny")
    assert large["trunk"] > 4 * small["trunk"] and large["flops"] > 2 * small["flops"]
    assert all(p["heldout"].keys() == small["heldout"].keys() and p["heldout_mean"] > 0 for p in found["points"])
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and "tiny" in page
    assert json.loads((Path(found["page"]).parent / "sweep.json").read_bytes())["points"] == found["points"]
    assert {name.split(":")[0] for name in said} == {"micro", "tiny"}
    said.clear()
    assert sweep(ds, config(holdout=0.3), ["micro", "tiny"], lambda name, *_: said.append(name)) == found
    assert not said, "finished runs are not repeated"
    with pytest.raises(ConfigError, match="name each of some sizes once"):
        sweep(ds, config(), ["huge"], lambda *_: None)


def test_any_number_of_modalities(tmp_path: Path) -> None:
    for specs in ((RGB,), (RGB, EDGES, CAPTION), (CAPTION, METADATA)):
        world = write_world(tmp_path / str(len(specs)) / specs[0].name, SIZES_OF, specs=specs)
        assert train(world, config(steps=2, tensorboard=False)).steps == 2


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_by_itself_only_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": able})
    cpu = torch.device("cpu")
    assert precision(config(), cpu) == (torch.bfloat16 if able else None)
    assert (
        precision(config(precision="fp32"), cpu) is None and precision(config(), torch.device("cuda")) == torch.bfloat16
    )
    assert precision(config(precision="bf16"), cpu) == torch.bfloat16
