"""A scaling study: several sizes on the same samples for the same tokens, and loss over size and compute.

Each size is a run of its own, named after it, and resumes and finishes as any run does; the study is what they share.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from markupsafe import Markup, escape

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.gallery.plots import scaling_curve
from trainer.config import TrainConfig
from trainer.launch import start
from trainer.live import MORE, STYLE
from trainer.train import Home, Progress

SIZE_NAMES = get_args(TrainConfig.model_fields["size"].annotation)


def sweep(
    ds: Dataset, config: TrainConfig, sizes: Sequence[str], progress: Progress, *, again: bool = False, dry: bool = False
) -> dict[str, Any]:  # fmt: skip
    """Train each size; figures and a page in root/_models/<name>.sweep. dry: only the estimate of each. ConfigError for a
    size that is unknown.
    """
    unknown = [size for size in sizes if size not in SIZE_NAMES]
    if unknown or len(set(sizes)) != len(sizes) or not sizes:
        raise ConfigError(f"--sweep {','.join(sizes)}: name each of some sizes once: {', '.join(SIZE_NAMES)}")
    points = []
    for size in sizes:
        name = f"{config.name}-{size}"

        def step(what: str, done: int, total: int, note: str, size: str = size) -> None:
            progress(f"{size}: {what}", done, total, note)

        report = start(ds, config.model_copy(update={"size": size, "name": name}), step, again=again, dry=dry)
        if dry:
            points.append({"size": size, **report.estimate})
            continue
        points.append(point(size, json.loads((Path(report.path) / "train.json").read_bytes())))
    tokens = config.steps * config.batch * (config.n_in + config.n_out)
    if dry:
        return {"points": points, "tokens": tokens}
    folder = Home(ds, config.name).path.with_suffix(".sweep")
    folder.mkdir(parents=True, exist_ok=True)
    found = {"points": points, "tokens": tokens, "page": str(folder / "sweep.html")}
    (folder / "sweep.json").write_text(json.dumps(found, indent=1, sort_keys=True))
    (folder / "sweep.html").write_text(page(config.name, tokens, points), encoding="utf-8")
    return found


def point(size: str, record: dict[str, Any]) -> dict[str, Any]:
    """What a finished run adds to the study, from its record alone."""
    from trainer.estimate import head_flops, skeleton, trunk_flops
    from trainer.model import SIZES
    from trainer.streams import Stream

    config = record["config"]
    streams = [Stream.from_json(s) for s in record["streams"]]
    model = skeleton(streams, SIZES[size], config["tied"])
    logits = config["n_out"] * float(np.mean([s.vocab for s in streams]))
    flops = trunk_flops(SIZES[size], config["n_in"], config["n_out"]) + head_flops(SIZES[size], logits)
    losses = {name: h["loss"] for name, h in record["heldout"].items()}
    last = [value for _, value in record["curve"]][-max(1, len(record["curve"]) // 20) :]
    train_loss = float(np.mean(last)) if last else float("nan")
    return {
        "size": size, "trunk": model.trunk_parameters(), "parameters": sum(p.numel() for p in model.parameters()),
        "flops": flops * config["batch"] * record["step"], "heldout": losses, "train_loss": train_loss,
        "heldout_mean": float(np.mean(list(losses.values()))) if losses else train_loss,
    }  # fmt: skip


def page(name: str, tokens: int, points: Sequence[dict[str, Any]]) -> str:
    """The HTML of a study: loss over size, loss over compute, and a table."""
    labels = [p["size"] for p in points]
    losses = [p["heldout_mean"] for p in points]
    plots = [
        Markup("<section><h2>{}</h2>{}</section>").format(title, scaling_curve(x, losses, labels, title))
        for title, x in (
            ("Held-out loss over trunk parameters", [p["trunk"] for p in points]),
            ("Held-out loss over training FLOPs", [p["flops"] for p in points]),
        )
    ]
    head = Markup("<tr><th>size</th><th>trunk</th><th>FLOPs</th><th>held-out</th><th>training</th></tr>")
    rows = [
        Markup("<tr><td>{}</td><td>{:.1f} M</td><td>{:.3g}</td><td>{:.3f}</td><td>{:.3f}</td></tr>").format(
            p["size"], p["trunk"] / 1e6, p["flops"], p["heldout_mean"], p["train_loss"]
        )
        for p in points
    ]
    title = f"{escape(name)}: {len(points)} sizes, {tokens:,} tokens each"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}\n{MORE}</style>'
        f"</head><body><main><h1>{title}</h1>{Markup('').join(plots)}<section><table>{head}{Markup('').join(rows)}"
        "</table></section></main></body></html>"
    )
