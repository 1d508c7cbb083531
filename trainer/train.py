"""Training from start to end: open, check, estimate, go on where a checkpoint is, train, look at held-out photos,
publish.

The same loop for one process and for many; `launch.py` and `ray_train.py` start the processes.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from labelers.core.weights import default_cache
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from trainer import checkpoint
from trainer.card import CARD, model_card
from trainer.config import TrainConfig, components
from trainer.estimate import peak_memory
from trainer.evaluate import Judgement, judge
from trainer.live import PAGE, Live, in_words
from trainer.loader import Blend
from trainer.logs import check_logs, open_logs
from trainer.open_corpus import open_corpus
from trainer.open_text import open_text
from trainer.parallel import Group
from trainer.run import MAX_BAD_STEPS, Run

__all__ = [
    "MAX_BAD_STEPS",
    "Run",
    "TrainConfig",
    "TrainReport",
    "components",
    "keep_model",
    "model_folder",
    "thin",
    "train",
]
Progress = Callable[[str, int, int, str], None]
CURVE_POINTS = 400


@dataclass
class TrainReport:
    """What a run did. curve: (step, loss) where the loss is finite. heldout: of held-out photos, stream -> loss, uniform,
    unigram in nats a token; heldout_views: the same of held-out views of training photos (see evaluate.py). skipped:
    non-finite steps. mfu: share of what the device can do at most. loader_wait: share of the time.
    """

    path: str
    steps: int
    seconds: float
    tokens_per_second: float
    parameters: int
    manifest: int
    curve: list[tuple[int, float]] = field(default_factory=list)
    heldout: dict[str, dict[str, Any]] = field(default_factory=dict)
    heldout_views: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: int = 0
    loader_wait: float = 0.0
    already: bool = False
    mfu: float = 0.0
    memory_bytes: int = 0
    page: str = ""
    estimate: dict[str, Any] = field(default_factory=dict)


def model_folder(ds: Dataset, name: str) -> Path:
    """The local folder of a model's newest checkpoint; it may not exist yet. After saving there: `keep_model`."""
    return ds.storage.fetch_folder(f"_models/{name}")


def keep_model(ds: Dataset, name: str, folder: Path) -> None:
    """Give a saved checkpoint its card, and make it the one that every reader of the data set finds."""
    (folder / CARD).write_text(model_card(ds, checkpoint.read_record(folder)), encoding="utf-8")
    ds.storage.put_folder(f"_models/{name}", folder)


