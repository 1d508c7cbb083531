"""Palettes as labels: a label has palettes of 1 to 7 colours, a sequence says one. The model is asked for each size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from labelers.color_palette import SIZES
from labelers.core.modality import Label, Null
from tokenize_shards.grammar import decode_palette
from tokenize_shards.wordpiece import coordinate
from trainer.generate.decoding import Decoding, Part
from trainer.predict import Predictor

Given = Mapping[str, Sequence[np.ndarray | Part | None]]
LARGEST = max(SIZES)
COLOURS = np.array([coordinate(0, value) for value in range(256)])


def palette_of_size(
    predictor: Predictor, target: str, given: Given, how: Decoding, keys: Sequence[str], size: int
) -> list[np.ndarray]:
    """uint16 tokens of one palette a sample: the prompt says how many colours, and only colours may follow."""
    prompt = np.array([coordinate(1, size)], np.uint16)
    return list(
        predictor.predict(
            given, target, how, prompts=[prompt] * len(keys), keys=[f"{key}:{size}" for key in keys], allowed=COLOURS,
            most=1 + 3 * size,
        )
    )  # fmt: skip


def whole_palettes(
    predictor: Predictor, target: str, given: Given, how: Decoding, keys: Sequence[str], largest: Sequence[np.ndarray]
) -> list[Label | Null]:
    """Palettes of all seven sizes a sample. largest: tokens of the last, which the chain has made."""
    found: list[list[np.ndarray]] = [[] for _ in keys]
    for size in SIZES:
        rows = largest if size == LARGEST else palette_of_size(predictor, target, given, how, keys, size)
        for palettes, ids in zip(found, rows, strict=True):
            made = decode_palette([int(t) for t in ids])
            assert not isinstance(made, Null), "whole colours were written"
            palettes.append(made[0])
    return list(found)
