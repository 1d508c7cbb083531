"""The any-to-any model: an encoder over the visible tokens of all modalities, a decoder that predicts the hidden ones.

The architecture of 4M-21. What differs by default, and is as published where a stream says so: all sequence modalities
share one text table and one output head, and the positions of vectors are sin-cos too. Only picked tokens are embedded:
arrays have the static shapes of the budgets, whatever the number of modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.blocks import Cache, DecoderBlock, EncoderBlock, Norm, sincos_1d, sincos_2d
from trainer.grouped import Groups, groups_of
from trainer.lean import additive, product_dtype, rows
from trainer.streams import Stream, tables


@dataclass(frozen=True)
class Size:
    """encoder, decoder: blocks of each. dim: width; heads: dim / 64."""

    encoder: int
    decoder: int
    dim: int
    heads: int


SIZES = {
    "micro": Size(4, 4, 192, 3),  # for a laptop
    "tiny": Size(6, 6, 384, 6),
    "S": Size(8, 8, 512, 8),
    "B": Size(12, 12, 768, 12),
    "L": Size(24, 24, 1024, 16),
    "XL": Size(24, 24, 2048, 32),
}


class Model(nn.Module):
    """See the module. streams: in the order that stream indices mean. tied: heads use the embedding tables."""

    positions: Tensor
    position_start: Tensor
    causal: Tensor
    table_start: Tensor
    recompute = False  # activations of the blocks are recomputed in the backward pass, not kept
    adds = False  # gradients of tables and heads are added to those that are there, see `rows`
    compiled = False  # the blocks are compiled, and want static shapes

    def __init__(self, streams: Sequence[Stream], size: Size, tied: bool = False) -> None:
        super().__init__()
        self.streams, self.size, dim = tuple(streams), size, size.dim
        self.vocab = tables(streams)
        self.names = list(self.vocab)
        self.table = nn.Embedding(sum(self.vocab.values()), dim)  # all tables in one: one lookup embeds any mix
        self.modality = nn.Embedding(len(streams), dim)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        learned = [s for s in self.streams if s.learned]
        self.learned_in, self.learned_out = (
            nn.ParameterDict({s.name: nn.Parameter(torch.zeros(s.positions, dim)) for s in learned}) for _ in range(2)
        )
        self.inputs = nn.ModuleDict(
            {s.name: nn.Linear(s.width, dim, bias=s.kind == "embedding") for s in self.streams if s.values}
        )
        self.encoder = nn.ModuleList(EncoderBlock(dim, size.heads) for _ in range(size.encoder))
        self.encoder_norm, self.context_proj = Norm(dim), nn.Linear(dim, dim)
        self.decoder = nn.ModuleList(DecoderBlock(dim, size.heads) for _ in range(size.decoder))
        self.decoder_norm = Norm(dim)
        heads = {} if tied else {name: nn.Linear(dim, vocab, bias=False) for name, vocab in self.vocab.items()}
        self.heads = nn.ModuleDict(heads)
        self.table_of = [-1 if s.values else self.names.index(s.table) for s in self.streams]
        for name, value in self.fixed_tables().items():
            self.register_buffer(name, value, persistent=False)
        self.apply(_init)
        for parameter in (self.mask_token, *self.learned_in.values(), *self.learned_out.values()):
            nn.init.normal_(parameter, std=0.02)

    def fixed_tables(self) -> dict[str, Tensor]:
        """Positions of all streams in one table, where each begins in it, which streams are causal, and where the
        tokens of each begin in the table. Recomputed, never saved.
        """
        made = [
            sincos_2d(*s.grid, self.size.dim) if s.grid else sincos_1d(s.positions, self.size.dim) for s in self.streams
        ]
        first = [0, 0, *accumulate(self.vocab.values())]  # value streams, table -1, begin at 0
        return {
            "positions": torch.cat(made),
            "position_start": torch.tensor([0, *(len(table) for table in made)]).cumsum(0)[:-1],
            "causal": torch.tensor([s.kind == "sequence" for s in self.streams]),
            "table_start": torch.tensor([first[table + 1] for table in self.table_of]),
        }

    def trunk_parameters(self) -> int:
        """Parameters of the two stacks of blocks, the figure publications give."""
        return sum(p.numel() for stack in (self.encoder, self.decoder) for p in stack.parameters())

    def place(self, stream: Tensor, position: Tensor, learned: nn.ParameterDict | None = None) -> Tensor:
        """Position vector + modality vector: (B, T, d). learned: the learned positions of the side (the decoder's)."""
        place = self.positions[self.position_start[stream] + position]
        for name, table in (self.learned_out if learned is None else learned).items():
            mine = stream == next(i for i, s in enumerate(self.streams) if s.name == name)
            place = torch.where(mine[..., None], table[torch.where(mine, position, 0)], place)
        return place + self.modality(stream)

    def embed(self, ids: Tensor, stream: Tensor, real: Tensor) -> Tensor:
        """Rows of the tables for tokens (B, T); zero where not `real`. One lookup for all streams."""
        at = ids + self.table_start[stream]
        adds = self.adds and torch.is_grad_enabled() and self.table.weight.requires_grad
        return (rows(self.table.weight, at) if adds else self.table(at)) * real[..., None]

    def embed_both(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """`tokens` of encode and decode by one lookup, so that the table has one gradient, not two to be added up."""
        real = torch.cat([batch["in_mask"], batch["out_mask"] & self.causal[batch["out_stream"]]], dim=1)
        ids, stream = (
            torch.cat([batch[a], batch[b]], dim=1) for a, b in (("in_ids", "dec_ids"), ("in_stream", "out_stream"))
        )
        split = batch["in_ids"].shape[1], batch["dec_ids"].shape[1]
        inputs, given = self.embed(ids, stream, real).split(split, dim=1)
        return inputs, given

    def embed_values(
        self, x: Tensor, ids: Tensor, stream: Tensor, real: Tensor, values: Mapping[str, Tensor]
    ) -> Tensor:
        """x with the tokens of value streams replaced: token id i stands for row i of values[name] (B, L, width)."""
        for index, s in enumerate(self.streams):
            if s.values and s.name in values:
                mine = (stream == index) & real
                rows = torch.where(mine, ids, 0)[..., None].expand(-1, -1, s.width)
                given = values[s.name].gather(1, rows).to(x.dtype)  # they are stored as float16
                x = torch.where(mine[..., None], self.inputs[s.name](given), x)
        return x

    def encode(
        self, in_ids: Tensor, in_stream: Tensor, in_pos: Tensor, in_mask: Tensor, *,
        values: Mapping[str, Tensor] | None = None, full: bool | None = None, tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Context (B, n_in, d) for the decoder, and the mask of who may be looked at (None: everyone).

        values: (B, L, width) of each value stream. full: whether every token is real; None looks, which makes a GPU
        wait. tokens: of `embed`, where that was done before.
        """
        place = self.place(in_stream, in_pos, self.learned_in) * in_mask[..., None]
        x = self.embed(in_ids, in_stream, in_mask) if tokens is None else tokens
        if values:
            x = self.embed_values(x, in_ids, in_stream, in_mask, values)
        x = x + place
        mask = None
        if not (bool(in_mask.all()) if full is None else full):
            # A sample that shows nothing looks at its padding: zeros stay zeros through every block, and say nothing.
            mask = (in_mask | ~in_mask.any(dim=1, keepdim=True))[:, None, None, :]
        look = additive(mask, x)
        for block in self.encoder:
            x = self._run(block, x, look)
        return self.context_proj(self.encoder_norm(x)) + place, mask

    def _run(self, block: nn.Module, *given: Any) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            kept: Tensor = checkpoint(block, *given, use_reentrant=False)
            return kept
        return block(*given)

    def decode(
        self, dec_ids: Tensor, out_stream: Tensor, out_pos: Tensor, out_mask: Tensor,
        context: Tensor, context_mask: Tensor | None, *, tokens: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Hidden states (B, n_out, d) from which each target is predicted. tokens: as in `encode`."""
        x = self.query(dec_ids, out_stream, out_pos, out_mask, tokens)
        look, context_look = self._within(out_stream, out_pos, out_mask, x), additive(context_mask, x)
        for block in self.decoder:
            x = self._run(block, x, look, context, context_look)
        return self.decoder_norm(x)

    def _within(self, stream: Tensor, position: Tensor, real: Tensor, x: Tensor) -> Tensor | Groups | None:
        """Who looks at whom among the targets x: those of one stream of one sample, in sequences at none after."""
        causal, stream = self.causal[stream] & real, torch.where(real, stream, len(self.streams))
        if x.device.type == "cpu" and not (self.compiled or torch.compiler.is_compiling()):
            sample = torch.arange(len(stream))[:, None] * (len(self.streams) + 1)
            flat = ((sample + stream).flatten(), position.flatten(), causal.flatten())
            return groups_of(*flat, self.size.heads, product_dtype(x))
        same = stream[:, :, None] == stream[:, None, :]
        before = position[:, None, :] <= position[:, :, None]
        return additive((same & (before | ~causal[:, :, None]))[:, None], x)

    def query(
        self, dec_ids: Tensor, stream: Tensor, position: Tensor, real: Tensor, tokens: Tensor | None = None
    ) -> Tensor:
        """The decoder's input: the symbol before in a sequence, the mask token elsewhere, with its place."""
        sequence = self.causal[stream]
        token = self.embed(dec_ids, stream, real & sequence) if tokens is None else tokens
        return token + self.mask_token * (~sequence)[..., None] + self.place(stream, position)

    def contexts(self, context: Tensor) -> list[Cache]:
        return [block.context(context) for block in self.decoder]  # type: ignore[operator]

    def step(
        self, x: Tensor, past: list[Cache] | None, contexts: list[Cache], context_mask: Tensor | None
    ) -> tuple[Tensor, list[Cache]]:
        """One more position of one sequence stream: x (B, 1, d) from `query`; hidden state and the grown cache."""
        grown: list[Cache] = []
        for i, block in enumerate(self.decoder):
            x, cache = block.step(x, past[i] if past else None, contexts[i], context_mask)  # type: ignore[operator]
            grown.append(cache)
        return self.decoder_norm(x), grown

    def logits(self, hidden: Tensor, table: str) -> Tensor:
        """Scores (..., vocab) of the tokens of one table."""
        if self.heads:
            return self.heads[table](hidden)
        return nn.functional.linear(hidden, self.head_weights()[table])

    def head_weights(self) -> dict[str, Tensor]:
        """The matrix (vocab, d) of each output head."""
        if self.heads:
            return {name: head.weight for name, head in self.heads.items()}  # type: ignore[misc]
        return dict(zip(self.names, self.table.weight.split(list(self.vocab.values())), strict=True))


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
