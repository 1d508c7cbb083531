"""Transformer blocks of the 4M model: pre-norm, SwiGLU, no biases, fixed sin-cos positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.grouped import Groups, grouped
from trainer.lean import attention, swiglu

Cache = tuple[Tensor, Tensor]  # keys, values: (B, heads, T, head)


class Norm(nn.LayerNorm):
    """Layer norm without bias, eps 1e-6. Computed in float32; under autocast its result is cast once, for all who read
    it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = super().forward(x)
        device = x.device.type
        return normed.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else normed


class SwiGLU(nn.Module):
    """fc2(silu(fc1 x) * fc3 x), hidden size 2/3 of 4 d."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = int(2 * 4 * dim / 3)
        self.gate_up = nn.Linear(dim, 2 * self.hidden, bias=False)  # fc1 and fc3 in one product
        self.down = nn.Linear(self.hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return swiglu(x, self.gate_up.weight, self.down.weight)


class Attention(nn.Module):
    """Multi-head attention of x (B, T, d) over itself, or over a context (B, S, d)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, context: Tensor) -> Cache:
        keys, values = self.kv(context).chunk(2, dim=-1)
        return self._heads(keys), self._heads(values)

    def attend(self, x: Tensor, cache: Cache, mask: Tensor | None) -> Tensor:
        """mask: broadcastable to (B, heads, T, S), True where a query may look; None: everywhere."""
        out = attention(self._heads(self.q(x)), *cache, mask)
        return self.proj(out.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | Groups | None) -> Tensor:
        """mask: as in `attend`, or the groups within which x looks at itself."""
        if isinstance(mask, Groups):
            return self.proj(grouped(self.q(x), self.kv(context), mask, self.heads))
        return self.attend(x, self.keys_values(context), mask)


class EncoderBlock(nn.Module):
    """Self-attention over all visible tokens, then the MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = Norm(dim), Attention(dim, heads)
        self.norm2, self.mlp = Norm(dim), SwiGLU(dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn(normed, normed, mask)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Self-attention within a modality, cross-attention over the visible tokens, then the MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.self_attn = Norm(dim), Attention(dim, heads)
        self.query_norm, self.context_norm = Norm(dim), Norm(dim)
        self.cross_attn = Attention(dim, heads)
        self.norm2, self.mlp = Norm(dim), SwiGLU(dim)

    def forward(self, x: Tensor, mask: Tensor | Groups | None, context: Tensor, context_mask: Tensor | None) -> Tensor:
        normed = self.norm1(x)
        x = x + self.self_attn(normed, normed, mask)
        x = x + self.cross_attn(self.query_norm(x), self.context_norm(context), context_mask)
        return x + self.mlp(self.norm2(x))

    def context(self, context: Tensor) -> Cache:
        """The keys and values of the visible tokens, which stay the same while a sequence grows."""
        return self.cross_attn.keys_values(self.context_norm(context))

    def step(self, x: Tensor, past: Cache | None, context: Cache, context_mask: Tensor | None) -> tuple[Tensor, Cache]:
        """One more position of a causal sequence: x (B, 1, d) and the keys and values of those before it."""
        normed = self.norm1(x)
        keys, values = self.self_attn.keys_values(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        x = x + self.self_attn.attend(normed, (keys, values), None)
        x = x + self.cross_attn.attend(self.query_norm(x), context, context_mask)
        return x + self.mlp(self.norm2(x)), (keys, values)


def sincos_1d(length: int, dim: int) -> Tensor:
    """(length, dim): d/2 frequencies 10000^(-k/(d/2)), [sin, cos]."""
    half = dim // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10000.0) / half))
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def sincos_2d(rows: int, columns: int, dim: int) -> Tensor:
    """(rows * columns, dim), row-major: [sin row, cos row, sin column, cos column], d/4 frequencies each."""
    row = sincos_1d(rows, dim // 2).repeat_interleave(columns, dim=0)
    column = sincos_1d(columns, dim // 2).repeat(rows, 1)
    return torch.cat([row, column], dim=1)
