"""Several targets one after another: each finished modality conditions the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from labelers.core.modality import Label
from pipeline.errors import ConfigError
from trainer.generate.decoding import Decoding, Part
from trainer.generate.dense import dense_instances
from trainer.generate.palettes import LARGEST, palette_of_size
from trainer.lexicon import Lexicon
from trainer.predict import Predictor

# What a picture looks like comes before what is said of it; embeddings and feature maps first, they say most.
ORDER = (
    "clip_global", "clip", "dinov2_global", "dinov2", "imagebind_global", "imagebind", "depth", "normal", "semseg",
    "canny_edge", "sam_edge", "rgb", "caption", "minilm_caption", "det", "human_poses", "keypoints", "sam_instance",
    "color_palette", "metadata",
)  # fmt: skip
Tokens = np.ndarray
PARTS = Mapping[str, Sequence[Part | None]]


def in_order(targets: Sequence[str]) -> list[str]:
    """Targets in the default order of a chain; larger pictures after the small ones they are made from."""

    def place(name: str) -> tuple[int, int]:
        base, _, size = name.removeprefix("tok_").partition("@")
        return (ORDER.index(base) if base in ORDER else len(ORDER), int(size) if size.isdigit() else 0)

    return sorted(targets, key=place)


@dataclass(frozen=True)
class Request:
    """What is to be generated. targets: in the order they are made. how: settings of each; chain: whether each finished
    one conditions the next. dense: points a side at which sam_instance is asked, 0 for one sequence as it comes.
    """

    targets: tuple[str, ...]
    how: Mapping[str, Decoding]
    chain: bool = True
    dense: int = 0


@dataclass
class Made:
    """Tokens by target, one entry a sample; None where it could not be made, with the reason."""

    tokens: dict[str, list[Tokens | None]] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)


def run_chain(
    predictor: Predictor, lexicon: Lexicon, request: Request, given: Mapping[str, Sequence[Tokens | Part | None]],
    parts: PARTS, keys: Sequence[str],
) -> Made:  # fmt: skip
    """All targets for a batch of samples. given: conditions by stream; parts: what is known of targets; keys: a name of
    each sample and variant. A sample that shows nothing at all of what was asked for is not made up: None, with the
    reason.
    """
    made = Made()
    seen: dict[str, Sequence[Tokens | Part | None]] = dict(given)
    for target in request.targets:
        conditions = {name: tokens for name, tokens in seen.items() if name != target}
        known = parts.get(target)
        blind = _blind(conditions, known, len(keys))
        rows = [i for i, none in enumerate(blind) if not none]
        found: list[Tokens | None] = [None] * len(keys)
        if rows:
            chosen = {name: [tokens[i] for i in rows] for name, tokens in conditions.items()}
            own = None if known is None else [known[i] for i in rows]
            out = _one(predictor, lexicon, request, target, chosen, own, [keys[i] for i in rows])
            for i, tokens in zip(rows, out, strict=True):
                found[i] = np.asarray(tokens, np.uint16)
        made.tokens[target] = found
        made.reasons[target] = [
            "" if not none else "the sample has none of what it is generated from" for none in blind
        ]
        if request.chain:
            seen[target] = found
    return made


def run_expected(
    predictor: Predictor, lexicon: Lexicon, request: Request, target: str,
    given: Mapping[str, Sequence[Tokens | Part | None]], parts: PARTS, keys: Sequence[str],
) -> list[Label | None]:  # fmt: skip
    """One target of a batch as the mean over all the model could draw, instead of one draw; what comes before it in the
    chain is drawn. For targets whose tokens have an average, of which no part is given.
    """
    before = replace(request, targets=request.targets[: request.targets.index(target)])
    made = run_chain(predictor, lexicon, before, given, parts, keys)
    seen = {**given, **(made.tokens if request.chain else {})}
    conditions = {name: tokens for name, tokens in seen.items() if name != target}
    blind = _blind(conditions, None, len(keys))
    rows = [i for i, none in enumerate(blind) if not none]
    found: list[Label | None] = [None] * len(keys)
    if rows:
        chosen = {name: [tokens[i] for i in rows] for name, tokens in conditions.items()}
        labels = lexicon.expected(target, predictor.probabilities(chosen, target, request.how[target]))
        assert labels is not None, f"{target}: its tokens have no average"
        for i, label in zip(rows, labels, strict=True):
            found[i] = label
    return found


def _blind(conditions: Mapping[str, Sequence[object]], known: Sequence[Part | None] | None, count: int) -> list[bool]:
    """Samples that lack every condition there is to be; where nothing is asked to condition on, none does."""
    if not conditions:
        return [False] * count
    return [
        all(tokens[i] is None for tokens in conditions.values()) and (known is None or known[i] is None)
        for i in range(count)
    ]


def _one(
    predictor: Predictor, lexicon: Lexicon, request: Request, target: str,
    given: Mapping[str, Sequence[Tokens | Part | None]], parts: Sequence[Part | None] | None, keys: Sequence[str],
) -> Sequence[Tokens]:  # fmt: skip
    how = request.how[target]
    if not given and how.weights:
        raise ConfigError(f"{target}: guidance weights are given, but nothing to condition on")
    if request.dense and lexicon.spec(target).content == "sam_instance":
        return dense_instances(predictor, lexicon, target, given, how, keys, request.dense)
    if lexicon.spec(target).content == "color_palette" and not any(parts or ()):
        # The largest says most to what comes next.
        return palette_of_size(predictor, target, given, how, keys, LARGEST)
    allowed = lexicon.allowed(target)
    return list(predictor.predict(given, target, how, parts=parts, keys=keys, allowed=allowed))
