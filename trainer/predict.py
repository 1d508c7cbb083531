"""Predicts one stream from others and from parts of itself: fixed slots in rounds, sequences token by token.

The result for a sample is a function of what it is given, the settings, the seed and its key; not of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import ConfigError
from trainer import checkpoint
from trainer.generate.context import Rows, Shown
from trainer.generate.decoding import Decoding, Part, check_ids, check_tokens, check_values
from trainer.generate.grid import ShownOf, decode_grid, grid_probabilities
from trainer.generate.guidance import Pass, passes
from trainer.generate.sampling import Head, Noise, Picker
from trainer.generate.text import decode_text, has_gaps, hint
from trainer.mixture import Mixture
from trainer.model import Model
from trainer.streams import SENTINEL, SENTINELS, Stream

Ids = np.ndarray
Given = Mapping[str, Sequence[Ids | Part | None] | Ids]
LIKELIEST = Decoding()


class Predictor:
    """A trained model that predicts. record: the checkpoint's train.json."""

    def __init__(self, model: Model, record: dict[str, Any]) -> None:
        self.model, self.record = model.eval(), record
        self.device = next(model.parameters()).device
        self.streams = {s.name: (i, s) for i, s in enumerate(model.streams)}

    @staticmethod
    def load(folder: Path) -> Predictor:
        """From a checkpoint folder. ConfigError where there is none, DamageError where it is damaged."""
        model, record = checkpoint.load_model(folder)
        return Predictor(model.to("cuda" if torch.cuda.is_available() else "cpu"), record)

    def stream(self, name: str) -> tuple[int, Stream]:
        if name not in self.streams:
            raise ConfigError(f"{name}: the model was not trained on it. It knows: {', '.join(self.streams)}.")
        return self.streams[name]

    def require_target(self, name: str) -> None:
        """ConfigError for a stream that the model only ever saw as input."""
        _, stream = self.stream(name)
        asked = trained_targets(self.record, list(self.streams))
        if stream.values or (asked is not None and name not in asked):
            known = [n for n, (_, s) in self.streams.items() if not s.values and (asked is None or n in asked)]
            raise ConfigError(f"{name}: the model never learned to predict it. It predicts: {', '.join(known)}.")

    @torch.inference_mode()
    def predict(
        self, given: Given, target: str, how: Decoding = LIKELIEST, *, parts: Sequence[Part | None] | None = None,
        prompts: Sequence[Ids | None] | None = None, keys: Sequence[str] | None = None, allowed: Ids | None = None,
        most: int | None = None,
    ) -> Ids | list[Ids]:  # fmt: skip
        """Tokens of `target` for a batch of samples.

        given: stream -> for each sample its uint16 tokens, a Part of them, or None where it lacks them; of value
        streams float vectors (L, width). The target's own are not looked at. parts: what is known of each sample's
        target. prompts: how each sample's sequence begins. keys: a name of each sample (and variant), from which with
        the seed its noise is drawn; all the same where None. allowed: ids that may be written, all where None. most:
        tokens of a sequence at most. Returns uint16 (B, tokens), or for sequences a list of ragged uint16 arrays
        without [SOS] and [EOS].
        ConfigError for unknown streams, ids outside a vocabulary, and another number of them than a sample has.
        """
        index, stream = self.stream(target)
        rows = self._rows(given, target, parts, keys)
        parts = [None] * len(rows) if parts is None else parts
        for part in filter(None, parts):
            check_tokens(stream, np.where(part.known, part.ids, 0))
        chosen = passes([name for name in given if name != target], how.guidance, how.weights)
        noise = Noise(how.seed, [""] * len(rows) if keys is None else keys, target)
        pick, head = Picker(how.top_k, how.top_p), Head(self.model, stream, writable(stream, allowed, parts))
        shown = _shown(rows)

        if stream.kind == "sequence":
            begin = [None] * len(rows) if prompts is None else prompts
            for prompt in begin:
                if prompt is not None:
                    check_tokens(stream, prompt)
            return decode_text(self.model, index, stream, shown, how, chosen, pick, head, noise, parts, begin, most)
        if prompts is not None:
            raise ConfigError(f"{target}: is no sequence, and has no beginning to prompt it with")
        return decode_grid(self.model, index, stream, shown, how, chosen, pick, head, noise, parts)

    @torch.inference_mode()
    def probabilities(self, given: Given, target: str, how: Decoding = LIKELIEST) -> np.ndarray:
        """Float32 (B, tokens, vocab): how likely each token is at each position of a grid or vector, given all of `given`
        and nothing of the target. Of `how`, guidance and weights count. ConfigError as of `predict`, and for a sequence.
        """
        index, stream = self.stream(target)
        if stream.kind == "sequence":
            raise ConfigError(f"{target}: is a sequence; its positions have no probabilities of their own")
        rows = self._rows(given, target, None, None)
        chosen = passes([name for name in given if name != target], how.guidance, how.weights)
        return grid_probabilities(self.model, index, stream, len(rows), _shown(rows), chosen)

    def complete(self, name: str, tokens: Ids, shown: Ids, how: Decoding = LIKELIEST) -> Ids:
        """Fill in one stream of fixed slots from some of its own tokens: tokens uint16 (B, T), shown: positions that
        count as known. Returns (B, T), the shown ones unchanged.
        """
        known = np.zeros(tokens.shape[1], bool)
        known[shown] = True
        return np.asarray(self.predict({}, name, how, parts=[Part(row, known) for row in tokens]))

    def _rows(
        self, given: Given, target: str, parts: Sequence[Part | None] | None, keys: Sequence[str] | None
    ) -> list[list[tuple[str, Shown]]]:
        """For each sample what it shows, by stream; the target itself is not among it."""
        sizes = {name: len(samples) for name, samples in given.items()}
        sizes |= {name: len(found) for name, found in (("parts", parts), ("keys", keys)) if found is not None}
        if not sizes:
            raise ConfigError("predict: nothing is given; name at least one stream to predict from, or keys of samples")
        if len(set(sizes.values())) > 1:
            raise ConfigError(f"predict: different numbers of samples are given: {sizes}")
        rows: list[list[tuple[str, Shown]]] = [[] for _ in range(next(iter(sizes.values())))]
        for name, samples in given.items():
            index, stream = self.stream(name)
            for row, ids in zip(rows, samples, strict=True):
                if ids is None:
                    continue
                if stream.values and not isinstance(ids, Part):
                    check_values(stream, ids)
                    places = np.arange(len(ids))
                    row.append((name, Shown(index, places, places, np.asarray(ids, np.float32))))
                    continue
                part = ids if isinstance(ids, Part) else Part(ids, np.ones(len(ids), bool))
                check_tokens(stream, np.where(part.known, part.ids, 0))
                if name != target:
                    row += [(name, shown) for shown in shown_of(index, stream, part)]
        return rows


