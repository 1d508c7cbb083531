"""`manymodal transfer`: from a checkpoint and a data set to a fitted head, scores, and folders others can load."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.records import canonical_json
from pipeline.storage.places import there
from tokenize_shards.holdout import held_out
from trainer.atomic import as_readable
from trainer.checkpoint import MODEL
from trainer.generate.job import Spot
from trainer.lexicon import Lexicon
from trainer.open_corpus import open_corpus
from trainer.predict import Predictor
from trainer.transfer.encoder import Encoder
from trainer.transfer.fit import TransferConfig, Transferred, fit
from trainer.transfer.tasks import task_of

HEAD, RECORD = "head.safetensors", "transfer.json"
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Done:
    """A run: its task in words, what the encoder reads, and the result."""

    task: str
    names: tuple[str, ...]
    result: Transferred


def split(ds: Dataset, test: float) -> tuple[list[Spot], list[Spot]]:
    """(to learn from, to judge by): of each shard the share with the smallest digests of their ids is judged. Whatever is
    held out of training the model is among it, where test is at least train.holdout.
    """
    marked = [(k, i, bool(out)) for k in ds.shards() for i, out in enumerate(held_out(ds.ids(k), test))]
    return [(k, i) for k, i, out in marked if not out], [(k, i) for k, i, out in marked if out]


def run(
    ds: Dataset, seed: int, predictor: Predictor, task: str, labels: str, sources: Sequence[str], config: TransferConfig,
    progress: Progress = lambda *_: None,
) -> Done:  # fmt: skip
    """ConfigError for modalities the data set or the model does not have, and tasks without labels. seed: of the views."""
    lexicon = Lexicon(ds)
    names = [lexicon.name(source) for source in sources]
    if not names:
        raise ConfigError("transfer: name what the encoder reads with --from, e.g. --from rgb,depth")
    for name in names:
        predictor.stream(name)
    lexicon.check(predictor.record, names)
    chosen = task_of(task, labels, ds)
    corpus = open_corpus(ds, 0.0, names)
    if {s.name for s in corpus.streams} != set(names):
        raise ConfigError(f"{', '.join(names)}: one of them is null in every sample, and cannot be read")
    train, test = split(ds, config.test)
    truth = chosen.truth(ds, corpus.views, seed)
    encoder = Encoder.of_model(predictor.model, names)
    result = fit(encoder, chosen, corpus, truth, train, test, config, progress)
    return Done(chosen.name, tuple(names), result)


def keep(
    ds: Dataset,
    done: Done,
    name: str,
    model: str,
    record: Mapping[str, Any],
    config: TransferConfig,
    export: str | None,
) -> str:
    """Write encoder, head and a record under _transfers/<name>, and the folder for transformers; where it lies."""
    about = {
        "model": model, "sha256": record.get("sha256", {}).get(MODEL, ""), "step": record.get("step", 0),
        "scratch": config.scratch, "task": done.task, "from": list(done.names),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="manymodal-transfer-") as scratch:
        folder = Path(scratch)
        done.result.encoder.save(folder, about)
        weights = {n: v.detach().cpu().contiguous() for n, v in done.result.head.state_dict().items()}
        save_file(weights, folder / HEAD)
        scores = {n: v for n, v in done.result.scores.items() if np.isfinite(v)}
        facts = {
            **about,
            "config": config.model_dump(mode="json"),
            "scores": scores,
            "train": done.result.train,
            "test": done.result.test,
        }
        (folder / RECORD).write_bytes(canonical_json(facts))
        as_readable(folder, RECORD)
        ds.storage.put_folder(f"_transfers/{name}", folder)
    if export is not None:
        from trainer.transfer.hub import export as to_hub

        with there(export) as folder:
            to_hub(done.result.encoder, str(folder), about)
    return f"{ds.storage.url}/_transfers/{name}"
