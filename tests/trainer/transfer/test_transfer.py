"""The encoder alone equals the model's, loads where it is taken, and learns tasks; heads and tasks say what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cli.judge import run_transfer
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.records import IndexRow
from tests.trainer.corpus import STREAMS, lively_model, tiny_model, tokens_of
from tests.trainer.trained import config_of
from trainer.transfer.encoder import Encoder
from trainer.transfer.fit import TransferConfig, _drawn, _layers
from trainer.transfer.tasks import Classify, Depth, Head, Segment, class_of

NAMES = ["tok_rgb", "tok_caption"]


def inputs() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Two samples; the second has a shorter caption."""
    rgb = torch.from_numpy(np.stack([tokens_of("tok_rgb", n, 0) for n in (5, 3)]).astype(np.int64))
    words = [tokens_of("tok_caption", n, 0).astype(np.int64) for n in (5, 3)]
    caption = torch.zeros(2, 5, dtype=torch.int64)
    for row, ids in enumerate(words):
        caption[row, : len(ids)] = torch.from_numpy(ids)
    real = torch.arange(5)[None] < torch.tensor([len(w) for w in words])[:, None]
    return {"tok_rgb": rgb, "tok_caption": caption}, {"tok_caption": real}


@torch.no_grad()
def test_it_equals_the_encoder_of_the_model() -> None:
    model = tiny_model()
    model.table.weight.mul_(100)
    encoder = Encoder.of_model(model, NAMES).eval()
    tokens, real = inputs()
    features, mask = encoder(tokens, real)
    index = [next(i for i, s in enumerate(STREAMS) if s.name == name) for name in NAMES]
    stream = torch.cat([torch.full_like(tokens[n], i) for n, i in zip(NAMES, index, strict=True)], 1)
    place = torch.cat([torch.arange(tokens[n].shape[1]).expand_as(tokens[n]) for n in NAMES], 1)
    context, _ = model.encode(torch.cat([tokens[n] for n in NAMES], 1), stream, place, mask)
    own = model.context_proj(features) + model.place(stream, place, model.learned_in) * mask[..., None]
    assert torch.allclose(own[mask], context[mask], atol=1e-5)


@torch.no_grad()
def test_it_is_saved_and_loaded_as_it_is(tmp_path: Path) -> None:
    encoder = Encoder.of_model(lively_model(), NAMES).eval()
    encoder.save(tmp_path / "e", {"model": "m"})
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((tmp_path / "e" / "config.json").read_text())
    assert config["made_from"] == {"model": "m"} and [s["name"] for s in config["streams"]] == NAMES
    loaded = Encoder.load(tmp_path / "e")
    tokens, real = inputs()
    assert torch.equal(loaded(tokens, real)[0], encoder(tokens, real)[0])
    assert torch.equal(loaded({"tok_rgb": tokens["tok_rgb"]})[0], encoder({"tok_rgb": tokens["tok_rgb"]})[0])
    with pytest.raises(ConfigError, match="holds no encoder"):
        Encoder.load(tmp_path)
    config["hidden_size"] = 128
    (tmp_path / "e" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DamageError, match="is no whole encoder"):
        Encoder.load(tmp_path / "e")
    with pytest.raises(ConfigError, match="tok_depth: the model was not trained on it"):
        Encoder.of_model(lively_model(), ["tok_depth"])


@torch.no_grad()
def test_transformers_loads_it_without_remote_code(tmp_path: Path) -> None:
    from transformers import AutoModel

    from trainer.transfer.hub import export

    encoder = Encoder.of_model(lively_model(), NAMES).eval()
    export(encoder, str(tmp_path / "hub"), {"model": "m"})
    assert "import trainer.transfer.hub" in (tmp_path / "hub" / "README.md").read_text()
    assert len({path.stat().st_mode for path in (tmp_path / "hub").iterdir()}) == 1, "whoever may read one may read all"
    assert not list((tmp_path / "hub").glob("*.py")) and not list((tmp_path / "hub").glob("*.bin"))
    model = AutoModel.from_pretrained(tmp_path / "hub").eval()
    tokens, real = inputs()
    found = model(real=real, **tokens)
    assert torch.allclose(found.last_hidden_state, encoder(tokens, real)[0], atol=1e-6)
    assert found.pooler_output.shape == (2, 64) and model.config.made_from == {"model": "m"}


