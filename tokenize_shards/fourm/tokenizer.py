"""A published 4M tokenizer as one of ours: the same file format, encode and decode, nothing to fit.

A checkpoint folder holds config.json and model.safetensors. What the values mean (pixels in [-1, 1], features as they
are) is the content's business, as for the tokenizers fitted here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import ConfigError
from tokenize_shards.contents import make_content
from tokenize_shards.fitting import pick_device
from tokenize_shards.fourm.networks import CosineCodebook, Network
from tokenize_shards.tokenizer import FitError, FitReport, Tokenizer

CHUNK = 64  # labels at once on a GPU; one at a time on a CPU, so that a label's tokens do not depend on its batch


class FourM(Tokenizer):
    """Tokens of one modality by a published network: uint16 (n, tokens), rows first.

    published: the checkpoint's config.json. content: "pixels", "edges", "features", ... or "vector" (n, channels).
    """

    kind = "fourm"

    def __init__(self, modality: str, content: str, published: Mapping[str, Any], network: Network) -> None:
        self.modality, self.content_name, self.published = modality, content, dict(published)
        self.content = None if content == "vector" else make_content(content, network.channels, {})
        if self.content is not None and self.content.channels != network.channels:
            raise ValueError(f"{modality}: {content} has {self.content.channels} channel(s), not {network.channels}")
        self.device = pick_device()
        self.network = network.to(self.device).eval()
        self.vocab, self.tokens = network.vocab, network.length

    @classmethod
    def from_folder(cls, folder: Path, modality: str, content: str) -> FourM:
        """From a published checkpoint. ConfigError, naming the folder, for anything that is not one we know."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            published = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            network = Network(published)
            network.load(load_file(folder / "model.safetensors"))
            return cls(modality, content, published, network)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ConfigError(f"{folder}: is no 4M tokenizer that can be used for {modality}: {error}") from error

    def fit(self, train: Any, heldout: Any, **budget: Any) -> FitReport:
        raise FitError(f"{self.modality}: this tokenizer is a published one and is not fitted here")

    def codes(self) -> np.ndarray | None:
        book = self.network.codebook
        return np.asarray(book.embed.float().cpu().numpy()) if isinstance(book, CosineCodebook) else None

    @torch.inference_mode()
    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Labels of the content's encoding, or float32 (n, channels), -> uint16 (n, tokens)."""
        if self.content is not None:
            self.content.check(batch)
        step = CHUNK if self.device.type == "cuda" else 1
        found = [self.network.tokens(self._tensor(batch[i : i + step])) for i in range(0, len(batch), step)]
        ids = torch.cat(found) if found else torch.zeros(0, self.network.length)
        return ids.cpu().numpy().astype(np.uint16)

    def _tensor(self, batch: np.ndarray) -> torch.Tensor:
        if self.content is not None:
            return self.content.to_tensor(batch).to(self.device)
        return torch.from_numpy(np.ascontiguousarray(batch, np.float32)).to(self.device)[:, :, None, None]

    @torch.inference_mode()
    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Integers (n, tokens) -> labels. ValueError outside the vocabulary, or without a decoder that we know."""
        if tokens.ndim != 2 or tokens.shape[1] != self.tokens:
            raise ValueError(f"{self.modality}: expected tokens (n, {self.tokens}), got {tokens.shape}")
        wrong = tokens[(tokens < 0) | (tokens >= self.vocab)]
        if wrong.size:
            raise ValueError(f"{self.modality}: token {int(wrong[0])} is outside the vocabulary of {self.vocab}")
        ids = torch.from_numpy(tokens.astype(np.int64)).to(self.device)
        parts = [self.network.pixels(self.network.latents(part)) for part in ids.split(CHUNK)]
        if self.content is None:
            flat = torch.cat(parts)[:, :, 0, 0] if parts else torch.zeros(0, self.network.channels)
            return np.asarray(flat.cpu().numpy())
        return self.content.from_tensor(torch.cat(parts))

    def config(self) -> dict[str, Any]:
        return {"modality": self.modality, "content": self.content_name, "published": self.published}

    def tensors(self) -> Mapping[str, np.ndarray]:
        return {name: value.cpu().numpy() for name, value in self.network.state_dict().items()}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> FourM:
        network = Network(config["published"])
        network.load({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
        return cls(config["modality"], config["content"], config["published"], network)
