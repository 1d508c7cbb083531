"""ViT-VQ: pictures, maps and feature maps to one token a patch, and back (network: vit_vq_network.py).

Given up: perceptual and adversarial losses, diffusion decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenize_shards.codebook import FSQ_LEVELS
from tokenize_shards.content import make_content
from tokenize_shards.fitting import Best, Budget, Schedule, batches, optimise, pick_device, usage
from tokenize_shards.patches import patchify
from tokenize_shards.tokenizer import FitError, FitReport, Progress, Tokenizer
from tokenize_shards.vit_vq_network import Network, ViTVQConfig

_START_ROWS = 65536  # patches for k-means at most
_WATCHED = 24  # views on which the best state is chosen
_EVALUATED = 256  # views whose tokens are counted for the codebook's use


class ViTVQ(Tokenizer):
    """Tokens of one image-like modality: uint16 (n, side * side), rows first. See ViTVQConfig for the encodings."""

    kind = "vit_vq"

    def __init__(self, config: ViTVQConfig, settings: dict[str, float] | None = None) -> None:
        self.spec = config
        self.content = make_content(config.content, config.channels, settings or {})
        if config.content != "classes" and self.content.channels != config.channels:
            raise ValueError(
                f"{config.modality}: {config.content} has {self.content.channels} channel(s), not {config.channels}"
            )
        self.tokens = (config.resolution // config.patch) ** 2
        self.vocab = config.vocab if config.codebook == "cosine" else int(np.prod(FSQ_LEVELS[config.vocab]))
        self.network: Network | None = None
        self.device = pick_device()

    # -- fitting

    def fit(
        self, train: np.ndarray, heldout: np.ndarray, *, seconds: float | None = None, steps: int | None = None,
        seed: int = 0, progress: Progress | None = None,
    ) -> FitReport:  # fmt: skip
        budget = Budget(seconds, steps)
        if not len(train):
            raise FitError(
                f"{self.spec.modality}: no training view has this modality, so its tokenizer has nothing to learn from; "
                "label it first, lower the held-out share, or leave it out of the tokens"
            )
        self._check(train)
        self.content.learn(train)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(self.spec, self.content.channels)
        self.network = network.to(self.device)
        self._start(train, seed)
        # A short fit on few photos can end worse than its start values; the best state seen is kept.
        watched = self.content.to_tensor(train[:: max(1, len(train) // _WATCHED)][:_WATCHED]).to(self.device)
        done, losses = optimise(
            network, self._views(train, seed), self._loss, budget, schedule=Schedule(lr=self.spec.lr),
            what=self.spec.modality, progress=progress, best=Best(network, lambda: self._watch(watched), every=40),
        )  # fmt: skip
        fitting = budget.spent()
        some = train[:: max(1, len(train) // _EVALUATED)][:_EVALUATED]
        seen = self.encode(some)
        self.content.calibrate(some, self._outputs(seen).cpu().numpy())
        metrics: dict[str, float] = {}
        if len(heldout):
            unseen = self.encode(heldout)
            metrics = self.content.measure(heldout, self.decode(unseen))
            seen = np.concatenate([seen, unseen])
        used, perplexity = usage(seen.reshape(-1, 1), self.vocab)
        return FitReport(self.kind, done, fitting, losses, metrics, used, perplexity)

    def _start(self, train: np.ndarray, seed: int) -> None:
        rng = np.random.default_rng(seed)
        assert self.network is not None and self.tokens is not None
        views = self._views(train, seed)
        wanted = min(_START_ROWS, max(8 * self.spec.vocab, 8192))
        rounds = 1 if not self.content.flips else 8  # shifted copies give other patches of the same photo
        enough = min(len(train) * self.tokens * rounds, wanted)
        rows: list[Tensor] = []
        while sum(len(r) for r in rows) < enough:
            rows.append(patchify(next(views), self.spec.patch).flatten(0, 1))
        stacked = torch.cat(rows)
        pick = torch.from_numpy(rng.permutation(len(stacked))[:enough])
        self.network.start(stacked[pick.to(stacked.device)], self.spec.batch * self.tokens, seed)

    def _views(self, train: np.ndarray, seed: int) -> Iterator[Tensor]:
        """Endless training batches; mirrored and shifted by less than a patch at random where the content allows it."""
        rng = np.random.default_rng([seed, 1])
        for index in batches(len(train), self.spec.batch, seed):
            x = self.content.to_tensor(train[index])
            if self.content.flips:
                flip = torch.from_numpy(rng.random(len(x)) < 0.5)
                x = torch.where(flip[:, None, None, None], self.content.mirror(x), x)
                dy, dx = (int(v) for v in rng.integers(0, self.spec.patch, 2))
                x = F.pad(x, (0, dx, 0, dy), mode="reflect")[..., dy:, dx:]
            yield x.to(self.device)

    def _loss(self, x: Tensor) -> Tensor:
        assert self.network is not None
        codes, commitment = self.network.codebook(self.network.latents(x))
        return self.content.loss(self.network.draw(codes), x) + 0.25 * commitment

    @torch.no_grad()
    def _watch(self, x: Tensor) -> float:
        assert self.network is not None
        network = self.network
        codes = network.codebook.lookup(network.codebook.index(network.latents(x)))
        return float(self.content.loss(network.draw(codes), x))

    # -- use

    @property
    def _chunk(self) -> int:
        # A matrix product may round differently with another number of rows, and a near tie then becomes another token.
        # One shape always: one view on a CPU (as fast as many there), full chunks on a GPU.
        return 64 if self.device.type == "cuda" else 1

    def _check(self, batch: np.ndarray) -> None:
        self.content.check(batch)
        side = self.spec.resolution
        if batch.shape[1:3] != (side, side):
            raise ValueError(
                f"{self.spec.modality}: expected views of {side} x {side}, got {batch.shape[1]} x {batch.shape[2]}"
            )

    def _fitted(self) -> Network:
        if self.network is None:
            raise ValueError(f"{self.spec.modality}: the tokenizer is not fitted; call fit or load a file first")
        return self.network.eval()

    @torch.inference_mode()
    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Labels of the content's encoding (n, H, W[, c]) -> uint16 (n, tokens)."""
        network = self._fitted()
        self._check(batch)
        assert self.tokens is not None
        out = np.zeros((len(batch), self.tokens), np.uint16)
        for i in range(0, len(batch), self._chunk):
            x = self.content.to_tensor(batch[i : i + self._chunk])
            n = len(x)
            x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, self._chunk - n)).to(self.device)
            ids = network.codebook.index(network.latents(x)).reshape(-1, self.tokens)
            out[i : i + n] = ids[:n].cpu().numpy().astype(np.uint16)
        return out

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Integers (n, tokens) -> labels of the content's encoding."""
        return self.content.from_tensor(self._outputs(tokens))

    @torch.inference_mode()
    def _outputs(self, tokens: np.ndarray) -> Tensor:
        network = self._fitted()
        if tokens.ndim != 2 or tokens.shape[1] != self.tokens:
            raise ValueError(f"{self.spec.modality}: expected tokens (n, {self.tokens}), got {tokens.shape}")
        wrong = tokens[(tokens < 0) | (tokens >= self.vocab)]
        if wrong.size:
            raise ValueError(f"{self.spec.modality}: token {int(wrong[0])} is outside the vocabulary of {self.vocab}")
        if not len(tokens):
            return torch.zeros(0, self.content.channels, self.spec.resolution, self.spec.resolution)
        ids = torch.from_numpy(tokens.astype(np.int64)).to(self.device)
        return torch.cat([network.draw(network.codebook.lookup(part.reshape(-1, 1))) for part in ids.split(64)])

    def config(self) -> dict[str, Any]:
        return {**asdict(self.spec), "settings": self.content.settings}

    def tensors(self) -> Mapping[str, np.ndarray]:
        return {name: value.cpu().numpy() for name, value in self._fitted().state_dict().items()}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Tokenizer:
        config = dict(config)
        settings = config.pop("settings")
        return cls(ViTVQConfig(**config), settings)._loaded(tensors)

    def _loaded(self, tensors: Mapping[str, np.ndarray]) -> Self:
        """This tokenizer with saved weights."""
        network = Network(self.spec, self.content.channels)
        network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
        self.network = network.to(self.device).eval()
        return self
