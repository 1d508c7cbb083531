"""A published 4M model. The blocks are ours; what differs from `trainer.model.Model` is the tables around them.

Each modality has tables of its own: one for the encoder, one for the decoder, one for the head, and positions that may
be learned (global embeddings). Two kinds of input are no tokens: pixels (patches of 16 x 16, linear, no bias) and text
embeddings (linear). Everything else, from `encode` to `logits`, has the meaning it has in Model, so that generation
works with either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.blocks import Cache, DecoderBlock, EncoderBlock, Norm, sincos_1d, sincos_2d
from trainer.model import Size
from trainer.streams import Stream

TEXT_POSITIONS = 512  # length of a sequence's position table


@dataclass(frozen=True)
class Part:
    """One modality of a published model.

    key: its name in the checkpoint ("tok_depth@224"); alias: its name here, the same where empty. kind: that of a
    stream, or one of the two inputs that are no tokens. vocab: 0 for those. width: numbers in a raw value (pixels 768,
    T5 4096). learned: positions are weights. inputs, target: on which sides it exists.
    """

    key: str
    kind: Literal["image", "vector", "sequence", "pixels", "embeddings"]
    vocab: int
    length: int
    grid: tuple[int, int] | None = None
    width: int = 0
    learned: bool = False
    inputs: bool = True
    target: bool = True
    pairs: bool = False
    alias: str = ""

    @property
    def name(self) -> str:
        return self.alias or self.key

    def stream(self) -> Stream:
        """The same modality as generation and evaluation know it. ValueError for inputs that are no tokens."""
        if self.kind == "pixels" or self.kind == "embeddings":
            raise ValueError(f"{self.name} is an input of {self.kind}, and has no tokens")
        most = self.length - 2 if self.kind == "sequence" else self.length  # [SOS] and [EOS] take places too
        return Stream(self.name, self.kind, self.vocab, most, self.grid, self.pairs)


def patches(image: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> (B, patches, side * side * 3), each patch in the order row, column, channel."""
    cut = image.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def _positions(part: Part, dim: int) -> Tensor:
    if part.grid is not None:
        return sincos_2d(*part.grid, dim)
    return sincos_1d(part.length if part.kind == "vector" else TEXT_POSITIONS, dim)


class Side(nn.Module):
    """The tables of one side: `token` (all vocabularies one after another), `place` (positions, the same way)."""

    token_start: Tensor
    place_start: Tensor

    def __init__(self, parts: Sequence[Part], dim: int) -> None:
        super().__init__()
        self.token = nn.Embedding(max(1, sum(p.vocab for p in parts)), dim)
        tables = [_positions(part, dim) for part in parts]
        self.place = nn.Embedding.from_pretrained(torch.cat(tables), freeze=False)
        for name, sizes in (("token_start", [p.vocab for p in parts]), ("place_start", [len(t) for t in tables])):
            self.register_buffer(name, torch.tensor([0, *sizes]).cumsum(0)[:-1], persistent=False)

    def tokens_of(self, i: int, part: Part) -> Tensor:
        """The rows of one modality's vocabulary, to be filled or read."""
        start = int(self.token_start[i])
        return self.token.weight[start : start + part.vocab]

    def places_of(self, i: int, part: Part, dim: int) -> Tensor:
        start = int(self.place_start[i])
        return self.place.weight[start : start + len(_positions(part, dim))]


