"""What a model of a few minutes is good for, on real photos: retrieval by predicted embeddings, and transfer.

The data set is built here from the photos of ../shared/assets (or MANYMODAL_ASSETS); without them every figure is null.
"""

from __future__ import annotations

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
from trainer.retrieve.vectors import only, predicted, tokenized
from trainer.train import TrainConfig, model_folder, train
from trainer.transfer.encoder import Encoder
from trainer.transfer.fit import TransferConfig, fit
from trainer.transfer.job import split
from trainer.transfer.tasks import Present

Figure = tuple[str, tuple[Any, ...]]
RGB, GLOBAL = "tok_rgb", "tok_dinov2_global"
STEPS, BATCH = 1400, 16
CLASSES = ("person",)
SEEDS = 3
NAMES = ("retrieval_other_view_in_5", "transfer_rgb_gain", "transfer_rgb_and_dinov2_global_gain")


def config_of(root: Path) -> Config:
    """DINOv2 and imported boxes alone; two views; short fits."""
    chosen = {name: LabelerConfig(enabled=name in ("dinov2", "import_det")) for name in all_labelers()}
    source = f"file:{ASSETS / INSTANCES}"
    chosen["import_det"] = LabelerConfig(enabled=True, weights={"source": source}, params={"photo": "coco_(.*)"})
    tokens = TokensConfig(views=2, fit_seconds=15.0, modalities=[RGB, GLOBAL])
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
    # Two modalities, and one question asked of them: every step goes into it.
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
    """The embedding predicted from the RGB tokens of one view, searched among the real ones of the other."""
    spots = [(k, i) for k in ds.shards() for i in range(len(ds.ids(k)))]
    shares, real_shares = [], []
    for view in (0, 1):
        job = Job(ds, predictor, Order((RGB,), Request((GLOBAL,), {GLOBAL: Decoding(steps=4)}), view=view))
        others = tokenized(ds, GLOBAL, 1 - view)
        index = VectorIndex.build(ds, others, {})
        place = others.at()
        for vectors, found in ((predicted(job, GLOBAL, spots), shares), (tokenized(ds, GLOBAL, view), real_shares)):
            asked = only(vectors, [s for s in vectors.spots if s in place])
            rows = index.search(asked.rows, 5).rows
            found.append(np.mean([place[s] in row for s, row in zip(asked.spots, rows, strict=True)]))
    value, real = float(np.mean(shares)), float(np.mean(real_shares))
    how = f"{len(spots)} training photos, both views in turn; the real embedding's own tokens reach {real:.0%}"
    yield NAMES[0], (value, "of photos", ">= 0.8", value >= 0.8, how)


def transfer(ds: Dataset, predictor: Predictor) -> Iterator[Figure]:
    """Is a person in the picture, by COCO's boxes: the trained encoder against the same from nothing."""
    task = Present(ds, only=CLASSES)
    for name, names in ((NAMES[1], [RGB]), (NAMES[2], [RGB, GLOBAL])):
        corpus = open_corpus(ds, 0.0, names)
        truth = task.truth(ds, corpus.views, 0)
        train_spots, test_spots = split(ds, 0.5)
        found: dict[bool, list[float]] = {}
        for scratch in (False, True):
            for seed in range(SEEDS):
                config = TransferConfig(steps=80, batch=16, lr=1e-3, scratch=scratch, seed=seed)
                encoder = Encoder.of_model(predictor.model, names)
                done = fit(encoder, task, corpus, truth, train_spots, test_spots, config)
                found.setdefault(scratch, []).append(done.scores["map"])
        mine, nothing = float(np.mean(found[False])), float(np.mean(found[True]))
        how = (
            f"AP of 'person' on {done.test} photos, learned on {done.train}: {mine:.3f} against {nothing:.3f} from scratch, "
            f"means of {SEEDS} seeds; the encoder has seen all photos without their labels"
        )
        yield name, (mine - nothing, "AP", "> 0", mine > nothing, how)
