"""The tokenizer of sequences: a grammar, the text vocabulary all sequences share, and for some the codec of what no
grammar can say: body poses, and masks of instances.

Everything it needs is in its one file: the word pieces, and the codec's weights under names that begin with `codec.`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.modality import Label, Null
from tokenize_shards import grammar, grammar_boxes, grammar_masks, grammar_people
from tokenize_shards.table import GRAMMARS
from tokenize_shards.tokenizer import FitReport, Progress, Tokenizer, tokenizer_class
from tokenize_shards.views import View
from tokenize_shards.wordpiece import WordPiece

SIDE = 224.0  # pixels of the picture that decoded boxes, masks and landmarks are in
CODECS = {"human_poses": "body poses", "sam_instance": "masks"}  # grammars that need one, and of what
Input = tuple[Label, View, str, int]  # label, view, id, view number


class SequenceTokenizer(Tokenizer):
    """Sequences of one modality: ragged uint16 ids without [SOS] and [EOS], at most `limit` of them.

    grammar: one of GRAMMARS; that of the modality's own name where empty. codec: body poses (MLPPQ) or masks (MaskVQ).
    """

    kind = "sequence"
    tokens = None

    def __init__(
        self, modality: str, limit: int, words: WordPiece, codec: Tokenizer | None = None, seed: int = 0,
        grammar: str = "",
    ) -> None:  # fmt: skip
        self.grammar = grammar or modality
        if self.grammar not in GRAMMARS:
            raise ValueError(f"{modality}: has no grammar; known: {', '.join(GRAMMARS)}")
        if self.grammar in CODECS and codec is None:
            raise ValueError(f"{modality}: needs a fitted codec of {CODECS[self.grammar]}")
        self.modality, self.limit, self.words, self.codec, self.seed = modality, limit, words, codec, seed
        self.vocab = words.vocab

    def fit(
        self, train: Any, heldout: Any, *, seconds: float | None = None, steps: int | None = None, seed: int = 0,
        progress: Progress | None = None, state: Any = None,
    ) -> FitReport:  # fmt: skip
        """Nothing is learned here: the vocabulary and the codec are fitted before. Reports the use of the vocabulary."""
        tokens = self.encode([*train, *heldout])
        ids = np.concatenate(tokens) if tokens else np.zeros(0, np.uint16)
        lengths = [len(t) for t in tokens]
        metrics = {"mean_tokens": float(np.mean(lengths))} if lengths else {}
        return FitReport(self.kind, 0, 0.0, metrics=metrics, codebook_used=len(np.unique(ids)) / self.vocab)

    def encode(self, batch: Sequence[Input]) -> list[np.ndarray]:
        """Codecs see all the people or masks of the batch at once."""
        if self.grammar == "human_poses":
            found = self._people(batch)
        elif self.grammar == "sam_instance":
            found = self._instances(batch)
        else:
            found = [self._encode(*one) for one in batch]
        return [np.array(ids[: self.limit], np.uint16) for ids in found]

    def _encode(self, label: Label, view: View, sample: str, number: int) -> list[int]:
        if self.grammar == "caption":
            return self.words.encode(label, self.limit)
        if self.grammar == "color_palette":
            return grammar.encode_palette(label, (sample, self.seed, number))
        if self.grammar == "metadata":
            return grammar.encode_metadata(label)
        return grammar_boxes.encode_boxes(label, view, self.limit)

    def _people(self, batch: Sequence[Input]) -> list[list[int]]:
        cut = [grammar_people.fitting(label, view, self.limit) for label, view, _, _ in batch]
        poses = [grammar_people.pose_of(person) for people in cut for person in people]
        codes = self._codes(poses, [len(people) for people in cut])
        return [
            grammar_people.write_people(people, rows, self.words, (sample, self.seed, number))
            for people, rows, (_, _, sample, number) in zip(cut, codes, batch, strict=True)
        ]

    def _instances(self, batch: Sequence[Input]) -> list[list[int]]:
        side, plans, cropped = self._mask_side(), [], []
        for label, view, sample, number in batch:  # one view's masks at a time are unpacked
            cut = grammar_masks.cut_instances(label, view)
            plan = grammar_masks.choose(cut, self.limit, (sample, self.seed, number))
            plans.append(plan)
            cropped += [cut[i].cropped(side) for i in plan.boxes]
        codes = self._codes(cropped, [len(plan.boxes) for plan in plans])
        return [grammar_masks.write_instances(plan, rows, self.words) for plan, rows in zip(plans, codes, strict=True)]

    def _mask_side(self) -> int:
        assert self.codec is not None
        return int(self.codec.config()["side"])

    def _codes(self, items: Sequence[np.ndarray], counts: Sequence[int]) -> list[NDArray[np.integer[Any]]]:
        """Codes of a flat list, in parts of `counts`."""
        assert self.codec is not None and self.codec.tokens is not None
        found = self.codec.encode(np.stack(items)) if items else np.zeros((0, self.codec.tokens), np.uint16)
        return list(np.split(found, np.cumsum(counts)[:-1])) if counts else []

    def decode(self, tokens: Sequence[Sequence[int]] | Sequence[np.ndarray]) -> list[Label | Null]:
        """Labels as the modality has them, in pixels of a picture of SIDE x SIDE; what is not valid is left out.

        A palette comes back as a list of the one palette that was written; missing metadata fields carry a reason.
        """
        return [self._decode([int(t) for t in ids]) for ids in tokens]

    def _decode(self, ids: list[int]) -> Label | Null:
        if self.grammar == "caption":
            return self.words.decode(ids) or Null("no text in the tokens")
        if self.grammar == "color_palette":
            return grammar.decode_palette(ids)
        if self.grammar == "metadata":
            return grammar.decode_metadata(ids)
        if self.grammar == "det":
            return grammar_boxes.decode_boxes(ids, SIDE)
        assert self.codec is not None
        if self.grammar == "sam_instance":
            return grammar_masks.decode_instances(ids, int(SIDE), self.words, self.codec.decode)
        return grammar_people.decode_people(ids, SIDE, self.words, self.codec.decode)

    def config(self) -> dict[str, Any]:
        codec = {"kind": self.codec.kind, "config": self.codec.config()} if self.codec else None
        return {
            "modality": self.modality, "grammar": self.grammar, "limit": self.limit, "seed": self.seed,
            "pieces": list(self.words.pieces), "codec": codec,
        }  # fmt: skip

    def tensors(self) -> Mapping[str, np.ndarray]:
        return {f"codec.{name}": value for name, value in self.codec.tensors().items()} if self.codec else {}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> SequenceTokenizer:
        codec, inner = config["codec"], {name.removeprefix("codec."): value for name, value in tensors.items()}
        made = tokenizer_class(codec["kind"]).restore(codec["config"], inner) if codec else None
        words = WordPiece(config["pieces"])
        return cls(config["modality"], config["limit"], words, made, config["seed"], config["grammar"])


def codec_items(name: str, batch: Sequence[Input], side: int = 64) -> np.ndarray:
    """What the codec of a grammar learns from: the pose of every person in every view, flips applied, float32 (n, 99) or
    (n, 207); or every mask, cropped to its box, bool (n, side, side).
    """
    if name == "human_poses":
        bodies = [
            grammar_people.pose_of(p) for people, view, _, _ in batch for p in grammar_people.cut_people(people, view)
        ]
        return np.stack(bodies) if bodies else np.zeros((0, 99), np.float32)
    masks = [one.cropped(side) for label, view, _, _ in batch for one in grammar_masks.cut_instances(label, view)]
    return np.stack(masks) if masks else np.zeros((0, side, side), np.bool_)
