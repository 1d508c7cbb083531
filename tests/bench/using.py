"""What a model of a few minutes is good for, on real photos: retrieval by predicted embeddings, and transfer.

The data set is built here from the photos of ../shared/assets (or MANYMODAL_ASSETS); without them every figure is null.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from labelers.core.registry import all_labelers
from pipeline.config import Config, LabelerConfig, TokensConfig
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from tests.bench.truth import ASSETS, INSTANCES
from tokenize_shards.fit import fit_all
from tokenize_shards.tokenize import tokenize
from trainer.config import ComponentConfig
from trainer.generate.chain import Request
from trainer.generate.decoding import Decoding
from trainer.generate.job import Job, Order
from trainer.open_corpus import open_corpus
from trainer.predict import Predictor
from trainer.retrieve.index import VectorIndex
from trainer.retrieve.vectors import drawn, only, predicted, tokenized
from trainer.train import TrainConfig, model_folder, train
from trainer.transfer.encoder import Encoder
from trainer.transfer.fit import TransferConfig, fit
from trainer.transfer.tasks import Present, spots_of

Figure = tuple[str, tuple[Any, ...]]
RGB, GLOBAL = "tok_rgb", "tok_dinov2_global"
STEPS, BATCH = 1600, 16
CODES = 128  # of each of the 16 tokens of an embedding: with the 32 of the laptop profile the real ones find less
LEAST = 16  # photos of a class
SHARE, SEEDS = 0.25, 5  # of the photos with labels, learned from; each seed draws them anew
FIT: dict[str, Any] = {"steps": 80}
SCRATCH_LR = (1e-3, 3e-3)
NAMES = ("retrieval_other_view_in_5", "transfer_rgb_gain", "transfer_rgb_and_dinov2_global_gain")


def config_of(root: Path) -> Config:
    """DINOv2 and imported boxes alone; two views; short fits."""
    chosen = {name: LabelerConfig(enabled=name in ("dinov2", "import_det")) for name in all_labelers()}
    source = f"file:{ASSETS / INSTANCES}"
    chosen["import_det"] = LabelerConfig(enabled=True, weights={"source": source}, params={"photo": "coco_(.*)"})
    tokens = TokensConfig(views=2, fit_seconds=15.0, modalities=[RGB, GLOBAL], settings={GLOBAL: {"vocab": CODES}})
    return Config(root=str(root), executor="local", labelers=chosen, tokens=tokens)


def build(root: Path) -> tuple[Dataset, Predictor, float]:
    """The data set, a model trained on it, and the seconds of that training."""
    config, ds = config_of(root), Dataset.create(str(root), "photos", 32)
    ingest(ds, [str(ASSETS / "images")])
    report = label(ds, config)
    assert not report.failed, report.errors
    fit_all(ds, config, [], False, lambda *_: None)
    report = tokenize(ds, config)
    assert not report.failed, report.errors
    return ds, *learned(ds)


def learned(ds: Dataset) -> tuple[Predictor, float]:
    start = time.perf_counter()
    # One question alone: with a second target beside it, what is asked here takes several times the steps.
    asked = ComponentConfig(name="rgb2global", inputs={RGB: 1.0}, targets={GLOBAL: 1.0})
    settings = TrainConfig(
        steps=STEPS, batch=BATCH, lr=6e-4, n_in=64, n_out=16, mixture=[asked], holdout=0.0, modalities=[RGB, GLOBAL],
        save_every=10_000, tensorboard=False, eval_samples=1, precision="bf16",
    )  # fmt: skip
    train(ds, settings)
    return Predictor.load(model_folder(ds, settings.name)), time.perf_counter() - start


def using(folder: Path) -> Iterator[Figure]:
    """Both, from one data set and one training."""
    if not (ASSETS / "images").is_dir():
        for name in NAMES:
            yield name, (None, "-", "-", None, f"no photos at {ASSETS}")
        return
    ds, predictor, seconds = build(folder / "ds")
    yield (
        "pretraining_seconds",
        (seconds, "s", "<= 240", seconds <= 240, f"micro, {STEPS} steps of {BATCH}, RGB and DINOv2 global tokens"),
    )
    yield from retrieval(ds, predictor)
    yield from transfer(ds, predictor)


def retrieval(ds: Dataset, predictor: Predictor) -> Iterator[Figure]:
    """The embedding expected from the RGB tokens of one view, searched among the real ones of the other."""
    spots = [(k, i) for k in ds.shards() for i in range(len(ds.ids(k)))]
    shares: dict[str, list[float]] = {}
    for view in (0, 1):
        job = Job(ds, predictor, Order((RGB,), Request((GLOBAL,), {GLOBAL: Decoding(steps=1)}), view=view))
        index = VectorIndex.build(ds, tokenized(ds, GLOBAL, 1 - view), {})
        place = {spot: n for n, spot in enumerate(index.spots)}
        ways = {"expected": predicted, "likeliest": drawn}
        found = {name: way(job, GLOBAL, spots) for name, way in ways.items()}
        for name, vectors in {**found, "real": tokenized(ds, GLOBAL, view)}.items():
            asked = only(vectors, [s for s in vectors.spots if s in place])
            rows = index.search(asked.rows, 5).rows
            hits = [place[s] in row for s, row in zip(asked.spots, rows, strict=True)]
            shares.setdefault(name, []).append(float(np.mean(hits)))
    value, likeliest, real = (float(np.mean(shares[name])) for name in ("expected", "likeliest", "real"))
    how = (
        f"{len(spots)} training photos, both views in turn; the likeliest tokens instead reach {likeliest:.1%}, the real "
        f"embedding's own tokens of {CODES} codes {real:.1%}"
    )
    yield NAMES[0], (value, "of photos", ">= 0.8", value >= 0.8, how)


def groups() -> dict[str, str]:
    """COCO's classes by their supercategories, as its annotations have them."""
    known = json.loads((ASSETS / INSTANCES).read_text())["categories"]
    return {one["name"]: one["supercategory"] for one in known}


