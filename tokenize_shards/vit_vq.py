"""ViT-VQ: pictures, maps and feature maps to one token a patch, and back.

A ViT encoder and decoder around a codebook of unit vectors. Both ends are residual: the network adds to a linear path that
starts as principal components of patches, and the codebook starts as k-means, so an unfitted network already is a k-means
codebook of patches and fitting only improves it. The linear latent is (1, scores) on the plane at height HEIGHT; its
direction is what the codebook compares, so that cosine similarity ranks codes almost as Euclidean distance does and no
brightness is lost to the normalisation. Given up: perceptual and adversarial losses, diffusion decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_shards.codebook import FSQ_LEVELS, Codebook, Fsq
from tokenize_shards.content import make_content
from tokenize_shards.fitting import Budget, Schedule, batches, optimise, pick_device, usage
from tokenize_shards.patches import patchify, pca, unpatchify
from tokenize_shards.tokenizer import FitError, FitReport, Progress, Tokenizer

HEIGHT = 2.0  # of the plane of linear latents whose mean squared score is 1; higher is closer to Euclidean
_START_ROWS = 65536  # patches for k-means at most
_EVALUATED = 256  # views whose tokens are counted for the codebook's use


@dataclass(frozen=True)
class Size:
    """Layers of the encoder and of the decoder each, width, attention heads."""

    depth: int
    width: int
    heads: int


SIZES: dict[str, Size] = {
    "micro": Size(2, 128, 2),
    "tiny": Size(6, 384, 6),
    "S": Size(8, 512, 8),
    "B": Size(12, 768, 12),
    "L": Size(24, 1024, 16),
}


@dataclass(frozen=True)
class ViTVQConfig:
    """modality: its name, for messages. content: "pixels", "edges" or "features". resolution: pixels (or feature cells) a
    side. channels: of features; 3 for pixels, 1 for edges. patch: side of a token. vocab: codes asked for. fsq rounds it to
    a grid, see FSQ_LEVELS. batch: views a step; lr: highest learning rate."""

    modality: str = "rgb"
    content: Literal["pixels", "edges", "features"] = "pixels"
    resolution: int = 112
    channels: int = 3
    patch: int = 8
    vocab: int = 4096
    size: str = "micro"
    latent: int = 32
    codebook: Literal["cosine", "fsq"] = "cosine"
    batch: int = 8
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if self.resolution % self.patch:
            raise ValueError(f"{self.modality}: resolution {self.resolution} is no multiple of patch {self.patch}")
        if self.size not in SIZES:
            raise ValueError(f"{self.modality}: unknown size {self.size!r}; known: {', '.join(SIZES)}")
        if self.codebook == "fsq" and self.vocab not in FSQ_LEVELS:
            raise ValueError(f"{self.modality}: fsq has grids for {sorted(FSQ_LEVELS)} codes, not {self.vocab}")
        if not 2 <= self.vocab <= 65536:
            raise ValueError(f"{self.modality}: vocab must be 2..65536 (tokens are uint16), got {self.vocab}")


def sincos_positions(side: int, width: int) -> Tensor:
    """Fixed 2-D positions of a side x side grid, (side * side, width): a quarter each of sin x, cos x, sin y, cos y."""
    omega = 1.0 / 10000 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * omega
    along = torch.cat([angle.sin(), angle.cos()], 1)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cat([along[x.flatten()], along[y.flatten()]], 1)


class Block(nn.Module):
    """Pre-norm self-attention and MLP over (n, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.out(mixed)
        return x + self.mlp(self.norm2(x))


class Tower(nn.Module):
    """(n, tokens, inputs) -> (n, tokens, outputs): embedding + positions, blocks, a head that starts at zero."""

    positions: Tensor

    def __init__(self, inputs: int, outputs: int, side: int, size: Size) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, size.width)
        self.register_buffer("positions", sincos_positions(side, size.width), persistent=False)
        self.blocks = nn.Sequential(*(Block(size.width, size.heads) for _ in range(size.depth)))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.positions)))


