"""Held-out loss of each stream, beside two guesses that see nothing: every token equally likely, and tokens as often as
in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.corpus import Column, Corpus
from trainer.loss import forward_loss
from trainer.masking import Masker
from trainer.mixture import all2all, from_one
from trainer.model import Model
from trainer.shuffle import Order
from trainer.spans import ranges
from trainer.streams import EOS

SAMPLES, ROUNDS, BATCH = 64, 3, 16
COUNTED = 50_000
Score = Callable[[Mapping[str, Any]], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Heldout:
    """Nats a token. loss: of the model. uniform: log of the vocabulary. unigram: by counts of the training tokens, plus
    one. tokens: how many were predicted. given: what the model saw, "RGB" or "any".
    """

    loss: float
    uniform: float
    unigram: float
    tokens: int
    given: str


def _plain(model: Model, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    loss = forward_loss(model, batch)
    return loss.mean, loss.total, loss.count


def unigrams(corpus: Corpus) -> dict[str, np.ndarray]:
    """Log-probability of each token of each stream by its count in training samples, plus one; [EOS] once a text.

    Of a large data set the first COUNTED samples are counted.
    """
    counts = {stream.name: np.ones(stream.vocab) for stream in corpus.streams}
    seen = 0
    for shard, rows in zip(corpus.shards, corpus.train_rows, strict=True):
        for stream in corpus.streams:
            column = shard[stream.name]
            _count(counts[stream.name], column, rows[column.valid[rows]])
        seen += len(rows)
        if seen >= COUNTED:
            break
    return {name: np.log(count / count.sum()) for name, count in counts.items()}


def _count(counts: np.ndarray, column: Column, rows: Order) -> None:
    """Add the tokens of some samples, all views."""
    if column.offsets is None:
        counts += np.bincount(column.ids[rows].reshape(-1), minlength=len(counts))
        return
    first = column.offsets[rows * column.views]
    at, cols = ranges(column.offsets[(rows + 1) * column.views] - first)
    counts += np.bincount(column.ids[first[at] + cols], minlength=len(counts))
    counts[EOS] += column.views * len(rows)


def heldout_losses(
    model: Model, corpus: Corpus, n_in: int, n_out: int, seed: int, samples: int = SAMPLES, score: Score | None = None
) -> dict[str, Heldout]:
    """Every stream from RGB alone; RGB itself, and everything where there is no RGB, from any mix. Empty where nothing
    is held out.

    The masks are fixed by the seed, so that two models are asked the same. The streams of the corpus come first among
    the model's. score: how a batch is scored; None: by the model as it is.
    """
    shard, row, view = corpus.held_out(samples)
    if not len(shard):
        return {}
    names = [s.name for s in corpus.streams]
    passes = [("any", all2all(1.0), [n for n in names if n == "tok_rgb" or "tok_rgb" not in names])]
    if "tok_rgb" in names and len(names) > 1:
        passes.append(("RGB", from_one("tok_rgb", alpha=1.0), [n for n in names if n != "tok_rgb"]))
    guess = unigrams(corpus)
    device = next(model.parameters()).device
    model.eval()
    found: dict[str, Heldout] = {}
    for given, component, judged in passes:
        masker = Masker(corpus.streams, [component], n_in, n_out)
        total, count, chance = (np.zeros(len(names)) for _ in range(3))
        for round_ in range(ROUNDS):
            for at in range(0, len(shard), BATCH):
                part = slice(at, at + BATCH)
                masked = masker(
                    corpus.gather(shard[part], row[part], view[part]), np.random.default_rng([seed, 77, round_, at])
                )
                batch = {k: torch.from_numpy(np.ascontiguousarray(v)).to(device) for k, v in masked.arrays().items()}
                with torch.no_grad():
                    _, summed, counted = score(batch) if score else _plain(model, batch)
                total += summed.cpu().numpy()[: len(names)]
                count += counted.cpu().numpy()[: len(names)]
                for s, name in enumerate(names):
                    mine = masked.out_mask & (masked.out_stream == s)
                    chance[s] -= guess[name][masked.out_ids[mine]].sum()
        for s, stream in enumerate(corpus.streams):
            if stream.name in judged and count[s]:
                found[stream.name] = Heldout(
                    float(total[s] / count[s]),
                    math.log(stream.vocab),
                    float(chance[s] / count[s]),
                    int(count[s]),
                    given,
                )
    return {name: found[name] for name in names if name in found}
