"""ViT-VQ: pictures, maps and feature maps to one token a patch, and back (network: vit_vq_network.py).

A fit has up to three stages: encoder, codebook and decoder at one resolution; the same at several; a diffusion decoder
on the finished tokens. Given up: perceptual and adversarial losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenize_shards.augment import Augmented
from tokenize_shards.averages import Best
from tokenize_shards.codebook import FSQ_LEVELS
from tokenize_shards.contents import make_content
from tokenize_shards.diffusion import Diffusion
from tokenize_shards.fit_state import FitState, Snapshot
from tokenize_shards.fitting import Budget, Loop, Schedule, pick_device, usage
from tokenize_shards.source import Source, as_source
from tokenize_shards.tokenizer import FitError, FitReport, Progress, Tokenizer
from tokenize_shards.vit_vq_network import Network, ViTVQConfig
from tokenize_shards.world import Worker, first_of, this_worker

_START_ROWS = 65536  # patches for k-means at most
_START_VIEWS = 1600  # views that start values may look at
_WATCHED = 24  # views on which the best state is chosen
_EVALUATED = 256  # views whose tokens are counted for the codebook's use
_VISITS = 160  # patches a code sees while the codebook settles, at most
_SETTLED = 0.6  # and the share of a budget of seconds at which it must have
_LATER_LR = 0.3  # learning rate of the stage at several resolutions, as a share of the first one's
_STAGES = {"sizes": 0.2, "diffusion": 0.4}  # shares of the budget, where there are such stages


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
        self.sides = tuple(dict.fromkeys((config.resolution, *config.resolutions)))
        self.network: Network | None = None
        self.diffusion: Diffusion | None = None
        self.device = pick_device()

    # -- fitting

    def fit(
        self, train: np.ndarray | Source, heldout: np.ndarray, *, seconds: float | None = None,
        steps: int | None = None, seed: int = 0, progress: Progress | None = None, state: FitState | None = None,
    ) -> FitReport:  # fmt: skip
        """See Tokenizer.fit. Views have one side, `resolution` or one of `resolutions`; smaller ones are made of them."""
        whole = Budget(seconds, steps)
        source = as_source(train)
        if not len(source):
            raise FitError(
                f"{self.spec.modality}: no training view has this modality, so its tokenizer has nothing to learn from; "
                "label it first, lower the held-out share, or leave it out of the tokens"
            )
        some = source.sample(_START_VIEWS)
        self._check(some)
        self.content.learn(some)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Network(self.spec, self.content.channels).to(self.device)
        stages = self._later()
        first = 1 - sum(_STAGES[stage] for stage in stages)
        done, losses = self._fit_tokens("fit", whole.part(first), source, some, seed, progress, state)
        for stage in stages:
            budget = whole.part(_STAGES[stage])
            if stage == "sizes":
                more, curve = self._fit_tokens(stage, budget, source, some, seed, progress, state)
            else:
                more, curve = self._fit_diffusion(budget, source, some, seed, progress, state)
            losses += [(done + step, loss) for step, loss in curve]
            done += more
        return self._report(some, heldout, done, whole.spent(), losses)

    def _later(self) -> list[str]:
        """The stages after the first."""
        wants = {"sizes": bool(self.spec.resolutions), "diffusion": self.spec.decoder == "diffusion"}
        return [stage for stage, wanted in wants.items() if wanted]

    def _fit_tokens(
        self, stage: str, budget: Budget, source: Source, some: np.ndarray, seed: int, progress: Progress | None,
        state: FitState | None,
    ) -> tuple[int, list[tuple[int, float]]]:  # fmt: skip
        """Encoder, codebook and decoder; in the stage "sizes" at every resolution in turn, by chance."""
        network = self._made()
        found = state.load(stage) if state else None
        if stage == "fit" and found is None:
            self._start(budget, source, some, seed)
        # A short fit on few photos can end worse than its start values; the best state seen is kept.
        watched = self.content.to_tensor(some[:: max(1, len(some) // _WATCHED)][:_WATCHED]).to(self.device)
        if watched.shape[-1] != self.spec.resolution:
            watched = self.content.resize(watched, self.spec.resolution)
        best = Best(network, lambda: self._watch(watched), every=40)
        views = self._views(source, seed, stage, found)
        schedule = Schedule(lr=self.spec.lr * (_LATER_LR if stage == "sizes" else 1), ema=self.spec.ema)
        loop = Loop(
            network, views, self._loss, budget, schedule=schedule,
            what=self.spec.modality, progress=progress, best=best, state=state, stage=stage,
            keep_end=stage != ["fit", *self._later()][-1],
        )  # fmt: skip
        if found is not None:
            loop.resume(found)
        try:
            return loop.run()
        finally:
            views.close()

    def _fit_diffusion(
        self, budget: Budget, source: Source, some: np.ndarray, seed: int, progress: Progress | None,
        state: FitState | None,
    ) -> tuple[int, list[tuple[int, float]]]:  # fmt: skip
        network = self._made()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Diffusion(self.content.channels, network.latent, self.spec.diffusion_width, self.spec.patch)
        self.diffusion = model.to(self.device)
        found = state.load("diffusion") if state else None
        views = self._views(source, seed, "diffusion", found)
        noise = torch.Generator(self.device)

        def loss_of(x: Tensor) -> Tensor:
            with torch.no_grad():
                codes = network.codebook.lookup(network.codebook.index(network.latents(x)))
                plain = network.draw(codes, x.shape[-1] // self.spec.patch)
            noise.manual_seed(seed * 1_000_003 + views.number * 1009 + views.rank)
            return model.loss(x, codes, plain, noise)

        loop = Loop(
            model, views, loss_of, budget, schedule=Schedule(lr=self.spec.lr, ema=self.spec.ema),
            what=f"{self.spec.modality} (diffusion)", progress=progress, state=state, stage="diffusion",
        )  # fmt: skip
        if found is not None:
            loop.resume(found)
        try:
            done = loop.run()
        finally:
            views.close()
        if loop.ema is not None:  # there is no best to watch for: samples are judged by eye, so the average is taken
            for name, parameter in model.named_parameters():
                parameter.data.copy_(loop.ema.shadow[name])
        return done

    def _report(
        self, some: np.ndarray, heldout: np.ndarray, done: int, seconds: float, losses: list[tuple[int, float]]
    ) -> FitReport:
        few = some[:: max(1, len(some) // _EVALUATED)][:_EVALUATED]
        seen = self.encode(few)
        self.content.calibrate(few, self._outputs(seen).cpu().numpy())
        metrics: dict[str, float] = {}
        if len(heldout):
            unseen = self.encode(heldout)
            metrics = self.content.measure(heldout, self.decode(unseen))
            if self.diffusion is not None:
                plain = self.content.measure(heldout, self.content.from_tensor(self._outputs(unseen, plain=True)))
                metrics |= {f"plain_{name}": value for name, value in plain.items()}
            if unseen.shape[1] == seen.shape[1]:
                seen = np.concatenate([seen, unseen])
        used, perplexity = usage(seen.reshape(-1, 1), self.vocab)
        return FitReport(self.kind, done, seconds, losses, metrics, used, perplexity)

    def _start(self, budget: Budget, source: Source, some: np.ndarray, seed: int) -> None:
        """Start values: principal components, k-means, then k-means that goes on over fresh crops, then least squares.

        On a budget of minutes this is where most of the quality comes from; see README, "Fitting tokenizers".
        """
        network = self._made()
        assert self.tokens is not None
        wanted = min(_START_ROWS, max(8 * self.vocab, 8192))
        rounds = 1 if not self.content.flips else 8  # shifted copies give other patches of the same photo
        enough = min(len(some) * self.tokens * rounds, wanted)
        views = self._views(as_source(some), seed, "fit", worker=Worker())
        batches: list[Tensor] = []
        while sum(len(x) for x in batches) * self.tokens < enough:
            batches.append(next(views))
        together = self.spec.batch * self.tokens * this_worker().size
        network.start(batches, enough, together, seed)
        if self.spec.codebook == "cosine":
            network.train()
            fresh = self._views(source, seed, "fit")
            most, until = _VISITS * self.vocab // together, 1.0 if budget.steps else _SETTLED
            for done in range(most):
                if first_of(budget.share(done), self.device) >= until:
                    break
                network.settle(next(fresh))
            fresh.close()
        network.solve(batches)

    def _views(
        self, source: Source, seed: int, stage: str, found: Snapshot | None = None, worker: Worker | None = None
    ) -> Augmented:
        """Training batches of a stage, from where its snapshot was taken."""
        worker = worker or this_worker()
        meta: dict[str, Any] = found.meta if found else {"position": (0, 0), "step": 0}
        block, batch = meta["position"]
        batches = source.batches(self.spec.batch, seed, worker, (int(block), int(batch)))
        sides = self.sides if stage == "sizes" else self.sides[:1]
        return Augmented(
            batches, self.content, self.spec.patch, sides, self.device, seed, worker.rank, int(meta["step"])
        )

    def _loss(self, x: Tensor) -> Tensor:
        network = self._made()
        codes, commitment = network.codebook(network.latents(x))
        return self.content.loss(network.draw(codes, x.shape[-1] // self.spec.patch), x) + 0.25 * commitment

    @torch.no_grad()
    def _watch(self, x: Tensor) -> float:
        network = self._made()
        codes = network.codebook.lookup(network.codebook.index(network.latents(x)))
        return float(self.content.loss(network.draw(codes), x))

    # -- use

    @property
    def _chunk(self) -> int:
        # A matrix product may round differently with another number of rows, and a near tie then becomes another token.
        # One shape always: one view on a CPU (as fast as many there), full chunks on a GPU.
        return 256 if self.device.type == "cuda" else 1

    def _check(self, batch: np.ndarray) -> None:
        self.content.check(batch)
        if batch.shape[1] != batch.shape[2] or batch.shape[1] not in self.sides:
            known = " or ".join(f"{side} x {side}" for side in self.sides)
            raise ValueError(
                f"{self.spec.modality}: expected views of {known}, got {batch.shape[1]} x {batch.shape[2]}"
            )

    def _made(self) -> Network:
        if self.network is None:
            raise ValueError(f"{self.spec.modality}: the tokenizer is not fitted; call fit or load a file first")
        return self.network

    def _fitted(self) -> Network:
        return self._made().eval()

    @torch.no_grad()
    def codes(self) -> np.ndarray | None:
        ids = torch.arange(self.vocab, device=self.device)[:, None]
        return np.asarray(self._fitted().codebook.lookup(ids)[:, 0].float().cpu().numpy())

    @torch.inference_mode()
    def encode(self, batch: np.ndarray) -> np.ndarray:
        """Labels of the content's encoding (n, H, W[, c]), all of one of `sides` -> uint16 (n, tokens)."""
        network = self._fitted()
        self._check(batch)
        count, parts = (batch.shape[1] // self.spec.patch) ** 2, list[Tensor]()
        for i in range(0, len(batch), self._chunk):
            x = self.content.to_tensor(batch[i : i + self._chunk], self.device)
            n = len(x)
            x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, self._chunk - n))
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):  # as it was fitted
                z = network.latents(x)
            parts.append(network.codebook.index(z).reshape(self._chunk, -1)[:n])
        found = torch.cat(parts) if parts else torch.zeros(0, count)  # fetched once: a GPU works on meanwhile
        return found.cpu().numpy().astype(np.uint16)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Integers (n, tokens) -> labels of the content's encoding, as large as the number of tokens says."""
        return self.content.from_tensor(self._outputs(tokens))

    @torch.inference_mode()
    def _outputs(self, tokens: np.ndarray, plain: bool = False) -> Tensor:
        network = self._fitted()
        counts = [(side // self.spec.patch) ** 2 for side in self.sides]
        if tokens.ndim != 2 or tokens.shape[1] not in counts:
            known = " or ".join(map(str, counts))
            raise ValueError(f"{self.spec.modality}: expected tokens (n, {known}), got {tokens.shape}")
        wrong = tokens[(tokens < 0) | (tokens >= self.vocab)]
        if wrong.size:
            raise ValueError(f"{self.spec.modality}: token {int(wrong[0])} is outside the vocabulary of {self.vocab}")
        grid = math.isqrt(tokens.shape[1])
        if not len(tokens):
            return torch.zeros(0, self.content.channels, grid * self.spec.patch, grid * self.spec.patch)
        drawn = []
        for part in torch.from_numpy(tokens.astype(np.int64)).split(64):
            codes = network.codebook.lookup(part.to(self.device).reshape(-1, 1))
            x = network.draw(codes, grid)
            if self.diffusion is not None and not plain:
                x = self.diffusion.eval().sample(codes, x, part.numpy(), self.spec.diffusion_steps)
            drawn.append(x)
        return torch.cat(drawn)

    def config(self) -> dict[str, Any]:
        return {**asdict(self.spec), "settings": self.content.settings}

    def tensors(self) -> Mapping[str, np.ndarray]:
        state = dict(self._fitted().state_dict())
        if self.diffusion is not None:
            state |= {f"diffusion.{name}": value for name, value in self.diffusion.state_dict().items()}
        return {name: value.cpu().numpy() for name, value in state.items()}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Tokenizer:
        config = dict(config)
        settings = config.pop("settings")
        return cls(ViTVQConfig(**config), settings)._loaded(tensors)

    def _loaded(self, tensors: Mapping[str, np.ndarray]) -> Self:
        """This tokenizer with saved weights."""
        network = Network(self.spec, self.content.channels)
        found = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
        network.load_state_dict({n: value for n, value in found.items() if not n.startswith("diffusion.")})
        self.network = network.to(self.device).eval()
        if self.spec.decoder == "diffusion":
            model = Diffusion(self.content.channels, network.latent, self.spec.diffusion_width, self.spec.patch)
            model.load_state_dict({n[10:]: value for n, value in found.items() if n.startswith("diffusion.")})
            self.diffusion = model.to(self.device).eval()
        return self