def _shown(rows: Sequence[Sequence[tuple[str, Shown]]]) -> ShownOf:
    """What a pass of guidance shows of some samples, from what each has."""

    def shown(one: Pass, numbers: Sequence[int]) -> Rows:
        return [[s for name, s in rows[n] if name in one.shows] for n in numbers]

    return shown


def trained_targets(record: Mapping[str, Any], names: Sequence[str]) -> set[str] | None:
    """The streams a checkpoint's mixture asks for; None where its record has no training settings."""
    from trainer.train import TrainConfig, components  # they know the mixtures; prediction alone needs none of it

    if "batch" not in record.get("config", {}):
        return None
    config = TrainConfig.model_validate(record["config"])
    alphas = Mixture(components(config, list(names)), names).alpha_out.max(axis=0)
    return {name for name, alpha in zip(names, alphas, strict=True) if alpha > 0}


def shown_of(index: int, stream: Stream, part: Part) -> list[Shown]:
    """What the encoder sees of one stream of one sample."""
    if stream.kind == "sequence":
        return hint(index, stream, part) or [Shown(index, np.zeros(0, np.int64), np.zeros(0, np.int64))]
    places = np.flatnonzero(part.known)
    return [Shown(index, places, part.ids[places])]


def writable(stream: Stream, allowed: Ids | None, parts: Sequence[Part | None]) -> Ids | None:
    """The ids that may be written, the sentinels that part gaps among them; None for all. ConfigError for other ids."""
    if allowed is None:
        return None
    check_ids(stream, allowed)
    if stream.kind == "sequence" and any(has_gaps(stream, part) for part in parts):
        return np.concatenate([allowed, np.arange(SENTINEL, SENTINEL + SENTINELS)])
    return allowed