class Network(nn.Module):
    """Encoder, codebook and decoder of a config. Images are (n, channels, H, W)."""

    def __init__(self, config: ViTVQConfig) -> None:
        super().__init__()
        self.patch, self.channels = config.patch, config.channels
        self.side = config.resolution // config.patch
        cells = config.channels * config.patch**2
        self.cosine = config.codebook == "cosine"
        self.codebook: Codebook | Fsq
        if self.cosine:
            self.latent = config.latent
            self.codebook = Codebook(1, config.vocab, self.latent, cosine=True)
        else:
            self.latent = len(FSQ_LEVELS[config.vocab])
            self.codebook = Fsq(FSQ_LEVELS[config.vocab])
        size = SIZES[config.size]
        self.encoder = Tower(cells, self.latent, self.side, size)
        self.encoder_line = nn.Linear(cells, self.latent)
        self.decoder = Tower(self.latent, cells, self.side, size)
        self.decoder_line = nn.Linear(self.latent - 1 if self.cosine else self.latent, cells)

    def latents(self, images: Tensor) -> Tensor:
        """(n, channels, H, W) -> (n * tokens, 1, latent)."""
        x = patchify(images, self.patch)
        return (self.encoder_line(x) + self.encoder(x)).reshape(-1, 1, self.latent)

    def flat(self, codes: Tensor) -> Tensor:
        """What the linear decoder sees of codes (..., latent): their point on the plane at height 1, if directions."""
        return codes[..., 1:] / codes[..., :1].clamp(min=0.1) if self.cosine else codes

    def draw(self, codes: Tensor) -> Tensor:
        """Codes (n * tokens, 1, latent) -> (n, channels, H, W)."""
        codes = codes.reshape(-1, self.side**2, self.latent)
        patches = self.decoder_line(self.flat(codes)) + self.decoder(codes)
        return unpatchify(patches.float(), self.patch, self.channels, self.side, self.side)

    @torch.no_grad()
    def start(self, rows: Tensor, batch: int, seed: int) -> None:
        """Linear paths and codebook from patches (n, cells): principal components, k-means, least squares."""
        k = min(self.latent - 1 if self.cosine else self.latent, rows.shape[1])
        parts = pca(rows, k)
        first = 1 if self.cosine else 0
        # One scale for all scores keeps distances; a grid wants every score to fill its own range.
        scale = parts.variance.sum().sqrt().expand(k) if self.cosine else parts.variance.sqrt()
        basis = parts.basis / scale.clamp(min=1e-6)[:, None]
        nn.init.zeros_(self.encoder_line.weight)
        nn.init.zeros_(self.encoder_line.bias)
        self.encoder_line.weight[first : first + k] = basis
        self.encoder_line.bias[first : first + k] = -basis @ parts.mean
        if self.cosine:
            self.encoder_line.bias[0] = HEIGHT
        z = self.encoder_line(rows)[:, None]
        self.codebook.start(z, batch, seed)
        codes = self.flat(self.codebook.lookup(self.codebook.index(z))[:, 0])
        design = torch.cat([codes, torch.ones_like(codes[:, :1])], 1).double()
        ridge = 1e-4 * len(design) * torch.eye(design.shape[1], dtype=torch.float64, device=rows.device) * design.var()
        fit = torch.linalg.solve(design.T @ design + ridge, design.T @ rows.double()).float()
        self.decoder_line.weight.copy_(fit[:-1].T)
        self.decoder_line.bias.copy_(fit[-1])


class ViTVQ(Tokenizer):
    """Tokens of one image-like modality: uint16 (n, side * side), rows first. See ViTVQConfig for the encodings."""

    kind = "vit_vq"

    def __init__(self, config: ViTVQConfig, settings: dict[str, float] | None = None) -> None:
        self.spec = config
        self.content = make_content(config.content, config.channels, settings or {})
        if self.content.channels != config.channels:
            raise ValueError(f"{config.modality}: {config.content} has {self.content.channels} channel(s), not {config.channels}")
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
            network = Network(self.spec)
        self.network = network.to(self.device)
        self._start(train, seed)
        done, losses = optimise(
            network, self._views(train, seed), self._loss, budget, schedule=Schedule(lr=self.spec.lr),
            what=self.spec.modality, progress=progress,
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
                x = torch.where(flip[:, None, None, None], x.flip(-1), x)
                dy, dx = (int(v) for v in rng.integers(0, self.spec.patch, 2))
                x = F.pad(x, (0, dx, 0, dy), mode="reflect")[..., dy:, dx:]
            yield x.to(self.device)

    def _loss(self, x: Tensor) -> Tensor:
        assert self.network is not None
        codes, commitment = self.network.codebook(self.network.latents(x))
        return self.content.loss(self.network.draw(codes), x) + 0.25 * commitment

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
            raise ValueError(f"{self.spec.modality}: expected views of {side} x {side}, got {batch.shape[1]} x {batch.shape[2]}")

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
        if tokens.size and int(tokens.max()) >= self.vocab:
            raise ValueError(f"{self.spec.modality}: token {int(tokens.max())} is outside the vocabulary of {self.vocab}")
        ids = torch.from_numpy(tokens.astype(np.int64)).to(self.device)
        parts = [network.draw(network.codebook.lookup(part.reshape(-1, 1))) for part in ids.split(64)]
        side = self.spec.resolution
        return torch.cat(parts) if parts else torch.zeros(0, self.spec.channels, side, side)

    def config(self) -> dict[str, Any]:
        return {**asdict(self.spec), "settings": self.content.settings}

    def tensors(self) -> Mapping[str, np.ndarray]:
        return {name: value.cpu().numpy() for name, value in self._fitted().state_dict().items()}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> ViTVQ:
        config = dict(config)
        settings = config.pop("settings")
        tokenizer = cls(ViTVQConfig(**config), settings)
        network = Network(tokenizer.spec)
        network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
        tokenizer.network = network.to(tokenizer.device).eval()
        return tokenizer