def write_labels(folder: Path, ds: Dataset) -> Path:
    """Every second photo is of the other class."""
    path = folder / "labels.csv"
    names = [Path(row.uri).name for k in ds.shards() for row in ds.index(k)]
    path.write_text("".join(f"{name},{'odd' if int(Path(name).stem[1:]) % 2 else 'even'}\n" for name in names))
    return path


@pytest.mark.parametrize("options", [{"frozen": True}, {}, {"scratch": True}])
def test_a_task_is_learned_scored_and_kept(trained: Path, tmp_path: Path, options: dict[str, bool]) -> None:
    ds = Dataset.open(str(trained))
    labels = write_labels(tmp_path, ds)
    report = run_transfer(
        config_of(trained), "classify", str(labels), ["rgb", "canny_edge"], options=["steps=3", "batch=4"],
        export=str(tmp_path / "hub"), quiet=True, **options,
    )  # fmt: skip
    assert (report["train"], report["test"]) == (7, 2), "three tenths of three shards of 4, 4 and 1"
    assert 0 <= report["scores"]["top1"] <= 1 and report["scores"]["majority"] >= 0.5
    folder = Path(report["folder"])
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "head.safetensors",
        "model.safetensors",
        "transfer.json",
    ]
    record = json.loads((folder / "transfer.json").read_text())
    assert record["scores"] == report["scores"] and record["from"] == ["tok_rgb", "tok_canny_edge"]
    mine, theirs = (
        Encoder.load(folder).state_dict(),
        Encoder.of_model(_model(trained), ["tok_rgb", "tok_canny_edge"]).state_dict(),
    )
    same = all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert same == options.get("frozen", False), "a frozen encoder is what it was, another one is not"
    assert (tmp_path / "hub" / "config.json").is_file()


def _model(root: Path) -> Any:
    from trainer.checkpoint import load_model

    return load_model(root / "_models" / "model")[0]


def test_deeper_layers_change_less_and_one_from_nothing_changes_everywhere() -> None:
    encoder = Encoder.of_model(lively_model(), NAMES)
    groups = _layers(encoder, TransferConfig(encoder_lr=0.2, layer_decay=0.5))
    scales = {id(p): g["scale"] for g in groups for p in g["params"]}
    assert len(scales) == len(list(encoder.parameters())), "each once"
    depth = len(encoder.blocks)
    assert scales[id(encoder.norm.weight)] == 0.2
    assert scales[id(next(encoder.blocks[0].parameters()))] == pytest.approx(0.2 * 0.5 ** (depth - 1))
    assert scales[id(encoder.modality.weight)] == pytest.approx(0.2 * 0.5**depth)
    (whole,) = _layers(encoder, TransferConfig(scratch=True))
    assert whole["scale"] == 1.0 and not _layers(encoder, TransferConfig(frozen=True))


@torch.no_grad()
def test_tokens_that_are_looked_at_are_drawn_among_the_real_ones() -> None:
    encoder = Encoder.of_model(lively_model(), NAMES).eval()
    tokens, real = inputs()
    everything = {"tok_rgb": torch.ones_like(tokens["tok_rgb"], dtype=torch.bool), **real}
    generator = torch.Generator().manual_seed(0)
    drawn = [_drawn(everything, encoder.streams, 6, generator) for _ in range(2)]
    assert drawn[0].shape == (2, 6) and not torch.equal(*drawn)
    there = torch.cat([everything[s.name] for s in encoder.streams], 1)
    assert there.gather(1, drawn[0]).all() and all(len(set(row.tolist())) == 6 for row in drawn[0])
    assert _drawn(everything, encoder.streams, None, generator) is None
    whole = torch.arange(there.shape[1]).flip(0).expand(2, -1)
    features, mask = encoder(tokens, everything, whole)
    expected, order = encoder(tokens, everything)[0].flip(1), there.flip(1)
    assert torch.equal(mask, order) and torch.allclose(features[order], expected[order], atol=1e-5)


