"""Operations with a backward pass of their own, which keep and move less than the ones they replace."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Gated(torch.autograd.Function):
    """silu(first half) * second half. Keeps its input alone, and writes its gradient once, whole."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        out = torch.empty_like(both)
        d_gate, d_up = out.chunk(2, dim=-1)
        share = torch.sigmoid(gate)
        silu = gate * share
        torch.mul(grads[0], silu, out=d_up)
        # The derivative of silu(x) = x s is s + x s (1 - s).
        share += silu * (1 - share)
        torch.mul(share.mul_(up), grads[0], out=d_gate)
        return out


def gated(both: Tensor) -> Tensor:
    """SwiGLU's activation of (..., 2 h): (..., h)."""
    if torch.is_grad_enabled() and both.requires_grad and not torch.compiler.is_compiling():
        found: Tensor = _Gated.apply(both)
        return found
    gate, up = both.chunk(2, dim=-1)
    return F.silu(gate) * up


class _Attention(torch.autograd.Function):
    """Attention by plain products that keeps its weights: on a CPU in bfloat16 twice as fast as the fused kernel.

    q: (B, H, T, D), k, v: (B, H, S, D), hide: broadcastable to (B, H, T, S), True where a query may not look.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, hide: Tensor | None) -> Tensor:
        batch, heads, rows, dim = ctx.shape = q.shape
        q, k, v = (a.reshape(batch * heads, -1, dim) for a in (q, k, v))
        score = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=dim**-0.5)
        if hide is not None:
            score.view(batch, heads, rows, -1).masked_fill_(hide, torch.finfo(score.dtype).min)
        weight = torch.softmax(score, dim=-1)
        ctx.save_for_backward(q, k, v, weight)
        return torch.bmm(weight, v).view(batch, heads, rows, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, weight = ctx.saved_tensors
        batch, heads, rows, dim = ctx.shape
        out = grads[0].reshape(batch * heads, rows, dim)
        d_weight = torch.bmm(out, v.transpose(1, 2))
        d_score = torch._softmax_backward_data(d_weight, weight, -1, weight.dtype)
        nothing = q.new_empty(1, 1, 1)
        d_q = torch.baddbmm(nothing, d_score, k, beta=0, alpha=dim**-0.5)
        d_k = torch.baddbmm(nothing, d_score.transpose(1, 2), q, beta=0, alpha=dim**-0.5)
        d_v = torch.bmm(weight.transpose(1, 2), out)
        return d_q.view(ctx.shape), d_k.view(batch, heads, -1, dim), d_v.view(batch, heads, -1, dim), None


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """scaled_dot_product_attention. mask: broadcastable to (B, H, T, S), True where a query may look; None: everywhere."""
    plain = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.compiler.is_compiling()
    if plain and torch.is_grad_enabled() and q.requires_grad:
        found: Tensor = _Attention.apply(q, k, v, None if mask is None else ~mask)
        return found
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
