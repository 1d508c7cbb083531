"""The contract of a tokenizer, and its file: one safetensors file whose metadata says how to rebuild it.

A tokenizer maps a batch of labels (already cut to the view) to token ids and back. Fitted ones learn from training
views first. A file holds tensors and one JSON string, never a pickle; the same weights give the same bytes, so the
sha256 of the file is the digest that recipes carry.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.errors import ConfigError, ManymodalError

if TYPE_CHECKING:
    from tokenize_shards.fit_state import FitState

FORMAT = 2  # 2: the linear decoder of vit_vq sees neighbours
METADATA_KEY = "manymodal_tokenizer"  # one key only: safetensors does not keep the order of several

# Where each kind lives; imported only when a file of that kind is opened, so that reading text tokens needs no torch.
KINDS: dict[str, str] = {
    "fourm": "tokenize_shards.fourm.tokenizer:FourM",
    "vit_vq": "tokenize_shards.vit_vq:ViTVQ",
    "mask_vq": "tokenize_shards.mask_vq:MaskVQ",
    "mlp_pq": "tokenize_shards.mlp_pq:MLPPQ",
    "sequence": "tokenize_shards.sequence:SequenceTokenizer",
    "values": "tokenize_shards.values:Values",
    "patches": "tokenize_shards.values:Patches",
}

# Figures of a fit, and how a page names them.
UNITS = {
    "psnr_db": "dB PSNR", "abs_rel": "AbsRel", "angle_deg": "degrees", "miou": "mIoU", "mask_iou": "mask IoU",
    "f1": "edge F1", "cosine": "cosine", "mpjpe_mm": "mm a joint", "mean_tokens": "tokens a view",
    "plain_psnr_db": "dB PSNR without diffusion", "plain_abs_rel": "AbsRel without diffusion",
    "plain_angle_deg": "degrees without diffusion", "plain_f1": "edge F1 without diffusion",
}  # fmt: skip

Progress = Callable[[int, float, float], None]  # step, loss, seconds left


class FitError(ManymodalError):
    """A tokenizer cannot be fitted from the data it was given."""


class TokenizerFileError(ConfigError):
    """A tokenizer file is not one, is of an unknown kind, or lacks what its kind needs."""


@dataclass(frozen=True)
class FitReport:
    """What a fit did and how good the tokenizer is on views it has not seen.

    losses: (step, training loss), a few hundred points at most. metrics: name -> figure on held-out views, in the unit
    the name ends with (psnr_db, abs_rel, angle_deg, miou, mask_iou, f1, cosine, mpjpe_mm); empty where nothing was held
    out. codebook_used: share of the codes that occur in the evaluated views, 0..1; perplexity: exp of the entropy of
    their use, 1..vocab (means over heads).
    """

    kind: str
    steps: int
    seconds: float
    losses: list[tuple[int, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    codebook_used: float = 1.0
    perplexity: float = 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Tokenizer(ABC):
    """Maps labels of one modality to tokens and back.

    kind: the name in KINDS. vocab: ids are 0..vocab-1. tokens: how many a label takes; None where it varies.
    """

    kind: ClassVar[str]
    vocab: int
    tokens: int | None

    @abstractmethod
    def fit(
        self,
        train: Any,
        heldout: Any,
        *,
        seconds: float | None = None,
        steps: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        state: FitState | None = None,
    ) -> FitReport:
        """Learn from `train`, measure on `heldout` (same encoding, may be empty). Exactly one of seconds (wall clock,
        start values included) and steps (reproducible) is given. Networks take a `source.Source` for `train` as well, and
        go on from the snapshots in `state`. FitError where there is nothing to learn from.
        """

    @abstractmethod
    def encode(self, batch: Any) -> Any:
        """Labels -> uint16 (n, tokens), or a list of ragged uint16 arrays. A label's tokens do not depend on its batch."""

    @abstractmethod
    def decode(self, tokens: Any) -> Any:
        """Tokens -> labels in the modality's own encoding. Raises ValueError for ids outside the vocabulary."""

    def codes(self) -> np.ndarray | None:
        """(vocab, k) float32, a vector for each token, near where tokens decode to similar things. None where there are
        no such vectors, or a token means another thing in every place.
        """
        return None

    def expected(self, probabilities: np.ndarray) -> np.ndarray | None:
        """The label that tokens of these probabilities (n, tokens, vocab) stand for on average. None where tokens have no
        average, as those of text.
        """
        return None

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What `restore` needs beside the tensors; plain JSON."""

    @abstractmethod
    def tensors(self) -> Mapping[str, np.ndarray]:
        """The weights by name."""

    @classmethod
    @abstractmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Tokenizer:
        """The tokenizer that `config` and `tensors` describe."""

    def save(self, path: Path) -> None:
        """Write the file atomically. The same weights and config give the same bytes."""
        from safetensors.numpy import save

        head = {"format": FORMAT, "kind": self.kind, "config": self.config()}
        text = json.dumps(head, sort_keys=True, separators=(",", ":"))
        arrays = {name: np.ascontiguousarray(array) for name, array in self.tensors().items()}
        data = save(arrays, metadata={METADATA_KEY: text})
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """The tokenizer in the file; called on a subclass, it must be of that kind."""
        tokenizer = load_tokenizer(path)
        if not isinstance(tokenizer, cls):
            raise TokenizerFileError(f"{path} holds a tokenizer of kind {tokenizer.kind!r}, not {cls.kind!r}")
        return tokenizer


def tokenizer_class(kind: str) -> type[Tokenizer]:
    """The class of that kind. Raises TokenizerFileError for an unknown one."""
    if kind not in KINDS:
        raise TokenizerFileError(f"unknown kind of tokenizer {kind!r}; known: {', '.join(sorted(KINDS))}")
    module, name = KINDS[kind].split(":")
    return getattr(importlib.import_module(module), name)


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(head, tensors) of a tokenizer file; head has "format", "kind" and "config"."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise TokenizerFileError(f"{path} cannot be read as a tokenizer: {error}; fit the tokenizer again") from error
    if text is None:
        raise TokenizerFileError(f"{path} is a safetensors file, but no tokenizer: it has no {METADATA_KEY!r} metadata")
    try:
        head = json.loads(text)
    except ValueError as error:
        raise TokenizerFileError(f"{path}: its metadata is not JSON ({error}); fit the tokenizer again") from error
    if not isinstance(head, dict) or not {"format", "kind", "config"} <= head.keys():
        raise TokenizerFileError(f"{path}: its metadata is not that of a tokenizer; fit the tokenizer again")
    if head["format"] != FORMAT:
        raise TokenizerFileError(f"{path} has tokenizer format {head['format']!r}; this version reads {FORMAT}")
    return head, arrays


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in the file, of whatever kind it says."""
    head, arrays = read_file(path)
    try:
        return tokenizer_class(head["kind"]).restore(head["config"], arrays)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TokenizerFileError(f"{path}: kind {head['kind']!r} does not fit its contents: {error}") from error