def transfer(ds: Dataset, predictor: Predictor) -> Iterator[Figure]:
    """What is in the picture, by COCO's supercategories: the trained encoder against the same from nothing."""
    task = Present(ds, LEAST, groups=groups())
    for name, names in ((NAMES[1], [RGB]), (NAMES[2], [RGB, GLOBAL])):
        mine, sizes = scores(ds, predictor, task, names)
        nothing = {lr: scores(ds, predictor, task, names, scratch=True, lr=lr)[0] for lr in SCRATCH_LR}
        lr, best = max(nothing.items(), key=lambda one: one[1].mean())
        gain = mine - best
        rates = ", ".join(f"{n:g}" for n in nothing)
        how = (
            f"mean AP of {task.outputs} supercategories of COCO, learned on {sizes[0]} photos, judged on {sizes[1]}: "
            f"{mine.mean():.3f} against {best.mean():.3f} from scratch ({lr:g}, the better rate of {rates}), "
            f"{FIT['steps']} steps both; {SEEDS} seeds of split and start, gains {gain.min():+.3f} to {gain.max():+.3f}, "
            f"standard deviation {gain.std(ddof=1):.3f}; the encoder has seen all photos without their labels"
        )
        yield name, (float(gain.mean()), "mean AP", "> 0", bool(gain.mean() > 0), how)


def scores(
    ds: Dataset, predictor: Predictor, task: Present, names: list[str], **settings: Any
) -> tuple[np.ndarray, tuple[int, int]]:
    """Mean AP of every seed, and the numbers of photos learned from and judged by."""
    corpus, found = open_corpus(ds, 0.0, names), []
    truth = task.truth(ds, corpus.views, 0)
    spots = spots_of(truth)
    cut = round(SHARE * len(spots))
    for seed in range(SEEDS):
        order = [spots[i] for i in np.random.default_rng(seed).permutation(len(spots))]
        config = TransferConfig(seed=seed, **FIT, **settings)
        encoder = Encoder.of_model(predictor.model, names)
        found.append(fit(encoder, task, corpus, truth, order[:cut], order[cut:], config).scores["map"])
    return np.array(found), (cut, len(spots) - cut)
