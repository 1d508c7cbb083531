"""From the labels of a shard to its tokens, a bounded number of views at a time.

Threads read, decode and cut what comes next while this one computes, so that neither images nor feature maps of a whole
shard are ever in memory, and nobody waits for the disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labelers.core.labeler import Labeler
from labelers.core.modality import Null
from pipeline.batches import one_line
from pipeline.suspects import Suspects
from tokenize_shards.inputs import Cut, OnView, ShardViews, chunks
from tokenize_shards.shards import Row
from tokenize_shards.table import TokenSpec
from tokenize_shards.tokenizer import Tokenizer

CHUNK = 64  # views that are read, labelled and encoded at a time


def encode_shard(
    shard: ShardViews, specs: Sequence[TokenSpec], recipe: str, tokenizers: Mapping[str, Tokenizer],
    labeler: Labeler | None, suspects: Suspects | None = None,
) -> dict[str, list[Row]]:  # fmt: skip
    """The rows of tokens of a shard, by token modality: of labels stored under `recipe`, or of what the labeler makes of
    each view, row by row where one of them is suspected to kill the workers.
    """
    size = max(1, CHUNK // len(shard.numbers))
    found: dict[str, list[Row]] = {spec.name: [] for spec in specs}
    if labeler is None:
        for spec in specs:
            for cut in chunks(shard.stream(spec, recipe), size):
                found[spec.name] += encode_rows(tokenizers[spec.name], cut)
        return found
    runs = OnView(labeler, specs, suspects)
    for views in chunks(shard.stream_pixels(runs), 1 if suspects else size):
        for name, rows in runs.label(views).items():
            found[name] += encode_rows(tokenizers[name], rows)
    runs.close()
    return found


def encode_rows(tokenizer: Tokenizer, rows: Sequence[Sequence[Cut] | Null]) -> list[Row]:
    """The tokens of each row's views, in order; a Null row stays the Null it is. A row the tokenizer refuses becomes a
    Null; where it refuses several and there is nothing else, it is the tokenizer that is wrong, and its error is raised.
    """
    flat = [cut for row in rows if not isinstance(row, Null) for cut in row]
    if not flat:
        return [row for row in rows if isinstance(row, Null)]
    try:
        tokens = iter(_encode(tokenizer, flat))
        return [row if isinstance(row, Null) else [next(tokens) for _ in row] for row in rows]
    except ValueError as error:
        real = [i for i, row in enumerate(rows) if not isinstance(row, Null)]
        if len(real) == 1:
            return [row if isinstance(row, Null) else Null(f"tokenizer failed: {one_line(error)}") for row in rows]
        alone = [encode_rows(tokenizer, [row])[0] for row in rows]
        if all(isinstance(alone[i], Null) for i in real):
            raise
        return alone


def _encode(tokenizer: Tokenizer, flat: Sequence[Cut]) -> Any:
    alike = isinstance(flat[0], np.ndarray) and tokenizer.tokens is not None
    return tokenizer.encode(np.stack(flat) if alike else flat)
