"""Predicts one stream from others: image-like streams in a few rounds, most confident tokens first (MaskGIT) or in
random order (ROAR); sequences token by token, with cached keys and values.

Every round encodes what is known so far, revealed tokens included, and decodes the positions that are still open only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from trainer import checkpoint
from trainer.model import Model
from trainer.streams import EOS, PAD, SOS, Stream

Ids = np.ndarray
Given = Mapping[str, Sequence[Ids | None] | Ids]


class Predictor:
    """A trained model that predicts. record: the checkpoint's train.json."""

    def __init__(self, model: Model, record: dict[str, Any]) -> None:
        self.model, self.record = model.eval(), record
        self.device = next(model.parameters()).device
        self.streams = {s.name: (i, s) for i, s in enumerate(model.streams)}

    @staticmethod
    def load(folder: Path) -> Predictor:
        """From a checkpoint folder. ConfigError where there is none, DamageError where it is damaged."""
        model, record = checkpoint.load_model(folder)
        return Predictor(model.to("cuda" if torch.cuda.is_available() else "cpu"), record)

    def stream(self, name: str) -> tuple[int, Stream]:
        if name not in self.streams:
            raise ConfigError(f"{name}: the model was not trained on it. It knows: {', '.join(self.streams)}.")
        return self.streams[name]

    @torch.inference_mode()
    def predict(
        self, given: Given, target: str, *, steps: int = 8, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0,
        order: Literal["maskgit", "roar"] = "maskgit", allowed: Ids | None = None,
    ) -> Ids | list[Ids]:  # fmt: skip
        """Tokens of `target` for a batch of samples.

        given: stream -> for each sample its uint16 tokens, or None where it lacks them; at least one stream, for the
        batch size. temperature 0 takes the likeliest token. top_p: nucleus. allowed: ids that may be written, all where
        None. Returns uint16 (B, tokens), or for sequences a list of ragged uint16 arrays without [SOS] and [EOS].
        ConfigError for unknown streams, ValueError for ids outside a vocabulary and for another number of them than a
        sample has.
        """
        index, stream = self.stream(target)
        rows = self._rows(given)
        generator = torch.Generator().manual_seed(seed)
        pick = Picker(temperature, top_p, generator, self._allowed(stream, allowed))
        if stream.kind == "sequence":
            return self._sequence(rows, index, stream, pick)
        return self._grid(rows, index, stream, steps, order, pick)

    @torch.inference_mode()
    def complete(self, name: str, tokens: Ids, shown: Ids, steps: int = 8) -> Ids:
        """Fill in one image-like stream from some of its own tokens: tokens uint16 (B, T), shown: positions that count
        as known. Returns (B, T), the shown ones unchanged.
        """
        index, stream = self.stream(name)
        known = np.zeros(tokens.shape, bool)
        known[:, shown] = True
        pick = Picker(0.0, 1.0, torch.Generator(), None)
        return self._grid(
            [[] for _ in tokens], index, stream, steps, "maskgit", pick, np.where(known, tokens, 0), known
        )

    def _allowed(self, stream: Stream, ids: Ids | None) -> Tensor | None:
        if ids is None:
            return None
        mask = torch.zeros(stream.vocab, dtype=torch.bool, device=self.device)
        mask[torch.as_tensor(ids.astype(np.int64), device=self.device)] = True
        return mask

    def _rows(self, given: Given) -> list[list[tuple[int, Ids]]]:
        """For each sample the (stream index, tokens) it shows."""
        if not given:
            raise ConfigError("predict: nothing is given; name at least one stream to predict from")
        size = len(next(iter(given.values())))
        rows: list[list[tuple[int, Ids]]] = [[] for _ in range(size)]
        for name, samples in given.items():
            index, stream = self.stream(name)
            for row, ids in zip(rows, samples, strict=True):
                if ids is None:
                    continue
                wrong = len(ids) > stream.length if stream.kind == "sequence" else len(ids) != stream.length
                if wrong:  # a position beyond the stream's would be one of the next stream's
                    most = "at most " if stream.kind == "sequence" else ""
                    raise ValueError(f"{name}: {len(ids)} tokens where a sample has {most}{stream.length}")
                if len(ids) and int(ids.max()) >= stream.vocab:
                    raise ValueError(f"{name}: token {int(ids.max())} is outside its vocabulary of {stream.vocab}")
                row.append((index, ids))
        return rows

    def _encode(self, rows: Sequence[Sequence[tuple[int, Ids, Ids]]]) -> tuple[Tensor, Tensor | None]:
        """Context of samples, each a list of (stream index, positions, tokens)."""
        width = max(1, *(sum(len(ids) for _, _, ids in row) for row in rows)) if rows else 1
        ids, stream, pos = (np.zeros((len(rows), width), np.int64) for _ in range(3))
        mask = np.zeros((len(rows), width), bool)
        for r, row in enumerate(rows):
            at = 0
            for index, places, values in row:
                part = slice(at, at + len(values))
                ids[r, part], stream[r, part], pos[r, part], mask[r, part] = values, index, places, True
                at += len(values)
        return self.model.encode(*(torch.from_numpy(a).to(self.device) for a in (ids, stream, pos, mask)))

    def _grid(
        self, rows: list[list[tuple[int, Ids]]], index: int, stream: Stream, steps: int, order: str, pick: Picker,
        out: Ids | None = None, known: Ids | None = None,
    ) -> Ids:  # fmt: skip
        """Fixed slots: in each of `steps` rounds the open positions are predicted, and an equal share of them is kept.

        out, known: tokens that are there already, the same number in every row.
        """
        batch, length = len(rows), stream.length
        out = np.zeros((batch, length), np.uint16) if out is None else out.astype(np.uint16)
        known = np.zeros((batch, length), bool) if known is None else known
        if not batch:
            return out
        start = int(known[0].sum())
        steps = max(1, min(steps, length - start))
        for step in range(steps):
            shown = [
                [*((i, np.arange(len(ids)), ids) for i, ids in row if i != index), (index, np.flatnonzero(k), o[k])]
                for row, k, o in zip(rows, known, out, strict=True)
            ]
            context, mask = self._encode(shown)
            open_at = np.stack([np.flatnonzero(~k) for k in known])  # the same number in every row
            count = open_at.shape[1]
            place = torch.from_numpy(open_at).to(self.device)
            which = torch.full_like(place, index)
            hidden = self.model.decode(
                torch.zeros_like(place), which, place, torch.ones_like(place, dtype=torch.bool), context, mask
            )
            chosen, sure = pick(self.model.logits(hidden, stream.table))
            keep = (
                count
                if step == steps - 1
                else max(1, round((length - start) * (step + 1) / steps) - (length - start - count))
            )
            rank = torch.rand(sure.shape, generator=pick.generator).to(sure) if order == "roar" else sure
            best = rank.topk(keep, dim=1).indices.cpu().numpy()
            for r in range(batch):
                at = open_at[r, best[r]]
                out[r, at], known[r, at] = chosen[r].cpu().numpy()[best[r]], True
        return out

    def _sequence(self, rows: list[list[tuple[int, Ids]]], index: int, stream: Stream, pick: Picker) -> list[Ids]:
        """Token by token from [SOS] to [EOS], or to the most the stream can have."""
        context, mask = self._encode([[(i, np.arange(len(ids)), ids) for i, ids in row] for row in rows])
        contexts, past = self.model.contexts(context), None
        batch = len(rows)
        last = torch.full((batch, 1), SOS, device=self.device)
        which = torch.full((batch, 1), index, device=self.device)
        real = torch.ones((batch, 1), dtype=torch.bool, device=self.device)
        done = torch.zeros(batch, dtype=torch.bool, device=self.device)
        written: list[Tensor] = []
        for at in range(stream.length + 1):
            x = self.model.query(last, which, torch.full((batch, 1), at, device=self.device), real)
            hidden, past = self.model.step(x, past, contexts, mask)
            token = pick(self.model.logits(hidden, stream.table))[0]
            token = torch.where(done[:, None], PAD, token)
            done = done | (token[:, 0] == EOS)
            written.append(token)
            last = token
            if bool(done.all()):
                break
        table = torch.cat(written, dim=1).cpu().numpy()
        return [np.array([t for t in row if t not in (EOS, PAD, SOS)], np.uint16)[: stream.length] for row in table]


