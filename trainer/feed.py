"""Masked batches on their way to the model: made on a thread of their own, a few ahead.

Samples are masked in blocks whose random numbers follow from seed, step and number of the block alone. A process masks
the blocks that its rows lie in, so every sample is masked alike however many processes share a batch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.loader import Loader, Picks, part_of
from trainer.loss import by_head
from trainer.masking import Masked, Masker
from trainer.model import Model

AHEAD = 2


@dataclass(frozen=True)
class Item:
    """One step's work of one process. parts: batches as `forward_loss` takes them, on the CPU. count: (M,) targets of
    each stream in all parts. logits: how many the heads compute. state: of the loader after this step.
    """

    parts: list[dict[str, Any]]
    count: Tensor
    logits: int
    state: dict[str, Any]


class Feed:
    """Makes the items of one process, in order. rank, world: of the process; parts: of an accumulated batch."""

    def __init__(
        self, loader: Loader, masker: Masker, model: Model, seed: int, *, rank: int = 0, world: int = 1, parts: int = 1,
        block: int | None = None,
    ) -> None:  # fmt: skip
        self.loader, self.masker, self.model, self.seed = loader, masker, model, seed
        self.rank, self.world, self.parts = rank, world, parts
        self.block = block or max(1, loader.batch // (world * parts))
        self.step = 0
        self._thread: Ahead | None = None

    def make(self) -> Item:
        """The next step's item."""
        picks, batch = self.loader.plan(), self.loader.batch
        mine = part_of(batch, self.rank, self.world)
        rows = mine.stop - mine.start
        made = []
        for part in range(self.parts):
            inner = part_of(rows, part, self.parts)
            made.append(self._part(picks, slice(mine.start + inner.start, mine.start + inner.stop)))
        count = torch.zeros(len(self.masker.streams))
        for masked in made:
            real = masked.out_stream[masked.out_mask]
            count += torch.from_numpy(np.bincount(real, minlength=len(count))).float()
        item = Item([self._tensors(masked) for masked in made], count, 0, self.loader.state())
        vocab = list(self.model.vocab.values())
        logits = sum(n * v for part in item.parts for n, v in zip(part["heads"][1][1:], vocab, strict=True))
        self.step += 1
        return Item(item.parts, count, logits, item.state)

    def _part(self, picks: Picks, rows: slice) -> Masked:
        """Some rows of the batch, masked with the blocks they are of."""
        pieces = []
        for number in range(rows.start // self.block, -(-rows.stop // self.block)):
            at = slice(number * self.block, min(len(picks), (number + 1) * self.block))
            rng = np.random.default_rng([self.seed, self.step, number])
            masked = self.masker(self.loader.data.gather(picks[at]), rng, picks.source[at])
            pieces.append(masked[slice(max(0, rows.start - at.start), rows.stop - at.start)])
        return pieces[0] if len(pieces) == 1 else Masked.join(pieces)

    def _tensors(self, masked: Masked) -> dict[str, Any]:
        batch: dict[str, Any] = tensors(masked, torch.device("cpu"))
        batch["full"] = bool(masked.in_mask.all())
        batch["heads"] = by_head(self.model, batch["out_stream"], batch["out_mask"])
        return batch

    def next(self) -> Item:
        """The next item, made ahead."""
        if self._thread is None:
            self._thread = Ahead(self.make)
        return self._thread.get()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    def go_to(self, step: int, state: dict[str, Any]) -> None:
        """Go on with another step of the run. ConfigError where the state is of other data."""
        self.close()
        self.loader.restore(state)
        self.step = step


class Ahead:
    """Calls `make` on a thread, at most AHEAD times more than `get` was called. What it raises, `get` raises."""

    def __init__(self, make: Callable[[], Item]) -> None:
        self._make, self._stop = make, threading.Event()
        self._queue: queue.Queue[Item | BaseException] = queue.Queue(AHEAD)
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                made: Item | BaseException = self._make()
            except BaseException as error:
                made = error
            while not self._stop.is_set():
                try:
                    self._queue.put(made, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if isinstance(made, BaseException):
                return

    def get(self) -> Item:
        found = self._queue.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def tensors(masked: Masked, device: torch.device) -> dict[str, Any]:
    """What the model takes, by name; "values" where there are value streams: a tensor of each by name."""
    made: dict[str, Any] = {name: _tensor(array).to(device) for name, array in masked.arrays().items()}
    values = {name: _tensor(array).to(device) for name, array in masked.values.items()}
    return {**made, "values": values} if values else made


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def on(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch on a device; the sizes of its heads stay on the CPU."""
    if device.type == "cpu":
        return batch

    def moved(value: Tensor) -> Tensor:
        return value.pin_memory().to(device, non_blocking=True)

    order, sizes = batch["heads"]
    tokens = {k: moved(v) if isinstance(v, Tensor) else v for k, v in batch.items()}
    values = {"values": {k: moved(v) for k, v in batch["values"].items()}} if "values" in batch else {}
    return {**tokens, **values, "heads": (moved(order), sizes)}
