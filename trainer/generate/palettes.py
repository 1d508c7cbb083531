"""Palettes as labels: a label has palettes of 1 to 7 colours, a sequence says one. The model is asked for each size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from labelers.core.modality import Label, Null
from tokenize_shards.grammar import decode_palette
from tokenize_shards.wordpiece import coordinate
from trainer.generate.decoding import Decoding, Part
from trainer.predict import Predictor

SIZES = range(1, 8)


def whole_palettes(
    predictor: Predictor, target: str, given: Mapping[str, Sequence[np.ndarray | Part | None]], how: Decoding,
    keys: Sequence[str],
) -> list[Label | Null]:  # fmt: skip
    """Seven palettes a sample: the prompt says how many colours, and only colours may follow."""
    colours = np.array([coordinate(0, value) for value in range(256)])
    found: list[list[np.ndarray]] = [[] for _ in keys]
    for size in SIZES:
        prompt = np.array([coordinate(1, size)], np.uint16)
        rows = predictor.predict(
            given, target, how, prompts=[prompt] * len(keys), keys=[f"{key}:{size}" for key in keys], allowed=colours,
            most=1 + 3 * size,
        )  # fmt: skip
        for palettes, ids in zip(found, rows, strict=True):
            made = decode_palette([int(t) for t in ids])
            assert not isinstance(made, Null), "whole colours were written"
            palettes.append(made[0])
    return list(found)
