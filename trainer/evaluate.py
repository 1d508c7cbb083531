"""Held-out loss of each stream, beside two guesses that see nothing: every token equally likely, and tokens as often as
in training.

There are two answers, never mixed. Of held-out photos: what carries over to photos that nobody has seen. Of held-out
views: whether the training photos themselves were learned, on crops of them that were never trained on. In the second,
what belongs to the whole photo (a caption, a palette) is the same in every view, so a model may know it by heart;
`repeated` says of which streams that is so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.corpus import Column, Corpus
from trainer.feed import tensors
from trainer.loss import forward_loss
from trainer.masking import Masker
from trainer.mixture import Component, all2all, from_one
from trainer.model import Model
from trainer.shuffle import Order
from trainer.spans import ranges
from trainer.streams import EOS, Tokens

SAMPLES, ROUNDS, LEAST, BATCH = 64, 3, 128, 16
COUNTED = 50_000
Score = Callable[[Mapping[str, Any]], tuple[Tensor, Tensor, Tensor]]
Spots = tuple[Order, Order, Order]  # (shard, row, view) of each


@dataclass(frozen=True)
class Heldout:
    """Nats a token. loss: of the model. uniform: log of the vocabulary. unigram: by counts of the training tokens, plus
    one. tokens: how many were predicted. given: what the model saw, "RGB" or "any". repeated: share of the samples whose
    tokens a training view of the same photo has too, all of them; 0 for held-out photos.
    """

    loss: float
    uniform: float
    unigram: float
    tokens: int
    given: str
    repeated: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """By stream. photos: held-out photos; views: held-out views of training photos. Empty where nothing is held out."""

    photos: dict[str, Heldout]
    views: dict[str, Heldout]


def _plain(model: Model, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    loss = forward_loss(model, batch)
    return loss.mean, loss.total, loss.count


def unigrams(corpus: Corpus, counted: int = COUNTED) -> dict[str, np.ndarray]:
    """Log-probability of each token of each stream by its count in what is trained on, plus one; [EOS] once a text.

    Of a large data set the shards that hold the first `counted` samples are counted.
    """
    streams = [stream for stream in corpus.streams if not stream.values]
    counts = {stream.name: np.ones(stream.vocab) for stream in streams}
    seen = 0
    for shard, rows in zip(corpus.shards, corpus.train_rows, strict=True):
        for stream in streams:
            column = shard[stream.name]
            _count(counts[stream.name], column, rows[column.valid[rows]], corpus.train_views)
        seen += len(rows)
        if seen >= counted:
            break
    return {name: np.log(count / count.sum()) for name, count in counts.items()}


def _count(counts: np.ndarray, column: Column, rows: Order, views: int) -> None:
    """Add the tokens of some samples, the first `views` views of them."""
    views = min(views, column.views)
    if column.offsets is None:
        counts += np.bincount(column.ids[rows, :views].reshape(-1), minlength=len(counts))
        return
    first = column.offsets[rows * column.views]
    at, cols = ranges(column.offsets[rows * column.views + views] - first)
    counts += np.bincount(column.ids[first[at] + cols], minlength=len(counts))
    counts[EOS] += views * len(rows)


def judge(
    model: Model, corpus: Corpus, n_in: int, n_out: int, seed: int, samples: int = SAMPLES, score: Score | None = None
) -> Judgement:
    """Held-out photos and held-out views: every stream from RGB alone; RGB itself, and everything where there is no RGB,
    from any mix.

    The masks are fixed by the seed, so that two models are asked the same. The streams of the corpus come first among
    the model's. score: how a batch is scored; None: by the model as it is.
    """
    asked = [("photos", corpus.held_out(samples)), ("views", corpus.held_views(samples))]
    guess = unigrams(corpus) if any(len(spots[0]) for _, spots in asked) else {}
    found: dict[str, dict[str, Heldout]] = {}
    model.eval()
    for number, (what, spots) in enumerate(asked):
        found[what] = {}
        same = repeated(corpus, spots) if what == "views" and len(spots[0]) else {}
        for given, component, judged in _passes(corpus) if len(spots[0]) else ():
            masker = Masker(corpus.streams, [component], n_in, n_out)
            sums = _Sums(model, corpus, masker, guess, score or (lambda batch: _plain(model, batch)))
            sums.add(spots, [seed, 77 + number])
            found[what].update(sums.of(judged, given, same))
    order = [s.name for s in corpus.streams]
    return Judgement(*({n: found[what][n] for n in order if n in found[what]} for what in ("photos", "views")))


def _passes(corpus: Corpus) -> list[tuple[str, Component, list[str]]]:
    """(what is seen, how it is masked, the streams that are judged by it). Pixels, which tell all, are not seen."""
    names = [s.name for s in corpus.streams if not s.values]
    mix = replace(all2all(1.0), inputs={"*": 1.0, **{s.name: 0.0 for s in corpus.streams if s.kind == "patches"}})
    passes = [("any", mix, [n for n in names if n == "tok_rgb" or "tok_rgb" not in names])]
    if "tok_rgb" in names and len(names) > 1:
        passes.append(("RGB", from_one("tok_rgb", alpha=1.0), [n for n in names if n != "tok_rgb"]))
    return passes


class _Sums:
    """Surprise of the model and of counting, and how many tokens, by stream."""

    def __init__(
        self, model: Model, corpus: Corpus, masker: Masker, guess: Mapping[str, np.ndarray], score: Score
    ) -> None:
        self.corpus, self.masker, self.guess, self.score = corpus, masker, guess, score
        self.device = next(model.parameters()).device
        self.total, self.count, self.chance = (np.zeros(len(corpus.streams)) for _ in range(3))

    def add(self, spots: Spots, seed: Sequence[int]) -> None:
        """ROUNDS masks of every sample, and more of few: LEAST in all."""
        count = len(self.total)
        for round_ in range(max(ROUNDS, -(-LEAST // len(spots[0])))):
            for at in range(0, len(spots[0]), BATCH):
                shard, row, view = (part[at : at + BATCH] for part in spots)
                masked = self.masker(self.corpus.gather(shard, row, view), np.random.default_rng([*seed, round_, at]))
                with torch.no_grad():
                    _, summed, counted = self.score(tensors(masked, self.device))
                self.total += summed.cpu().numpy()[:count]
                self.count += counted.cpu().numpy()[:count]
                for s, stream in enumerate(self.corpus.streams):
                    if stream.values:
                        continue
                    mine = masked.out_mask & (masked.out_stream == s)
                    self.chance[s] -= self.guess[stream.name][masked.out_ids[mine]].sum()

    def of(self, judged: Sequence[str], given: str, same: Mapping[str, float]) -> dict[str, Heldout]:
        found = {}
        for s, stream in enumerate(self.corpus.streams):
            if stream.name in judged and self.count[s]:
                loss, chance = float(self.total[s] / self.count[s]), float(self.chance[s] / self.count[s])
                count, known = int(self.count[s]), same.get(stream.name, 0.0)
                found[stream.name] = Heldout(loss, math.log(stream.vocab), chance, count, given, known)
        return found


def repeated(corpus: Corpus, spots: Spots) -> dict[str, float]:
    """Of each stream the share of some views whose tokens are, all of them, those of a training view of the same photo."""
    shard, row, view = spots
    asked = {name: tokens for name, tokens in corpus.gather(shard, row, view).items() if tokens.values is None}
    same = {name: np.zeros(len(shard), np.bool_) for name in asked}
    for other in range(corpus.train_views):
        there = corpus.gather(shard, row, np.full_like(view, other))
        for name, tokens in asked.items():
            same[name] |= _equal(tokens, there[name])
    shares = {name: same[name][tokens.valid] for name, tokens in asked.items()}
    return {name: float(share.mean()) if len(share) else 0.0 for name, share in shares.items()}


def _equal(one: Tokens, two: Tokens) -> np.ndarray:
    """(B,) bool: whether two samples have the same tokens."""
    width = min(one.ids.shape[1], two.ids.shape[1])
    inside = np.arange(width) < np.minimum(one.length, two.length)[:, None]
    unlike = (one.ids[:, :width] != two.ids[:, :width]) & inside
    equal: np.ndarray = (one.length == two.length) & ~unlike.any(axis=1)
    return equal
