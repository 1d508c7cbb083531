"""Instances at every point of a grid: the model is asked point by point, and what it says is merged.

One sequence has room for a dozen instances. A prompt `point y x` makes the model say which masks hold that point; asked
at n x n points of the picture it says all it sees, many of them several times. Of masks that overlap by more than
MERGE the one wins that was named at more points.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tokenize_shards.grammar import bin_of, read_box, read_codes
from tokenize_shards.grammar_masks import MASK_CODES, POLYGON
from tokenize_shards.sequence import SequenceTokenizer
from tokenize_shards.wordpiece import coordinate
from trainer.generate.decoding import Decoding, Part
from trainer.lexicon import Lexicon
from trainer.predict import Predictor

MERGE = 0.7  # IoU of masks from which they are one
QUERIES = 64  # prompts a batch
ANSWER = 8  # instances an answer may name at most
SIDE = 64  # pixels a side at which masks are compared


def points(side: int) -> list[tuple[int, int]]:
    """Coordinate values (y, x) of the centres of side x side cells."""
    centres = [bin_of((i + 0.5) / side) for i in range(side)]
    return [(y, x) for y in centres for x in centres]


def dense_instances(
    predictor: Predictor, lexicon: Lexicon, target: str, given: Mapping[str, Sequence[np.ndarray | Part | None]],
    how: Decoding, keys: Sequence[str], side: int,
) -> list[np.ndarray]:  # fmt: skip
    """One sequence a sample that names each instance once. It may be longer than the stream's, and is only decoded."""
    tokenizer = lexicon.tokenizer(target)
    assert isinstance(tokenizer, SequenceTokenizer), target
    words, allowed = tokenizer.words, lexicon.allowed(target)
    _, stream = predictor.stream(target)
    short = min(stream.length, 3 + POLYGON * ANSWER)
    asked = points(side)
    found: list[np.ndarray] = []
    for i, key in enumerate(keys):
        answers: list[list[int]] = []
        for at in range(0, len(asked), QUERIES):
            part = asked[at : at + QUERIES]
            prompts = [
                np.array([words.keyword("point"), coordinate(0, y), coordinate(1, x)], np.uint16) for y, x in part
            ]
            one = {name: [tokens[i]] * len(part) for name, tokens in given.items()}
            names = [f"{key}:{y}:{x}" for y, x in part]
            out = predictor.predict(one, target, how, prompts=prompts, keys=names, allowed=allowed, most=short)
            answers += [first_answer(row.tolist(), words.keyword("point")) for row in out]
        found.append(merge(tokenizer, answers))
    return found


def first_answer(ids: Sequence[int], point: int) -> list[int]:
    """What was said of the point that was asked for: up to the next point the model goes on with."""
    after = [i for i, token in enumerate(ids) if token == point]
    return list(ids[: after[1]] if len(after) > 1 else ids)


def merge(tokenizer: SequenceTokenizer, answers: Sequence[Sequence[int]]) -> np.ndarray:
    """All instances of some answers, each once, as one sequence: those named most often first."""
    polygon, none = tokenizer.words.keyword("polygon"), tokenizer.words.keyword("none")
    votes: Counter[tuple[int, ...]] = Counter()
    where: dict[tuple[int, ...], Sequence[int]] = {}
    for ids in answers:
        for at, token in enumerate(ids):
            own = tuple(ids[at + 1 : at + POLYGON])
            if token == polygon and read_box(own[:4]) is not None and read_codes(own[4:], MASK_CODES) is not None:
                votes[own] += 1
                where.setdefault(own, ids[:3])
    kept: list[tuple[int, ...]] = []
    masks: list[np.ndarray] = []
    for own, _ in votes.most_common():
        mask = _mask(tokenizer, own)
        if mask is not None and all(_iou(mask, other) <= MERGE for other in masks):
            kept.append(own)
            masks.append(mask)
    if not kept:
        return np.array([*(answers[0][:3] if answers else ()), none], np.uint16)
    return np.array([t for own in kept for t in (*where[own], polygon, *own)], np.uint16)


def _mask(tokenizer: SequenceTokenizer, own: Sequence[int]) -> np.ndarray | None:
    """bool (SIDE, SIDE) of the picture; None where nothing is left of it."""
    from tokenize_shards.mask_vq import paste_mask

    box, codes = read_box(own[:4]), read_codes(own[4:], MASK_CODES)
    assert box is not None and codes is not None and tokenizer.codec is not None
    mask = paste_mask(tokenizer.codec.decode(codes[None])[0], box * np.float32(SIDE), SIDE, SIDE)
    return mask if mask.any() else None


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))
