"""Made-up tokens for the trainer's tests: a pure function of the sample's number, so that any reader can be checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from labelers.core.modality import Null
from pipeline.dataset import Dataset
from pipeline.records import Commit, IndexRow, recipe_id, shard_name
from pipeline.shard_task import replace
from tokenize_shards.shards import Row, TokenMeta, verify_tokens, write_tokens
from tokenize_shards.table import TokenSpec, image_row, pixels_row, sequence_row, values_row, vector_row
from trainer.loader import Corpus
from trainer.masking import Masked
from trainer.model import Model, Size
from trainer.open_corpus import open_corpus, stream_of
from trainer.streams import SENTINEL, SENTINELS, Stream

TINY = Size(2, 2, 64, 1)  # of the random networks in these tests
TEXT_VOCAB = 260
FIRST_WORD = SENTINEL + SENTINELS
CLASSES = 4

RGB = image_row("rgb", size=8, patch=2, channels=3, vocab=64)  # 16 tokens
EDGES = image_row("canny_edge", size=4, patch=2, channels=1, vocab=32)  # 4 tokens
GLOBAL = vector_row("dinov2_global", size=8, channels=8, vocab=32, tokens=3)
CAPTION = sequence_row("caption", 8)
METADATA = sequence_row("metadata", 6)
VECTORS = values_row("t5_caption", 5)  # shown, never asked for
PIXELS = pixels_row(4, 2)  # and so are these: 4 patches of 12 numbers
SPECS = (EDGES, CAPTION, GLOBAL, METADATA, RGB)  # by name, as manifests have them
VECTOR_WIDTH = 6


def vocab_of(spec: TokenSpec) -> int:
    return 0 if spec.kind == "values" else spec.vocab or TEXT_VOCAB


def vectors_of(number: int) -> np.ndarray:
    """One to three vectors: the first says the class, all of them the sample."""
    made = np.full((1 + number % 3, VECTOR_WIDTH), number / 64, np.float16)
    made[0, :CLASSES] = 4 * np.eye(CLASSES)[number % CLASSES]
    return made


def patches_of(number: int, view: int) -> np.ndarray:
    """Four patches: all of them say the class, the last the sample and the view."""
    made = np.zeros((4, 12), np.float16)
    made[:, :CLASSES] = 2 * np.eye(CLASSES)[number % CLASSES]
    made[3, CLASSES:] = number / 64 + view / 2
    return made


STREAMS: tuple[Stream, ...] = tuple(stream_of(spec, vocab_of(spec)) for spec in SPECS)


def sample_id(number: int) -> str:
    return hashlib.sha256(f"sample {number}".encode()).hexdigest()[:32]


def lacks(name: str, number: int) -> bool:
    """Which samples have no tokens of a modality: RGB is always there, the others lack some each."""
    return {
        "tok_canny_edge": number % 5 == 3,
        "tok_dinov2_global": number % 7 == 1,
        "tok_caption": number % 4 == 2,
        "tok_t5_caption": number % 6 == 4,
    }.get(name, False)


def tokens_of(name: str, number: int, view: int, salt: int = 0) -> np.ndarray:
    """The tokens of one view of a sample, uint16, or its vectors. All follow from its class, number % 4, but for the first
    three of RGB, which are number % 64, number // 64 and the view.
    """
    kind = number % CLASSES
    if name == VECTORS.name:
        return vectors_of(number)
    if name == PIXELS.name:
        return patches_of(number, view)
    if name == "tok_rgb":
        rest = (kind * 13 + np.arange(13)) % 64
        return np.array([number % 64, number // 64, view, *rest], np.uint16)
    if name == "tok_canny_edge":
        return ((kind * 4 + np.arange(4) + salt) % 32).astype(np.uint16)
    if name == "tok_dinov2_global":
        return ((kind * 5 + np.arange(3) * 2) % 32).astype(np.uint16)
    if name == "tok_caption":  # from none to eight words
        return (FIRST_WORD + kind * 8 + np.arange(number % 9)).astype(np.uint16)
    fields = np.arange(1 + number % 3)  # one to three pairs
    return np.stack([FIRST_WORD + 40 + fields, FIRST_WORD + 45 + fields + kind], axis=1).reshape(-1).astype(np.uint16)


def number_and_view(rgb: np.ndarray) -> list[tuple[int, int]]:
    """Which sample and view each row of RGB tokens is of."""
    return [(int(row[0]) + 64 * int(row[1]), int(row[2])) for row in rgb]


def numbers(sizes: Sequence[int], k: int) -> range:
    start = sum(sizes[:k])
    return range(start, start + sizes[k])


def write_world(
    root: Path, sizes: Sequence[int] = (7, 5, 4), views: int = 2, specs: Sequence[TokenSpec] = SPECS
) -> Dataset:
    """A data set with an index and committed token shards, as `manymodal tokenize` leaves it; there are no pictures."""
    ds = Dataset.create(str(root), "tiny", max(sizes))
    for k in range(len(sizes)):
        rows = [IndexRow(sample_id(n), f"made-up/{n}", f"{n:064x}", 8, 8, 1) for n in numbers(sizes, k)]
        ds.publish_index(k, rows)
    for spec in specs:
        add_tokens(ds, spec, sizes, views)
    return ds


def add_tokens(
    ds: Dataset, spec: TokenSpec, sizes: Sequence[int], views: int, salt: int = 0, only: Sequence[int] | None = None
) -> str:
    """Commit the token shards of one modality (only: these shards) and make them current; the recipe."""
    recipe = {
        "modality": spec.name, "labeler": "tokenize", "version": 1, "weights": {}, "reads": {},
        "params": {"spec": asdict(spec), "views": views, "salt": salt},
    }  # fmt: skip
    name = ds.put_recipe(recipe)
    width = {VECTORS.name: VECTOR_WIDTH, PIXELS.name: 12}.get(spec.name, 0)
    views = 1 if spec.name == VECTORS.name else views
    meta = TokenMeta(spec.name, views, spec.tokens, vocab_of(spec), recipe_id(recipe), width=width)
    for k in range(len(sizes)) if only is None else only:
        rows: list[Row] = [
            Null("made to be missing")
            if lacks(spec.name, n)
            else [tokens_of(spec.name, n, v, salt) for v in range(views)]
            for n in numbers(sizes, k)
        ]
        draft = Commit(spec.name, name, k, shard_name(k, "arrow"), 0, 0, "")
        replace(ds, draft, partial(write_tokens, meta=meta, ids=ds.ids(k), rows=rows), verify_tokens)
    ds.update_manifest({spec.name: name})
    return name


def open_world(root: Path, holdout: float = 0.0, sizes: Sequence[int] = (7, 5, 4), views: int = 2) -> Corpus:
    return open_corpus(write_world(root, sizes, views), holdout)


def tiny_model(streams: Sequence[Stream] = STREAMS, seed: int = 0, tied: bool = False, size: Size = TINY) -> Model:
    """A random network, always the same one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(streams, size, tied).eval()


def lively_model() -> Model:
    """A random network whose every prediction is another one: places and tokens weigh the same, and are far apart."""
    model = tiny_model()
    with torch.no_grad():
        model.table.weight.mul_(100)
        model.positions.copy_(torch.randn(model.positions.shape, generator=torch.Generator().manual_seed(0)))
    return model


def as_tensors(masked: Masked) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in masked.arrays().items()}
