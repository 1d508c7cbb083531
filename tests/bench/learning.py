"""What the trainer's loader and masker gain over the ways they replace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenize_shards.shards import TokenMeta, open_tokens, write_tokens
from trainer.masking import Masker
from trainer.mixture import all2all
from trainer.streams import Batch, Stream, Tokens

SAMPLES, TOKENS, MODALITIES, BATCH = 4000, 196, 8, 64


def rate(work: Callable[[], int], seconds: float = 1.0) -> float:
    """Units a second of work() -> units, called until the time is over."""
    work()
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        done += work()
    return done / spent


def reading(folder: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Random rows from memory-mapped token shards against random rows of the same tokens in Parquet."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 1024, (SAMPLES, 1, TOKENS), dtype=np.uint16)
    names = [f"{i:032x}" for i in range(SAMPLES)]
    arrow, parquet = folder / "t.arrow", folder / "t.parquet"
    write_tokens(arrow, TokenMeta("tok_bench", 1, TOKENS, 1024, "00000000"), names, list(ids))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(ids.reshape(-1)), TOKENS)
    pq.write_table(pa.table({"id": names, "tokens": flat}), parquet, row_group_size=256)
    fixed = open_tokens(arrow).fixed
    assert fixed is not None
    source = pq.ParquetFile(parquet)

    def mapped() -> int:
        return len(np.ascontiguousarray(fixed[rng.integers(0, SAMPLES, BATCH), 0]))

    def columns() -> int:
        group = int(rng.integers(0, source.num_row_groups))
        table = source.read_row_group(group, columns=["tokens"])
        picked = table.column("tokens").combine_chunks().take(pa.array(rng.integers(0, len(table), BATCH)))
        return len(picked.flatten().to_numpy().reshape(-1, TOKENS))

    ratio = rate(mapped) / rate(columns)
    how = f"{BATCH} random rows of {TOKENS} tokens from {SAMPLES}; Parquet reads one row group of 256 a batch"
    yield "token_rows_over_parquet", (ratio, "times", ">= 3", ratio >= 3, how)


def masking(folder: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Masking whole batches against the same masker given one sample at a time."""
    rng = np.random.default_rng(0)
    streams = [Stream(f"tok_{i}", "image", 1024, TOKENS, (14, 14)) for i in range(MODALITIES)]
    masker = Masker(streams, [all2all(0.5)], 128, 128)

    def batch(n: int) -> Batch:
        return {
            s.name: Tokens(
                rng.integers(0, 1024, (n, TOKENS), dtype=np.uint16), np.full(n, TOKENS), np.ones(n, np.bool_)
            )
            for s in streams
        }

    whole, single = batch(BATCH), batch(1)

    def at_once() -> int:
        masker(whole, rng)
        return BATCH

    def one_by_one() -> int:
        masker(single, rng)
        return 1

    fast = rate(at_once)
    ratio = fast / rate(one_by_one)
    how = f"{MODALITIES} modalities of {TOKENS} tokens to 128 in and 128 out, batches of {BATCH}, one core"
    yield "masked_samples_a_second", (fast, "samples/s", "-", None, how)
    yield "batch_masking_over_single", (ratio, "times", ">= 5", ratio >= 5, how)