class Picker:
    """Chooses tokens from logits (..., vocab): (ids, log-probability of each)."""

    def __init__(self, temperature: float, top_p: float, generator: torch.Generator, allowed: Tensor | None) -> None:
        if temperature < 0 or not 0 < top_p <= 1:
            raise ConfigError(f"temperature {temperature} must be at least 0, and top_p {top_p} in (0, 1]")
        self.temperature, self.top_p, self.generator, self.allowed = temperature, top_p, generator, allowed

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits.float()
        if self.allowed is not None:
            logits = logits.masked_fill(~self.allowed, -torch.inf)
        log = torch.log_softmax(logits, dim=-1)
        if self.temperature == 0:
            sure, ids = log.max(dim=-1)
            return ids, sure
        share = torch.softmax(logits / self.temperature, dim=-1)
        if self.top_p < 1:
            value, order = share.sort(dim=-1, descending=True)
            value = value.masked_fill(value.cumsum(-1) - value > self.top_p, 0.0)
            share = torch.zeros_like(share).scatter(-1, order, value)
        flat = share.reshape(-1, share.shape[-1]).cpu()
        ids = torch.multinomial(flat, 1, generator=self.generator).to(logits.device).reshape(share.shape[:-1])
        return ids, log.gather(-1, ids[..., None])[..., 0]
