"""`make bench`: ratios against baselines that are measured in the same run, printed and written to bench.json.

A figure is {value, unit, goal, met, how}. Ratios travel between machines better than times do; times are given where a
person waits for them. Figures that need a GPU have value null where there is none.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.bench import (
    cloud,
    cloud_demo,
    engine,
    generation,
    labels,
    learning,
    networks,
    scale,
    tokenizers,
    tokens,
    training,
    using,
)


@dataclass(frozen=True)
class Figure:
    """value: None where it cannot be measured here. goal: in words. met: None where there is no goal or no value."""

    value: float | None
    unit: str
    goal: str
    met: bool | None
    how: str


Bench = Callable[[Path], Iterator[tuple[str, tuple[float | None, str, str, bool | None, str]]]]
BENCHES: dict[str, Bench] = {
    "engine": engine.overhead,
    "second_run": engine.second_run,
    "workers": engine.workers,
    "labelers": engine.labelers,
    "reading": learning.reading,
    "masking": learning.masking,
    "loading": training.loading,
    "training": training.training,
    "scale": scale.million,
    "autoregressive": generation.autoregressive,
    "maskgit": generation.maskgit,
    "rgb_tokenizer": tokenizers.rgb,
    "mask_tokenizer": tokenizers.masks,
    "encoder": tokenizers.encoder,
    "bucket": cloud.bucket,
    "demo_on_s3": cloud_demo.through_s3,
    "tokenize": tokens.overhead,
    **labels.PARTS,
    "networks": networks.on_gpu,
    "using": using.using,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="bench.json")
    parser.add_argument("--only", choices=BENCHES, nargs="*", default=list(BENCHES))
    parser.add_argument("--photos", type=int, help="Of `workers`, to see it run through: fewer than its 2,000.")
    chosen = parser.parse_args()
    if chosen.photos:
        BENCHES["workers"] = partial(engine.workers, count=chosen.photos)
    figures: dict[str, Figure] = {}
    for name in chosen.only:
        with tempfile.TemporaryDirectory(prefix="manymodal-bench-") as folder:
            for figure, values in BENCHES[name](Path(folder)):
                figures[figure] = Figure(*values)
                value = "-" if values[0] is None else f"{values[0]:.4g}"
                met = {True: "met", False: "NOT MET", None: ""}[values[3]]
                print(f"{figure:34} {value:>10} {values[1]:22} goal {values[2]:16} {met}", flush=True)
    result = {name: asdict(figure) for name, figure in figures.items()}
    Path(chosen.out).write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(f"wrote {chosen.out} on {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
