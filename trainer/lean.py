"""Operations with a backward pass of their own, which keep and move less than the ones they replace."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CACHE = 1 << 21  # bytes of an intermediate result that are made and used at a time


class _SwiGLU(torch.autograd.Function):
    """down (silu(a) * b), where gate_up x is a above b. Keeps x and gate_up x; on a CPU it takes as many rows at a time
    as stay in its cache.

    x: (R, d), gate_up: (2 h, d), down: (d, h), all of one dtype.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        both, out = x.new_empty(len(x), len(gate_up)), torch.empty_like(x)
        for part in _parts(both):
            torch.mm(x[part], gate_up.T, out=both[part])
            gate, up = both[part].chunk(2, dim=-1)
            torch.mm(F.silu(gate).mul_(up), down.T, out=out[part])
        ctx.save_for_backward(x, gate_up, down, both)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, gate_up, down, both = ctx.saved_tensors
        out = grads[0]
        d_x, d_both, active = torch.empty_like(x), torch.empty_like(both), x.new_empty(len(x), down.shape[1])
        for part in _parts(both):
            (gate, up), (d_gate, d_up) = both[part].chunk(2, dim=-1), d_both[part].chunk(2, dim=-1)
            d_active = out[part] @ down
            silu = torch.ops.aten.silu.out(gate, out=active[part])
            torch.mul(d_active, silu, out=d_up)
            silu.mul_(up)
            torch.ops.aten.silu_backward.grad_input(d_active.mul_(up), gate, grad_input=d_gate)
            torch.mm(d_both[part], gate_up, out=d_x[part])
        return d_x, d_both.T @ x, out.T @ active


def _parts(rows: Tensor) -> list[slice]:
    """Rows of a matrix to take at a time."""
    step = len(rows) if rows.device.type != "cpu" else max(1, CACHE // (rows.shape[1] * rows.itemsize))
    return [slice(at, at + step) for at in range(0, len(rows), max(1, step))]


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """down (silu(a) * b), where gate_up x is a above b. x: (..., d), in the dtype of the products."""
    if torch.is_grad_enabled() and gate_up.requires_grad and not torch.compiler.is_compiling():
        found: Tensor = _SwiGLU.apply(x.flatten(0, -2), gate_up.to(x.dtype), down.to(x.dtype))
        return found.view(x.shape)
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down)


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
