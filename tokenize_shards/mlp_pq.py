"""MLP with a product quantiser: one vector to a fixed number of tokens, each from a codebook of its own, and back.

Used for global embeddings (cosine loss) and for body poses (squared error on landmarks in metres). As in vit_vq, the
network is residual around a linear path that starts as principal components, dealt out to the heads in turn, and
codebooks start as k-means: unfitted it is a product quantiser, and fitting improves it. Given up: the straight-through
Gumbel softmax of 4M-21; nearest codes with moving averages need no temperature and work with a few dozen vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_shards.codebook import Codebook
from tokenize_shards.fit_state import FitState, Snapshot
from tokenize_shards.fitting import Best, Budget, Loop, Schedule, pick_device, usage
from tokenize_shards.patches import pca
from tokenize_shards.source import InMemory, Position, Source, as_source
from tokenize_shards.tokenizer import FitError, FitReport, Progress, Tokenizer
from tokenize_shards.world import this_worker

_START_VECTORS = 20_000  # vectors that start values and figures look at
WAVES = 8
JITTER = 0.02  # noise on training vectors, in their standard deviations; few vectors are learned by heart without it


@dataclass(frozen=True)
class MLPPQConfig:
    """modality: its name, for messages. content: "embedding" (any direction matters, not the length) or "landmarks"
    (points x 3, metres). dim: numbers in a vector. heads: tokens. codes: entries of each head's codebook. latent:
    numbers a head compares. width, depth: of the MLP (4M-21: 1024, 6).
    """

    modality: str = "dinov2_global"
    content: Literal["embedding", "landmarks"] = "embedding"
    dim: int = 384
    heads: int = 16
    codes: int = 256
    latent: int = 8
    width: int = 256
    depth: int = 2
    batch: int = 64
    lr: float = 5e-4
    ema: float = 0.999

    def __post_init__(self) -> None:
        if self.content == "landmarks" and self.dim % 3:
            raise ValueError(f"{self.modality}: landmarks are points of 3 numbers, {self.dim} is no multiple of 3")
        if not 2 <= self.codes <= 65536:
            raise ValueError(f"{self.modality}: codes must be 2..65536 (tokens are uint16), got {self.codes}")


class Mlp(nn.Module):
    """(n, inputs) -> (n, outputs): residual blocks of LayerNorm, linear, GELU, linear; the last layer starts at zero."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Network(nn.Module):
    """Encoder, product codebook and decoder of a config."""

    gentle = {"encoder_line": 0.1, "decoder_line": 0.1}  # see vit_vq_network.Network

    scale: Tensor

    def __init__(self, config: MLPPQConfig) -> None:
        super().__init__()
        self.heads, self.latent = config.heads, config.latent
        inner = config.heads * config.latent
        self.register_buffer("scale", torch.ones(()))
        self.encoder, self.encoder_line = (
            Mlp(config.dim, inner, config.width, config.depth),
            nn.Linear(config.dim, inner),
        )
        self.decoder, self.decoder_line = (
            Mlp(inner, config.dim, config.width, config.depth),
            nn.Linear(inner, config.dim),
        )
        self.codebook = Codebook(config.heads, config.codes, config.latent, cosine=False)

    def latents(self, x: Tensor) -> Tensor:
        """Scaled vectors (n, dim) -> (n, heads, latent)."""
        return (self.encoder_line(x) + self.encoder(x)).view(len(x), self.heads, self.latent)

    def rebuild(self, codes: Tensor) -> Tensor:
        """Codes (n, heads, latent) -> scaled vectors (n, dim)."""
        flat = codes.flatten(1)
        return self.decoder_line(flat) + self.decoder(flat)

    @torch.no_grad()
    def start(self, rows: Tensor, batch: int, seed: int) -> None:
        """Linear paths from principal components, component i to head i modulo heads; codebooks from k-means."""
        inner = self.heads * self.latent
        k = min(inner, rows.shape[1])
        parts = pca(rows, k)
        place = torch.tensor([(i % self.heads) * self.latent + i // self.heads for i in range(k)])
        for line in (self.encoder_line, self.decoder_line):
            nn.init.zeros_(line.weight)
            nn.init.zeros_(line.bias)
        self.encoder_line.weight[place] = parts.basis
        self.encoder_line.bias[place] = -parts.basis @ parts.mean
        self.decoder_line.weight[:, place] = parts.basis.T
        self.decoder_line.bias.copy_(parts.mean)
        self.codebook.start(self.encoder_line(rows).view(len(rows), self.heads, self.latent), batch, seed)

    @torch.no_grad()
    def order(self) -> None:
        """Number the codes of every head by their first coordinate, which holds most of their variance: neighbours in
        number are then alike, in the same way in every head.
        """
        book = self.codebook.embed
        places = book[..., 0].argsort(dim=1)[..., None].expand_as(book)
        book.copy_(book.gather(1, places))


class MLPPQ(Tokenizer):
    """Tokens of one vector modality: uint16 (n, heads). Landmarks are flattened (n, points * 3) or (n, points, 3)."""

    kind = "mlp_pq"

    def __init__(self, config: MLPPQConfig) -> None:
        self.spec, self.vocab, self.tokens = config, config.codes, config.heads
        self.network: Network | None = None
        self.device = pick_device()

    # -- fitting

    def fit(
        self, train: np.ndarray | Source, heldout: np.ndarray, *, seconds: float | None = None,
        steps: int | None = None, seed: int = 0, progress: Progress | None = None, state: FitState | None = None,
    ) -> FitReport:  # fmt: skip
        budget = Budget(seconds, steps)
        source = as_source(train)
        if not len(source):
            raise FitError(
                f"{self.spec.modality}: no training sample has this modality, so its tokenizer has nothing to learn from; "
                "label it first, lower the held-out share, or leave it out of the tokens"
            )
        some = source.sample(_START_VECTORS)
        x = self._tensor(some)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Network(self.spec).to(self.device)
        network = self.network
        network.scale.copy_(x.std().clamp(min=1e-6) if len(x) > 1 else torch.ones(()))
        x = x / network.scale
        # One part in eight is watched for over-fitting; with few vectors the start values are often already the best.
        aside = np.arange(len(x)) % 8 == 0 if len(x) >= 32 else np.zeros(len(x), bool)
        watched = x[torch.from_numpy(aside)] if aside.any() else x
        if isinstance(source, InMemory) and len(source) == len(x):
            source = InMemory(source.views[~aside])
        found = state.load("fit") if state else None
        if found is None:
            network.start(x[torch.from_numpy(~aside)], self.spec.batch * this_worker().size, seed)
        vectors = _Vectors(self, source, x.std(0) if len(x) > 1 else torch.zeros_like(x[0]), seed, found)
        loop = Loop(
            network, vectors, self._loss, budget, schedule=Schedule(lr=self.spec.lr, ema=self.spec.ema),
            what=self.spec.modality, progress=progress, best=Best(network, lambda: self._watch(watched)), state=state,
        )  # fmt: skip
        if found is not None:
            loop.resume(found)
        try:
            done, losses = loop.run()
        finally:
            vectors.close()
        network.order()
        return self._report(some, heldout, done, budget.spent(), losses)

    def _report(
        self, some: np.ndarray, heldout: np.ndarray, done: int, seconds: float, losses: list[tuple[int, float]]
    ) -> FitReport:
        seen, metrics = self.encode(some), dict[str, float]()
        if len(heldout):
            unseen = self.encode(heldout)
            metrics = self._measure(heldout, self.decode(unseen))
            seen = np.concatenate([seen, unseen])
        used, perplexity = usage(seen, self.vocab)
        return FitReport(self.kind, done, seconds, losses, metrics, used, perplexity)

    def _distance(self, output: Tensor, target: Tensor) -> Tensor:
        if self.spec.content == "embedding":
            return (1 - F.cosine_similarity(output, target, dim=1)).mean() + 0.1 * F.mse_loss(output, target)
        return F.mse_loss(output, target)

    def _loss(self, x: Tensor) -> Tensor:
        assert self.network is not None
        codes, commitment = self.network.codebook(self.network.latents(x))
        return self._distance(self.network.rebuild(codes), x) + 0.25 * commitment / self.spec.dim

    @torch.no_grad()
    def _watch(self, x: Tensor) -> float:
        assert self.network is not None
        network = self.network
        codes = network.codebook.lookup(network.codebook.index(network.latents(x)))
        return float(self._distance(network.rebuild(codes), x))

    def _measure(self, truth: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        a, b = self._tensor(truth).cpu(), self._tensor(decoded).cpu()
        if self.spec.content == "embedding":
            return {"cosine": float(F.cosine_similarity(a, b, dim=1).mean())}
        return {"mpjpe_mm": float((a - b).view(len(a), -1, 3).norm(dim=-1).mean() * 1000)}

    # -- use

    def codes(self) -> np.ndarray | None:
        """Waves along the numbers of the codes, the long ones largest: see Network.order."""
        place = (np.arange(self.vocab) + 0.5) / self.vocab
        return np.stack([np.cos(np.pi * k * place) / k for k in range(1, WAVES + 1)], axis=1).astype(np.float32)

    def _tensor(self, batch: np.ndarray) -> Tensor:
        """float32 (n, dim) on the device. ValueError for another width or values that are not finite."""
        flat = np.ascontiguousarray(batch, np.float32).reshape(len(batch), -1)
        if len(batch) and flat.shape[1] != self.spec.dim:
            raise ValueError(f"{self.spec.modality}: expected vectors of {self.spec.dim} numbers, got {batch.shape}")
        if not np.isfinite(flat).all():
            raise ValueError(f"{self.spec.modality}: a vector has numbers that are not finite")
        return torch.from_numpy(flat).to(self.device)

    def _fitted_or_not(self) -> Network:
        if self.network is None:
            raise ValueError(f"{self.spec.modality}: the tokenizer is not fitted; call fit or load a file first")
        return self.network

    def _fitted(self) -> Network:
        return self._fitted_or_not().eval()

    @torch.inference_mode()
    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Vectors (n, dim) -> uint16 (n, heads). One by one on a CPU, so that a vector's tokens do not depend on its
        batch.
        """
        network = self._fitted()
        x = self._tensor(batch) / network.scale if len(batch) else torch.zeros(0, self.spec.dim)
        rows = [network.codebook.index(network.latents(row[None])) for row in x]
        return torch.cat(rows).cpu().numpy().astype(np.uint16) if rows else np.zeros((0, self.spec.heads), np.uint16)

    @torch.inference_mode()
    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Integers (n, heads) -> float32 (n, dim)."""
        network = self._fitted()
        if tokens.ndim != 2 or tokens.shape[1] != self.spec.heads:
            raise ValueError(f"{self.spec.modality}: expected tokens (n, {self.spec.heads}), got {tokens.shape}")
        wrong = tokens[(tokens < 0) | (tokens >= self.vocab)]
        if wrong.size:
            raise ValueError(f"{self.spec.modality}: token {int(wrong[0])} is outside the vocabulary of {self.vocab}")
        ids = torch.from_numpy(tokens.astype(np.int64)).to(self.device)
        return (network.rebuild(network.codebook.lookup(ids)) * network.scale).cpu().numpy()

    @torch.inference_mode()
    def expected(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (n, heads, codes) -> float32 (n, dim), decoded from the mean code of each head: where the decoder
        is linear, as it is at the start, that is the mean over all that could be drawn.
        """
        network = self._fitted()
        if probabilities.shape[1:] != (self.spec.heads, self.vocab):
            wanted = f"(n, {self.spec.heads}, {self.vocab})"
            raise ValueError(f"{self.spec.modality}: expected probabilities {wanted}, got {probabilities.shape}")
        shares = torch.from_numpy(np.ascontiguousarray(probabilities, np.float32)).to(self.device)
        codes = torch.einsum("nhc,hcd->nhd", shares, network.codebook.embed)
        return (network.rebuild(codes) * network.scale).cpu().numpy()

    def config(self) -> dict[str, Any]:
        return asdict(self.spec)

    def tensors(self) -> Mapping[str, np.ndarray]:
        return {name: value.cpu().numpy() for name, value in self._fitted().state_dict().items()}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> MLPPQ:
        tokenizer = cls(MLPPQConfig(**config))
        network = Network(tokenizer.spec)
        network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
        tokenizer.network = network.to(tokenizer.device).eval()
        return tokenizer


class _Vectors:
    """Endless training batches: scaled vectors with a little noise that (seed, batch number, worker) decide."""

    def __init__(self, owner: MLPPQ, source: Source, spread: Tensor, seed: int, found: Snapshot | None) -> None:
        self.owner, self.spread, self.seed, self.worker = owner, spread, seed, this_worker()
        block, batch = found.meta["position"] if found else (0, 0)
        self.number = int(found.meta["step"]) if found else 0
        self.batches = source.batches(owner.spec.batch, seed, self.worker, (int(block), int(batch)))

    @property
    def position(self) -> Position:
        return self.batches.position

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        network = self.owner._fitted_or_not()
        x = self.owner._tensor(next(self.batches)) / network.scale
        noise = np.random.default_rng([self.seed, self.number, self.worker.rank]).normal(size=x.shape)
        self.number += 1
        return x + JITTER * self.spread * torch.from_numpy(noise).to(x)

    def close(self) -> None:
        self.batches.close()
