"""What `tokenize` costs beside the encoder's own work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.config import Config, TokensConfig
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.records import canonical_json, file_sha256
from tests.threads import one_thread
from tokenize_shards.inputs import ShardViews
from tokenize_shards.kinds import make_tokenizer
from tokenize_shards.table import get_spec
from tokenize_shards.tokenize import tokenize
from tokenize_shards.tokenizer import load_tokenizer
from tokenize_shards.vit_vq import ViTVQ
from tokenize_shards.vit_vq_network import Network

PHOTOS, VIEWS = 8, 4


def _photos(folder: Path) -> Path:
    """Smooth noise of 480 x 640: as costly to decode and to cut as photos are."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(PHOTOS):
        small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.jpg", quality=90)
    return folder


def overhead(folder: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """CPU time of `tokenize` with the published rgb tokenizer, from opening the data set to committed shards, against
    that of a script that loads the encoder and runs it on the same views, which lie ready in memory. One thread each.
    """
    with one_thread():
        ratio = _overhead(folder)
    how = (
        f"ViT-B at 224 px on the CPU, {PHOTOS} photos x {VIEWS} views, local executor, "
        "against loading it and encode() of the same views"
    )
    yield "tokenize_over_encoder", (ratio, "times the CPU time", "<= 1.1", ratio <= 1.1, how)


def _overhead(folder: Path) -> float:
    root, spec = folder / "ds", get_spec("tok_rgb", "published")
    ds = Dataset.create(str(root), "bench", 32)
    ingest(ds, [str(_photos(folder / "photos"))])
    made = make_tokenizer(spec)
    assert isinstance(made, ViTVQ)
    made.spec = made.spec.__class__(**{**vars(made.spec), "decoder": "plain"})  # encoding does not need the other
    made.network = Network(made.spec, 3).eval()
    torch.nn.init.normal_(made.network.codebook.embed)  # type: ignore[arg-type]
    path = folder / "tokenizer"
    made.save(path)
    digest = file_sha256(path)
    ds.put_weights(path, digest)
    ds.storage.put_if_absent(f"_fits/{digest}.json", canonical_json({}))
    ds.update_manifest(tokenizers={"tok_rgb": digest})

    cut = ShardViews(ds, 0, range(VIEWS), 0).cut(spec, ds.current("rgb"))
    batch = np.stack([view for row in cut for view in row])  # type: ignore[union-attr]
    load_tokenizer(path).encode(batch[:2])
    start = time.process_time()
    load_tokenizer(path).encode(batch)
    bare = time.process_time() - start

    tokens = TokensConfig(profile="published", views=VIEWS, modalities=["tok_rgb"])
    start = time.process_time()
    report = tokenize(Dataset.open(str(root)), Config(root=str(root), executor="local", tokens=tokens))
    spent = time.process_time() - start
    assert report.done == 1 and not report.failed, report.errors
    return spent / bare