class FourM(nn.Module):
    """See the module. parts: in the order that stream indices mean, tokens first, then inputs that are no tokens."""

    causal: Tensor

    def __init__(self, parts: Sequence[Part], size: Size) -> None:
        super().__init__()
        dim = size.dim
        self.parts = tuple(sorted(parts, key=lambda p: p.vocab == 0))
        self.size = size
        self.streams = tuple(part.stream() for part in self.parts if part.vocab)
        self.index = {part.name: i for i, part in enumerate(self.parts)}
        self.inputs, self.outputs = Side(self.parts, dim), Side(self.parts, dim)
        self.modality = nn.Embedding(len(self.parts), dim)
        raw = {
            str(i): nn.Linear(p.width, dim, bias=p.kind == "embeddings") for i, p in enumerate(self.parts) if p.width
        }
        self.raw = nn.ModuleDict(raw)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.encoder = nn.ModuleList(EncoderBlock(dim, size.heads) for _ in range(size.encoder))
        self.encoder_norm, self.context_proj = Norm(dim), nn.Linear(dim, dim)
        self.decoder = nn.ModuleList(DecoderBlock(dim, size.heads) for _ in range(size.decoder))
        self.decoder_norm = Norm(dim)
        heads = {str(i): nn.Linear(dim, p.vocab, bias=False) for i, p in enumerate(self.parts) if p.vocab and p.target}
        self.heads = nn.ModuleDict(heads)
        self.names = [p.name for p in self.parts if p.vocab]
        self.table_of = list(range(len(self.names)))
        causal = torch.tensor([p.kind == "sequence" for p in self.parts])
        self.register_buffer("causal", causal, persistent=False)

    def encode(
        self, in_ids: Tensor, in_stream: Tensor, in_pos: Tensor, in_mask: Tensor, raw: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Context (B, n_in, d) and its mask, as Model.encode. raw: values of inputs that are no tokens, (B, length,
        width) by name; where in_stream names one, in_ids is the row of it to look at.
        """
        place = self.inputs.place(self.inputs.place_start[in_stream] + in_pos) + self.modality(in_stream)
        place = place * in_mask[..., None]
        vocab = torch.tensor([p.vocab for p in self.parts], device=in_ids.device)[in_stream]
        x = self.inputs.token(torch.where(vocab > 0, in_ids + self.inputs.token_start[in_stream], 0))
        x = x * (in_mask & (vocab > 0))[..., None]
        for name, values in (raw or {}).items():
            i = self.index[name]
            mine = in_mask & (in_stream == i)
            row, column = mine.nonzero(as_tuple=True)
            x[row, column] = self.raw[str(i)](values[row, in_ids[row, column]]).to(x.dtype)
        x = x + place
        mask = None
        if not bool(in_mask.all()):
            mask = (in_mask | ~in_mask.any(dim=1, keepdim=True))[:, None, None, :]
        for block in self.encoder:
            x = block(x, mask)
        return self.context_proj(self.encoder_norm(x)) + place, mask

    def decode(
        self, dec_ids: Tensor, out_stream: Tensor, out_pos: Tensor, out_mask: Tensor,
        context: Tensor, context_mask: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Hidden states (B, n_out, d), as Model.decode."""
        x = self.query(dec_ids, out_stream, out_pos, out_mask)
        stream = torch.where(out_mask, out_stream, -1)
        same = stream[:, :, None] == stream[:, None, :]
        before = out_pos[:, None, :] <= out_pos[:, :, None]
        mask = (same & (before | ~(self.causal[out_stream] & out_mask)[:, :, None]))[:, None]
        for block in self.decoder:
            x = block(x, mask, context, context_mask)
        return self.decoder_norm(x)

    def query(self, dec_ids: Tensor, stream: Tensor, position: Tensor, real: Tensor) -> Tensor:
        sequence = self.causal[stream]
        token = self.outputs.token(dec_ids + self.outputs.token_start[stream]) * (real & sequence)[..., None]
        place = self.outputs.place(self.outputs.place_start[stream] + position) + self.modality(stream)
        return token + self.mask_token * (~sequence)[..., None] + place

    def contexts(self, context: Tensor) -> list[Cache]:
        return [block.context(context) for block in self.decoder]  # type: ignore[operator]

    def step(
        self, x: Tensor, past: list[Cache] | None, contexts: list[Cache], context_mask: Tensor | None
    ) -> tuple[Tensor, list[Cache]]:
        grown: list[Cache] = []
        for i, block in enumerate(self.decoder):
            x, cache = block.step(x, past[i] if past else None, contexts[i], context_mask)  # type: ignore[operator]
            grown.append(cache)
        return self.decoder_norm(x), grown

    def logits(self, hidden: Tensor, name: str) -> Tensor:
        """Scores (..., vocab) of one modality. ValueError for one that is an input only."""
        head = str(self.index[name])
        if head not in self.heads:
            raise ValueError(f"{name}: the published model has no head for it; it is an input only")
        return self.heads[head](hidden)