class Home:
    """Where a run keeps its checkpoints by step, logs and page: beside its model, or in the cache where that is far away.

    The newest checkpoint of a far one is kept at the storage too, so that another machine can go on.
    """

    def __init__(self, ds: Dataset, name: str) -> None:
        self.storage, self.key = ds.storage, f"_models/{name}.run"
        self.far = "://" in ds.storage.url
        beside = default_cache() / "runs" / hashlib.sha256(ds.storage.url.encode()).hexdigest()[:16] / f"{name}.run"
        self.path = beside if self.far else ds.storage.fetch_folder(self.key)

    def newest(self) -> Path | None:
        """The last checkpoint, if there is one. Of a run in a bucket it is the bucket's: another machine may have gone on."""
        if self.far:
            fetched = self.storage.fetch_folder(self.key)
            return fetched if (fetched / checkpoint.RECORD).is_file() else None
        kept = checkpoint.steps(self.path)
        return kept[-1] if kept else None

    def keep(self, folder: Path) -> None:
        if self.far:
            self.storage.put_folder(self.key, folder)

    def clear(self) -> None:
        """Of a run that nobody goes on with. In a bucket an empty version takes its place."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.far and self.storage.list(self.key):
            with tempfile.TemporaryDirectory(prefix="manymodal-run-") as empty:
                (Path(empty) / "anew").touch()
                self.storage.put_folder(self.key, Path(empty))


def open_data(ds: Dataset, config: TrainConfig, last: Mapping[str, Any] | None = None) -> Blend:
    """The data sets and texts of a run. last: a checkpoint's record, whose manifests and shards are opened instead of the
    current ones. ConfigError and DamageError for whatever cannot be trained on.
    """
    had = (
        [last, *last.get("others", ())][: 1 + len(last["config"]["datasets"])] if last else []
    )  # after them come texts
    opened = [{"manifest": one["manifest"], "shards": one.get("shards")} for one in had]
    opened += [{}] * (1 + len(config.datasets))
    apart = config.heldout_views
    corpora = [open_corpus(ds, config.holdout, config.modalities, stale=config.stale, heldout_views=apart, **opened[0])]
    weights = [config.weight]
    for source, how in zip(config.datasets, opened[1:], strict=False):
        other = Dataset.open(source.root)
        corpora.append(open_corpus(other, config.holdout, source.modalities, stale=config.stale, **how))
        weights.append(source.weight)
    for text in config.text:
        corpora.append(open_text(ds, corpora[0], text))
        weights.append(text.weight)
    return Blend(corpora, weights)


def train(
    ds: Dataset, config: TrainConfig, progress: Progress = lambda *_: None, *, again: bool = False,
    group: Group | None = None, dry: bool = False,
) -> TrainReport:  # fmt: skip
    """Train on the manifest's tokens; the model is then root/_models/<name>, and what its run left root/_models/<name>.run.

    A run that was stopped goes on from its last checkpoint, on the manifest it had; a finished one of the same settings
    and tokens is not repeated. again: start anew. dry: only the estimate. ConfigError, before the first step, for
    anything that cannot be trained on.
    """
    check_logs(config)
    folder, home = model_folder(ds, config.name), Home(ds, config.name)
    newest = None if again else home.newest()
    last = checkpoint.read_record(newest) if newest else None
    unfinished = last is not None and last["step"] < last["config"]["steps"]
    data = open_data(ds, config, last if unfinished else None)
    run = Run(data, config, group, restored=unfinished)
    record = checkpoint.read_record(folder) if not again and (folder / checkpoint.RECORD).is_file() else None
    report = _report(run, folder, home)
    if record is not None and _same(record, run):
        report.already, report.steps, report.skipped = True, record["step"], record["skipped"]
        report.heldout, report.heldout_views = record["heldout"], record.get("heldout_views", {})
        report.curve = thin([(int(s), float(v)) for s, v in record["curve"]])
        checkpoint.load_model(folder)  # digests checked
        return report
    if record is not None and not unfinished:  # else it was given up when the run that goes on here was begun
        keep_what_is_finished(folder, record, config)
    if newest and last and (unfinished or not run.differs(last)):
        run.restore(newest)
    estimate = run.measure()
    report.estimate = estimate.to_json()
    progress("estimate", 1, 1, estimate.words(config.steps - run.step))
    if not dry:
        Training(run, home, progress).go(report, folder)
        if run.group.first:
            keep_model(ds, config.name, folder)
    run.feed.close()
    return report


def keep_what_is_finished(folder: Path, record: Mapping[str, Any], config: TrainConfig) -> None:
    """ConfigError where a finished model of that name was trained with other settings. One of tokens that are no longer
    current is made anew, as everything that is stale.
    """
    if other := config.learned_alike(record["config"]):
        raise ConfigError(
            f"{folder}: was trained with another train.{other}; give another train.name, or --again to train anew"
        )


class Training:
    """The loop, with what it writes on the way: checkpoints, logs and the live page."""

    def __init__(self, run: Run, home: Home, progress: Progress) -> None:
        self.run, self.config, self.home, self.progress = run, run.config, home, progress
        first = run.group.first
        if not run.group.alike(run.step):
            raise ConfigError(
                f"{home.path}: the processes found different checkpoints, this one of step {run.step}. Let MANYMODAL_CACHE, or "
                "the data set's root, be a folder that all of them see, or --again train anew."
            )
        if first and not run.step:
            home.clear()  # of a run that was finished, or is to be made anew
        run.group.wait()
        self.logs = open_logs(home.path, self.config, run.step) if first else []
        self.live = Live(home.path / PAGE, self.config.name, run.estimate.words(self.config.steps)) if first else None
        self.shown: dict[str, str] = {}
        self.saved = run.step  # nothing, or the checkpoint gone on from
        self.begun = self.mark = (time.perf_counter(), run.step, run.waited, run.flops)

    def go(self, report: TrainReport, folder: Path) -> None:
        """Train to the last step, judge, publish, and fill in the report."""
        run, config = self.run, self.config
        while run.step < config.steps:
            loss = run.one_step()
            due = run.step % config.log_every == 0 or run.step == config.steps
            note = self.log(loss) if due else ""
            self.progress("train", run.step, config.steps, note if run.step % 50 == 0 else "")
            if config.eval_every and run.step % config.eval_every == 0 and run.step < config.steps:
                self.judge()
            if run.step % config.save_every == 0 and run.step < config.steps:
                self.save()
        figures = self.speed(self.begun)
        found = self.judge()
        self.save()
        run.publish(found, folder)
        if run.group.first:
            checkpoint.load_model(folder)  # a model that cannot be read back is found out now
        report.steps, report.skipped, report.curve = run.step, run.skipped, thin(run.curve)
        judged = asdict(found)
        report.heldout, report.heldout_views = judged["photos"], judged["views"]
        report.seconds, report.tokens_per_second = round(figures["seconds"], 2), figures["tokens_per_second"]
        report.loader_wait, report.mfu = figures["wait"], figures["mfu"]
        report.memory_bytes = peak_memory(run.device)
        if self.live:
            self.live.write(self.shown, thin(run.curve), run.evaluations, now=True, going=False)
        for log in self.logs:
            log.close()

    def speed(self, since: tuple[float, int, float, float]) -> dict[str, float]:
        """Tokens a second, utilisation and waiting since a mark."""
        run, config = self.run, self.config
        seconds = max(time.perf_counter() - since[0], 1e-9)
        done = run.step - since[1]
        return {
            "seconds": seconds, "seconds_per_step": seconds / max(1, done),
            "tokens_per_second": done * config.batch * (config.n_in + config.n_out) / seconds,
            "mfu": (run.flops - since[3]) / seconds / run.peak, "wait": (run.waited - since[2]) / seconds,
        }  # fmt: skip

    def log(self, loss: float) -> str:
        """Write the figures since the last time; what a person wants to know of them."""
        run = self.run
        figures: dict[str, Any] = {
            "loss": loss if np.isfinite(loss) else None, "lr": run.rate(),
            "grad_norm": run.norm if np.isfinite(run.norm) else None,
            "skipped": run.skipped, "epoch": run.loader_state["taken"][0] / run.corpus.samples,
            "memory_bytes": peak_memory(run.device), **self.speed(self.mark),
        }  # fmt: skip
        self.mark = (time.perf_counter(), run.step, run.waited, run.flops)
        for log in self.logs:
            log.write(run.step, figures)
        self.shown = in_words({**figures, "loss": loss}, run.step, self.config.steps)
        if self.live:
            self.live.write(self.shown, thin(run.curve), run.evaluations)
        return (
            f"loss {loss:.3f}, {figures['tokens_per_second']:,.0f} tokens/s, MFU {figures['mfu']:.0%}, "
            f"waiting {figures['wait']:.1%}"
        )

    def judge(self) -> Judgement:
        """Losses of the weights that would be published on held-out photos and held-out views."""
        run, config = self.run, self.config
        with run.averaged(), run.autocast():
            found = judge(
                run.model, run.corpus, config.n_in, config.n_out, config.seed, config.eval_samples, run.divided.score
            )
        if found.photos or found.views:
            judged = {"heldout": found.photos, "heldout_views": found.views}
            means = {f"{k}_mean": float(np.mean([h.loss for h in of.values()])) for k, of in judged.items() if of}
            kept = {k: {n: asdict(h) for n, h in of.items()} for k, of in judged.items()}
            run.evaluations = [e for e in run.evaluations if e["step"] != run.step] + [
                {"step": run.step, **means, **kept}
            ]
            for log in self.logs:
                log.write(run.step, {**means, **{k: {n: h.loss for n, h in of.items()} for k, of in judged.items()}})
        return found

    def save(self) -> None:
        """Keep a checkpoint, and no more than are wanted.

        Whether it is there already is known by what this process did, never by looking: the first process may have
        written it before a slower one looks, which would then not meet the others in `save`.
        """
        target = checkpoint.step_folder(self.home.path, self.run.step)
        if self.saved != self.run.step:
            self.run.save(target)
            self.saved = self.run.step
        if self.run.group.first:
            self.home.keep(target)
            checkpoint.prune(self.home.path, self.config.keep, self.config.keep_every)


def _report(run: Run, folder: Path, home: Home) -> TrainReport:
    parameters, manifest = run.estimate.parameters, run.corpus.manifest
    return TrainReport(str(folder), run.step, 0.0, 0.0, parameters, manifest, page=str(home.path / PAGE))


def _same(record: dict[str, Any], run: Run) -> bool:
    """Whether a checkpoint is the end of this very run."""
    return record["step"] == run.config.steps and not run.differs(record)


def thin(curve: list[tuple[int, float]], points: int = CURVE_POINTS) -> list[tuple[int, float]]:
    """At most `points` means over equal stretches: (last step of the stretch, mean loss)."""
    parts = np.array_split(np.arange(len(curve)), min(points, len(curve))) if curve else []
    return [(curve[int(part[-1])][0], float(np.mean([curve[i][1] for i in part]))) for part in parts]
