"""The state of one training run, and one optimizer step of it: the same for one process, DDP and FSDP2.

Masks of step n come from the seed and n alone, and the loader's state is a few integers, so a run that was stopped goes
on exactly as if it had not been.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError, Incomplete
from trainer import checkpoint
from trainer.config import TrainConfig, components
from trainer.estimate import (
    Estimate,
    check_memory,
    head_flops,
    memory,
    peak_rate,
    precision,
    skeleton,
    trunk_flops,
)  # fmt: skip
from trainer.evaluate import Judgement
from trainer.feed import Feed, Item, on
from trainer.heap import keep_memory
from trainer.loader import Blend, Corpus, Loader
from trainer.loss import stream_weights
from trainer.masking import Masker
from trainer.model import SIZES, Model
from trainer.parallel import Divided, Group, choose, local_device, own
from trainer.start import start

MAX_BAD_STEPS = 20


class Run:
    """A model, its optimizer and its data at some step. Nothing random is left in it: all follows from config.seed."""

    def __init__(
        self, data: Corpus | Blend, config: TrainConfig, group: Group | None = None, *, restored: bool = False
    ) -> None:
        """restored: `restore` follows, so start values are not worked out. ConfigError for what cannot be trained: it does
        not fit into memory, or no mixture fits the streams.
        """
        self.config, self.group = config, group or Group(device=local_device())
        self.data = Blend([data]) if isinstance(data, Corpus) else data
        self.corpus, self.streams, self.device = self.data.corpora[0], self.data.streams, self.group.device
        if all(s.values for s in self.streams):
            raise ConfigError(f"train.modalities: {self.streams[0].name} can be shown, not asked for; add others")
        self.dtype = precision(config, self.device)
        self.components = components(config, [s.name for s in self.streams])
        empty = skeleton(self.streams, SIZES[config.size], config.tied)
        self.estimate = self._estimate(empty)
        check_memory(self.estimate.bytes, config, self.device, self.group.world)
        self.model = self._model(restored)
        self.divided = Divided(self.model, self.group, choose(config.strategy, self.group.world))
        self.model.adds = self.divided.strategy == "single" and self.device.type == "cpu"
        self.named = dict(self.model.named_parameters())
        self.optimizer = self._optimizer()
        self.average = {n: own(p).clone() for n, p in self.named.items()} if config.ema else {}
        self.feed = self._feed()
        self.loader_state = self.feed.loader.state()
        self.step, self.skipped, self.bad = 0, 0, 0
        self.curve: list[tuple[int, float]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.waited, self.norm, self.flops, self.peak = 0.0, 0.0, 0.0, 0.0
        if self.device.type == "cpu":
            keep_memory()

    def _estimate(self, model: Model) -> Estimate:
        size = SIZES[self.config.size]
        vocab = [s.vocab for s in self.streams if not s.values]
        flops = trunk_flops(size, self.config.n_in, self.config.n_out)
        flops += head_flops(size, self.config.n_out * sum(vocab) / len(vocab))
        count = sum(p.numel() for p in model.parameters())
        needed = memory(model, self.config, self.group.world)
        return Estimate(count, model.trunk_parameters(), needed, flops * self.config.batch)

    def _model(self, restored: bool) -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            model = Model(self.streams, SIZES[self.config.size], self.config.tied)
        model.recompute = self.config.recompute
        model.to(self.device)
        if self.config.start == "codes" and not self.config.tied and not restored:
            start(model, self.data, self._masker(), self.config.seed)
        model.compiled = self.config.compile
        if model.compiled:
            for block in (*model.encoder, *model.decoder):
                block.compile()
        return model

    def _optimizer(self) -> torch.optim.AdamW:
        rows = [p for n, p in self.named.items() if n.startswith(("table.", "heads."))]
        others = [p for n, p in self.named.items() if not n.startswith(("table.", "heads."))]
        decay = self.config.weight_decay
        groups = [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
            {"params": rows, "weight_decay": decay, "eps": self.config.eps},
        ]
        return torch.optim.AdamW(groups, lr=self.config.lr, betas=(0.9, 0.95), fused=True)

    def _masker(self) -> Masker:
        config = self.config
        try:
            return Masker(self.streams, self.components, config.n_in, config.n_out, self.data.has())
        except ValueError as error:
            raise ConfigError(f"train.mixture: {error}") from None

    def _feed(self, block: int | None = None) -> Feed:
        config = self.config
        return Feed(
            Loader(self.data, config.batch, config.seed), self._masker(), self.model, config.seed,
            rank=self.group.rank, world=self.group.world, parts=config.accumulate, block=config.block or block,
        )  # fmt: skip

    def rate(self) -> float:
        """Learning rate of the current step: linear warm-up, then a cosine down to a twentieth."""
        share, warm = self.step / self.config.steps, self.config.warmup
        if share < warm:
            return self.config.lr * (self.step + 1) / max(1.0, warm * self.config.steps)
        return self.config.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (share - warm) / (1 - warm))))

    def backward(self, item: Item) -> float:
        """Gradients of one step's work, and its loss, the same on every process."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        weight = stream_weights(self.group.sum(item.count.to(self.device)), self.config.loss)
        total = torch.zeros((), device=self.device)
        for i, part in enumerate(item.parts):
            with self.divided.part(last=i == len(item.parts) - 1), self.autocast():
                # Gradients are averaged over the processes, whose losses must be added up.
                mean = self.divided.net(on(part, self.device), weight * self.group.world)[0]
                mean.backward()
                total += mean.detach()
        return float(self.group.sum(total)) / self.group.world

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def one_step(self) -> float:
        """One optimizer step; its loss. Incomplete after many non-finite steps in a row."""
        began = time.perf_counter()
        item = self.feed.next()
        self.waited += time.perf_counter() - began
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        value = self.backward(item)
        self.norm = self.divided.clip(self.config.clip)
        size = SIZES[self.config.size]
        trunk = trunk_flops(size, self.config.n_in, self.config.n_out) * sum(len(p["in_ids"]) for p in item.parts)
        self.flops += trunk + head_flops(size, item.logits)
        if math.isfinite(value) and math.isfinite(self.norm):
            self.optimizer.step()
            self._follow()
            self.bad = 0
        else:
            self.skipped, self.bad = self.skipped + 1, self.bad + 1
            if self.bad >= MAX_BAD_STEPS:
                raise Incomplete(
                    f"train: {self.bad} steps in a row were not finite (step {self.step}); "
                    f"lower train.lr from {self.config.lr}"
                )
        self.step, self.loader_state = self.step + 1, item.state
        if math.isfinite(value):
            self.curve.append((self.step, value))
        return value

    def _follow(self) -> None:
        """Let the average follow the weights; faster at first, when it would only remember the start."""
        if self.average:
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.average.values()), [own(p) for p in self.named.values()], 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in place of the current ones, where there are any."""
        kept = {n: own(p).clone() for n, p in self.named.items()} if self.average else {}
        self._set(self.average)
        try:
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            own(self.named[name]).copy_(value)

    def measure(self) -> Estimate:
        """The estimate, with the time of a real step that changes nothing, and what this device can do at most."""
        feed = self._feed(self.feed.block)
        feed.loader.restore(self.loader_state)
        item = feed.make()
        if self.config.compile:
            self.backward(item)
        start = time.perf_counter()
        self.backward(item)
        seconds = time.perf_counter() - start
        self.optimizer.zero_grad(set_to_none=True)
        self.peak, _ = peak_rate(self.device, self.dtype)
        self.estimate = Estimate(**{**asdict(self.estimate), "seconds": seconds, "peak": self.peak})
        return self.estimate

    def record(self, found: Judgement | None = None) -> dict[str, Any]:
        """What a checkpoint says of the run, without weights."""
        sets = self.data.corpora
        judged = asdict(found) if found else {"photos": {}, "views": {}}
        return {
            "step": self.step, "config": self.config.model_dump(mode="json"),
            "streams": [s.to_json() for s in self.streams],
            "recipes": self.corpus.recipes, "manifest": self.corpus.manifest, "shards": len(self.corpus.sizes),
            "others": [{"recipes": c.recipes, "manifest": c.manifest, "shards": len(c.sizes)} for c in sets[1:]],
            "loader": self.loader_state, "block": self.feed.block, "curve": self.curve, "skipped": self.skipped,
            "evaluations": self.evaluations, "heldout": judged["photos"], "heldout_views": judged["views"],
            "trained_views": self.corpus.train_views,
            "mixture": [{**asdict(c), "keep": list(c.keep)} for c in self.components],
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write a checkpoint to go on from. Every process must call it."""
        checkpoint.save_run(folder, self.divided, self.optimizer, self.average, self.record())

    def publish(self, found: Judgement, folder: Path) -> None:
        """Write the model as others read it, the averaged weights where there are any. Every process must call it."""
        with self.averaged():
            record = {**self.record(found), "averaged": bool(self.average)}
            checkpoint.publish(folder, self.divided, record)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint of `save`. ConfigError where it was made with other settings or other tokens."""
        record = checkpoint.read_record(folder)
        self.check(record, str(folder))
        checkpoint.load_run(folder, self.divided, self.optimizer, self.average)
        self.feed = self._feed(record["block"])
        self.feed.go_to(record["step"], record["loader"])
        self.loader_state = record["loader"]
        self.step, self.skipped = record["step"], record["skipped"]
        self.evaluations = record["evaluations"]
        self.curve = [(int(s), float(v)) for s, v in record["curve"]]

    def differs(self, record: dict[str, Any]) -> str:
        """In what a checkpoint is of another run than this one; "" where it is not."""
        mine = self.record()
        other = next((key for key in ("streams", "recipes") if record.get(key) != mine[key]), "")
        recipes = [[one["recipes"] for one in of.get("others", ())] for of in (record, mine)]
        if not other and recipes[0] != recipes[1]:  # what else their manifests name does not matter
            other = "train.datasets (the current tokens of one are others now)"
        shards = [[one.get("shards") for one in (of, *of.get("others", ()))] for of in (record, mine)]
        if not other and None not in shards[0] and shards[0] != shards[1]:
            other = "number of shards"
        if not other and record.get("mixture", mine["mixture"]) != mine["mixture"]:
            other = "train.mixture (its ready-made components are others now)"
        views = record.get("trained_views", self.corpus.views)  # before there were held-out views, all
        if not other and views != self.corpus.train_views:
            other = "train.heldout_views"
        return other or (f"train.{key}" if (key := self.config.learned_alike(record["config"])) else "")

    def check(self, record: dict[str, Any], where: str) -> None:
        """ConfigError where a checkpoint cannot be gone on from."""
        if other := self.differs(record):
            raise ConfigError(
                f"{where}: was trained with another {other}; go on with the same, give another train.name, or --again to "
                "train anew"
            )
