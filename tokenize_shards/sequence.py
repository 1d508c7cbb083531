"""The tokenizer of sequences: a grammar, the text vocabulary all sequences share, and for poses the codec of body
poses.

Everything it needs is in its one file: the word pieces, and the pose codec's weights under names that begin with
`pose.`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labelers.core.modality import Label, Null
from tokenize_shards import grammar
from tokenize_shards.mlp_pq import MLPPQ
from tokenize_shards.tokenizer import FitReport, Progress, Tokenizer
from tokenize_shards.views import View
from tokenize_shards.wordpiece import WordPiece

SIDE = 224.0  # pixels of the picture that decoded boxes and landmarks are in
GRAMMARS = ("caption", "color_palette", "metadata", "human_poses")
Input = tuple[Label, View, str, int]  # label, view, id, view number


class SequenceTokenizer(Tokenizer):
    """Sequences of one modality (one of GRAMMARS): ragged uint16 ids without [SOS] and [EOS], at most `limit` of them."""

    kind = "sequence"
    tokens = None

    def __init__(self, modality: str, limit: int, words: WordPiece, pose: MLPPQ | None = None, seed: int = 0) -> None:
        if modality not in GRAMMARS:
            raise ValueError(f"{modality}: has no grammar; known: {', '.join(GRAMMARS)}")
        if modality == "human_poses" and pose is None:
            raise ValueError("human_poses: needs a fitted codec of body poses")
        self.modality, self.limit, self.words, self.pose, self.seed = modality, limit, words, pose, seed
        self.vocab = words.vocab

    def fit(
        self, train: Any, heldout: Any, *, seconds: float | None = None, steps: int | None = None, seed: int = 0,
        progress: Progress | None = None,
    ) -> FitReport:  # fmt: skip
        """Nothing is learned here: the vocabulary and the pose codec are fitted before. Reports the use of the
        vocabulary.
        """
        tokens = self.encode([*train, *heldout])
        ids = np.concatenate(tokens) if tokens else np.zeros(0, np.uint16)
        lengths = [len(t) for t in tokens]
        metrics = {"mean_tokens": float(np.mean(lengths))} if lengths else {}
        return FitReport(self.kind, 0, 0.0, metrics=metrics, codebook_used=len(np.unique(ids)) / self.vocab)

    def encode(self, batch: Sequence[Input]) -> list[np.ndarray]:
        return [np.array(self._encode(*one)[: self.limit], np.uint16) for one in batch]

    def _encode(self, label: Label, view: View, sample: str, number: int) -> list[int]:
        if self.modality == "caption":
            return self.words.encode(label, self.limit)
        if self.modality == "color_palette":
            return grammar.encode_palette(label, (sample, self.seed, number))
        if self.modality == "metadata":
            return grammar.encode_metadata(label)
        assert self.pose is not None
        return grammar.encode_people(label, view, self.limit, self.words, self.pose.encode)

    def decode(self, tokens: Sequence[Sequence[int]] | Sequence[np.ndarray]) -> list[Label | Null]:
        """Labels as the modality has them, in pixels of a picture of SIDE x SIDE; what is not valid is left out.

        A palette comes back as a list of the one palette that was written; missing metadata fields carry a reason.
        """
        return [self._decode([int(t) for t in ids]) for ids in tokens]

    def _decode(self, ids: list[int]) -> Label | Null:
        if self.modality == "caption":
            return self.words.decode(ids) or Null("no text in the tokens")
        if self.modality == "color_palette":
            return grammar.decode_palette(ids)
        if self.modality == "metadata":
            return grammar.decode_metadata(ids)
        assert self.pose is not None
        return grammar.decode_people(ids, SIDE, self.words, self.pose.decode)

    def config(self) -> dict[str, Any]:
        return {
            "modality": self.modality, "limit": self.limit, "seed": self.seed, "pieces": list(self.words.pieces),
            "pose": self.pose.config() if self.pose else None,
        }  # fmt: skip

    def tensors(self) -> Mapping[str, np.ndarray]:
        return {f"pose.{name}": value for name, value in self.pose.tensors().items()} if self.pose else {}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> SequenceTokenizer:
        inner = {name.removeprefix("pose."): value for name, value in tensors.items()}
        pose = MLPPQ.restore(config["pose"], inner) if config["pose"] else None
        return cls(config["modality"], config["limit"], WordPiece(config["pieces"]), pose, config["seed"])
