"""The trainer's own figures: mapped tokens to masked tensors, the fill of budgets, and a training step against its floor.

Rates of one core are counted in CPU seconds, so that what else the machine does does not blur them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tokenize_shards.shards import Row, TokenMeta, open_tokens, write_tokens
from trainer.corpus import Column, Corpus
from trainer.loader import Blend, Loader
from trainer.masking import Masker
from trainer.mixture import published
from trainer.open_corpus import column_of
from trainer.streams import Stream

SAMPLES, SHARDS, BATCH, BUDGET = 20_000, 10, 256, 256
Figures = Iterator[tuple[str, tuple[float | None, str, str, bool | None, str]]]


def streams() -> list[Stream]:
    """Sixteen modalities with the lengths and vocabularies of 4M-21."""
    image = [Stream(f"tok_{n}", "image", 8192, 196, (14, 14)) for n in ("rgb", *"abcdefg")]
    image += [Stream(f"tok_{n}", "image", 8192, 256, (16, 16)) for n in ("dinov2", "imagebind")]
    vector = [Stream(f"tok_{n}_global", "vector", 8192, 16) for n in ("dinov2", "imagebind")]
    lengths = (("caption", 256), ("det", 256), ("color_palette", 23))
    text = [Stream(f"tok_{n}", "sequence", 30_000, length) for n, length in lengths]
    return [*image, *vector, *text, Stream("tok_metadata", "sequence", 30_000, 40, pairs=True)]


def rows(stream: Stream, count: int, rng: np.random.Generator) -> list[Row]:
    if stream.kind != "sequence":
        return list(rng.integers(0, stream.vocab, (count, 1, stream.length), dtype=np.uint16))
    lengths = rng.integers(1, min(stream.length, 80) // 2, count) * 2
    return [[rng.integers(300, 3000, n, dtype=np.uint16)] for n in lengths]


def corpus(folder: Path, samples: int = SAMPLES) -> Corpus:
    """Token shards on the disk, memory-mapped."""
    rng, each = np.random.default_rng(0), samples // SHARDS
    shards = []
    for k in range(SHARDS):
        names, columns = [f"{k * each + i:032x}" for i in range(each)], {}
        for s in streams():
            path = folder / f"{s.name}-{k}.arrow"
            meta = TokenMeta(s.name, 1, None if s.kind == "sequence" else s.length, s.vocab, "00000000")
            write_tokens(path, meta, names, rows(s, each, rng))
            columns[s.name] = column_of(open_tokens(path))
        shards.append(columns)
    return Corpus(streams(), shards, [np.zeros(each, np.bool_)] * SHARDS)


def cpu_rate(work: Callable[[], object], seconds: float = 1.5) -> float:
    """Samples of BATCH a CPU second."""
    work()
    best = 0.0
    for _ in range(3):
        start, done = time.process_time(), 0
        while (spent := time.process_time() - start) < seconds / 3:
            work()
            done += BATCH
        best = max(best, done / spent)
    return best


def loading(folder: Path) -> Figures:
    """Mapped tokens to masked tensors, masking alone, and how full the budgets are."""
    blend, rng = Blend([corpus(folder)]), np.random.default_rng(1)
    loader = Loader(blend, BATCH, 0)
    masker = Masker(blend.streams, published(), BUDGET, BUDGET, blend.has())
    both = cpu_rate(lambda: masker(loader.next(), rng))
    how = (
        f"16 modalities, {SAMPLES:,} samples, {BUDGET} in and out, batches of {BATCH}, the published mixture, one core"
    )
    yield "mapped_to_masked", (both, "samples/s", ">= 8000", both >= 8000, how)
    batch = loader.next()
    alone = 1000.0 / cpu_rate(lambda: masker(batch, rng))
    yield "masking_alone", (alone, "ms a sample", "<= 0.1", alone <= 0.1, how)
    for side in ("in", "out"):
        fill = filled(masker, loader, side)
        what = f"tokens used of {BUDGET}, where those that the mixture's component allows suffice; 40 batches"
        yield f"budget_fill_{side}", (100 * fill, "%", ">= 100", fill >= 1.0, what)


def filled(masker: Masker, loader: Loader, side: str) -> float:
    """Share of a budget that is used, over samples whose streams hold both budgets by the component that was drawn."""
    used, room = 0, 0
    for i in range(40):
        batch = loader.next()
        masked = masker(batch, np.random.default_rng([7, i]))
        mixture, of = masker.mixture, masked.component
        allowed = (mixture.alpha_in if side == "in" else mixture.alpha_out)[of] > 0
        image = np.array([s.kind != "sequence" for s in masker.streams])
        length = np.stack([batch[s.name].length for s in masker.streams], axis=1)
        enough = (length * (allowed & image)).sum(axis=1) >= (BUDGET if (~allowed).any() else 2 * BUDGET)
        mask = masked.in_mask if side == "in" else masked.out_mask
        used, room = used + int(mask[enough].sum()), room + int(enough.sum()) * BUDGET
    return used / room


def training(folder: Path) -> Figures:
    """A training step against its floor, each precision in a process of its own, so that memory is counted alone."""
    for precision, limit in (("fp32", 1.25), ("bf16", 1.5)):
        command = [sys.executable, "-m", "tests.bench.training", precision]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(run.stdout.splitlines()[-1])
        how = (
            f"width 192, 4+4 layers, 8 modalities, batch 16 in 2 parts, {BUDGET} in and out, AdamW and clipping; floor: its "
            f"{found['flops'] / 1e9:.0f} GFLOP (attention counted in full, also what the masks leave out and is not computed) "
            f"over the rate of a 1024-cubed product in {precision} ({found['rate'] / 1e9:.0f} GFLOP/s), both in CPU seconds of "
            "one core"
        )
        ratio, peak = found["ratio"], found["peak"] / 1e9
        yield f"step_over_floor_{precision}", (ratio, "times", f"<= {limit}", ratio <= limit, how)
        yield f"step_memory_{precision}", (peak, "GB at most", "< 1.2", peak < 1.2, "of the whole process: " + how[:60])
    yield "gpu_mfu_b_bf16", (*gpu_figure("mfu"), "size B, 256 in and out, bf16; needs a GPU")
    yield "gpu_loader_wait", (*gpu_figure("wait"), "share of the step time; needs a GPU")


def gpu_figure(name: str) -> tuple[float | None, str, str, bool | None]:
    """Utilisation, or waiting, of size B; None without a GPU."""
    import torch

    goal = ">= 45" if name == "mfu" else "< 2"
    if not torch.cuda.is_available():
        return None, "%", goal, None
    value = 100 * step_on_gpu()[name]
    return value, "%", goal, value >= 45 if name == "mfu" else value < 2


def run_of(settings: dict[str, Any]) -> Any:
    from trainer.config import TrainConfig
    from trainer.run import Run

    vocab = {"rgb": 4096, "canny_edge": 1024, "depth": 1024, "normal": 1024, "semseg": 1024, "clip": 1024}
    made = [Stream(f"tok_{n}", "image", v, 196, (14, 14)) for n, v in vocab.items()]
    made += [Stream("tok_dinov2_global", "vector", 1024, 16), Stream("tok_caption", "sequence", 30_000, 256)]
    rng, count = np.random.default_rng(0), 256
    columns = {}
    for s in made:
        if s.kind == "sequence":
            offsets = np.cumsum([0, *rng.integers(20, s.length, count)]).astype(np.int64)
            columns[s.name] = Column(
                rng.integers(300, 3000, offsets[-1], dtype=np.uint16), np.ones(count, np.bool_), offsets
            )
        else:
            ids = rng.integers(0, s.vocab, (count, 1, s.length), dtype=np.uint16)
            columns[s.name] = Column(ids, np.ones(count, np.bool_))
    data = Corpus(made, [columns], [np.zeros(count, np.bool_)])
    mixture = [{"name": "any", "inputs": {"*": 1.0}, "targets": {"*": 1.0}}]
    given = {"n_in": BUDGET, "n_out": BUDGET, "mixture": mixture, "steps": 100_000, **settings}
    return Run(data, TrainConfig(**given))


def step_on_gpu() -> dict[str, float]:
    run = run_of({"size": "B", "batch": 64, "precision": "bf16", "compile": True})
    peak = run.measure().peak
    for _ in range(5):
        run.one_step()
    start, flops, waited = time.perf_counter(), run.flops, run.waited
    for _ in range(20):
        run.one_step()
    seconds = time.perf_counter() - start
    run.feed.close()
    return {"mfu": (run.flops - flops) / seconds / peak, "wait": (run.waited - waited) / seconds}


def main() -> None:
    """Measure one precision, and print it as JSON."""
    import torch

    from trainer.estimate import matmul_rate, peak_memory

    torch.set_num_threads(1)
    precision = sys.argv[1]
    run, device = run_of({"batch": 16, "accumulate": 2, "precision": precision}), torch.device("cpu")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    found = []
    run.one_step()
    for _ in range(6):
        rate = matmul_rate(device, dtype, 6, time.process_time)
        start, flops = time.process_time(), run.flops
        run.one_step()
        found.append((time.process_time() - start, run.flops - flops, rate))
    run.feed.close()
    ratios = sorted(seconds / (flops / rate) for seconds, flops, rate in found)
    _, flops, rate = found[0]
    result = {"ratio": ratios[len(ratios) // 2], "flops": flops, "rate": rate, "peak": peak_memory(device)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