def test_a_little_task_is_learned_by_heart(trained: Path, tmp_path: Path) -> None:
    """Judged on nothing it has seen, but it must be able to learn: the loss goes down."""
    from trainer.predict import Predictor
    from trainer.transfer.job import run

    ds = Dataset.open(str(trained))
    labels = str(write_labels(tmp_path, ds))
    predictor = Predictor.load(trained / "_models" / "model")
    done = run(
        ds, 0, predictor, "classify", labels, ["rgb"], TransferConfig(steps=150, batch=14, lr=5e-3, encoder_lr=1)
    )
    assert np.mean(done.result.curve[-5:]) < 0.5 * np.mean(done.result.curve[:5])


def test_heads_of_maps_read_the_grid_and_ignore_what_is_unknown() -> None:
    features, real = torch.randn(2, 20, 64), torch.ones(2, 20, dtype=torch.bool)
    segment, depth = Segment(side=8), Depth(side=8)
    out = Head(segment, 64, (4, 4))(features, real)
    assert out.shape == (2, 134, 8, 8)
    truth = torch.zeros(2, 8, 8, dtype=torch.int64)
    assert float(segment.loss(out, truth).detach()) == 0, "nothing is known"
    truth[:, 0, 0] = 5
    assert float(segment.loss(out, truth).detach()) == pytest.approx(np.log(134), rel=0.2)
    perfect = np.zeros((1, 134, 8, 8), np.float32)
    perfect[0, 5] = 1
    assert segment.scores(perfect, truth[:1].numpy()) == {"miou": 1.0, "pixel_accuracy": 1.0}
    far = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    wanted = depth.array(far[0])
    found = depth.scores(wanted[None, None], wanted[None])
    assert found["loss_l1"] == 0 and found.get("depth_order", 1.0) == 1.0
    gaps = torch.full((1, 8, 8), torch.nan)
    assert float(depth.loss(torch.ones(1, 1, 8, 8), gaps)) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"task": "detect"}, "--task detect: is not one of classify, segment, depth"),
        ({"task": "segment"}, "has no semseg yet"),
        ({"labels": "nowhere.csv"}, "nowhere.csv: cannot be read"),
        ({"labels": "det"}, "has no det yet"),
        ({"sources": ["depth"]}, "depth: the data set has no tokens of it"),
        ({"options": ["speed=3"]}, "unknown key"),
    ],
)
def test_what_cannot_be_transferred_is_refused(trained: Path, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        run_transfer(config_of(trained), **{"task": "classify", "labels": "x.csv", "sources": ["rgb"], **arguments})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"001.jpg,cat\n001.jpg,dog\n", "001.jpg is cat and dog; where photos of several folders share a name"),
        (b"001.jpg,cat\n", "names 1 classes"),
        (b"001.jpg,\xff\n", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_classes_that_cannot_be_used_are_refused(tmp_path: Path, text: bytes | None, says: str) -> None:
    path = tmp_path / "classes.csv"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError, match=rf"--classes .*classes\.csv: .*{re.escape(says)}"):
        Classify(str(path), "--classes")


def test_classes_are_found_by_file_name_as_a_person_writes_it(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("my photo.jpg,cat\nm\u00fcde,dog\n", encoding="utf-8-sig")
    by_name = Classify(str(tmp_path / "classes.csv")).by_name
    rows = [
        IndexRow("0" * 32, uri, "", 1, 1, 1) for uri in ("file:///p/my%20photo.jpg", "file:///x.tar#d/m%C3%BCde.png")
    ]
    assert [class_of(by_name, row) for row in rows] == ["cat", "dog"]
