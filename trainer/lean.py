"""Operations with a backward pass of their own, which keep and move less than the ones they replace."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Bytes of an intermediate result that are made and used at a time. A call of a product of short floats costs more.
CACHE, SHORT_CACHE = 1 << 20, 1 << 21


class _SwiGLU(torch.autograd.Function):
    """down (silu(a) * b), where gate_up x is a above b. Keeps x and gate_up x; on a CPU it takes as many rows at a time
    as stay in its cache.

    x: (R, d), gate_up: (2 h, d), down: (d, h), all of one dtype.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        out, kept, parts = torch.empty_like(x), [], _parts(x, len(gate_up))
        scratch = x.new_empty(len(x[parts[0]]), down.shape[1])
        for part in parts:
            kept.append(x[part] @ gate_up.T)
            gate, up = kept[-1].chunk(2, dim=-1)
            active = scratch[: len(gate)]
            torch.ops.aten.silu.out(gate, out=active)
            torch.mm(active.mul_(up), down.T, out=out[part])
        ctx.save_for_backward(x, gate_up, down, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, gate_up, down, *kept = ctx.saved_tensors
        out = grads[0]
        d_x, d_gate_up, d_down = torch.empty_like(x), None, None
        scratch = x.new_empty(2, len(kept[0]), down.shape[1]), torch.empty_like(kept[0])
        for part, both in zip(_parts(x, len(gate_up)), kept, strict=True):
            (silu, d_active), d_both = scratch[0][:, : len(both)], scratch[1][: len(both)]
            (gate, up), (d_gate, d_up) = both.chunk(2, dim=-1), d_both.chunk(2, dim=-1)
            torch.mm(out[part], down, out=d_active)
            torch.ops.aten.silu.out(gate, out=silu)
            torch.mul(d_active, silu, out=d_up)
            d_down = add_product(d_down, out[part], silu.mul_(up))
            torch.ops.aten.silu_backward.grad_input(d_active.mul_(up), gate, grad_input=d_gate)
            torch.mm(d_both, gate_up, out=d_x[part])
            d_gate_up = add_product(d_gate_up, x[part], d_both)  # of its transpose: a tenth faster than the other way
        assert d_gate_up is not None and d_down is not None  # there is at least one part
        return d_x, d_gate_up.to(x.dtype).T.contiguous(), d_down.to(x.dtype)


def _parts(rows: Tensor, width: int) -> list[slice]:
    """Rows of a matrix to take at a time, where `width` numbers are made of each."""
    cache = SHORT_CACHE if rows.itemsize < 4 else CACHE
    step = len(rows) if rows.device.type != "cpu" else max(1, cache // (width * rows.itemsize))
    return [slice(at, at + step) for at in range(0, max(1, len(rows)), max(1, step))]


def add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """total + left^T right, in place; the sum of several is float32, or wider."""
    if total is None:
        return left.T @ right
    if left.dtype == total.dtype and left.dtype.itemsize >= 4:
        return total.addmm_(left.T, right)
    wide = total.float()
    add_to(wide, left.T @ right)
    return wide


def add_to(total: Tensor, more: Tensor) -> None:
    """total + more, in place. Of another dtype only some rows are converted at a time, which stay in the cache."""
    if total.dtype == more.dtype or total.device.type != "cpu":
        total.add_(more)
        return
    rows = max(1, CACHE // (total.itemsize * max(1, total[:1].numel())))
    for some, others in zip(total.split(rows), more.split(rows), strict=True):
        some.add_(others)


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """down (silu(a) * b), where gate_up x is a above b. x: (..., d), in the dtype of the products."""
    if torch.is_grad_enabled() and gate_up.requires_grad and not torch.compiler.is_compiling():
        found: Tensor = _SwiGLU.apply(x.flatten(0, -2), gate_up.to(x.dtype), down.to(x.dtype))
        return found.view(x.shape)
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down)


class _Rows(torch.autograd.Function):
    """Rows of a table (V, d), (..., d). Its gradient is added to the one that the table has, where there is one."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(ids)
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        (ids,), table = ctx.saved_tensors, ctx.table
        total = torch.zeros_like(table) if table.grad is None else table.grad
        total.index_add_(0, ids.flatten(), grads[0].reshape(-1, table.shape[1]))
        return total if table.grad is None else None, None


def rows(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table (V, d), a parameter; (..., d). Its gradient is added to table.grad behind autograd's back, which saves
    a gradient of all rows: not where something waits for it, as DDP and FSDP do.
    """
    found: Tensor = _Rows.apply(table, ids)
    return found


class _Attention(torch.autograd.Function):
    """Attention by plain products that keeps its weights: on a CPU in bfloat16 twice as fast as the fused kernel.

    q: (B, H, T, D), k, v: (B, H, S, D), bias: broadcastable to (B, H, T, S), see `additive`.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        batch, heads, rows, dim = ctx.shape = q.shape
        q, k, v = (a.reshape(batch * heads, -1, dim) for a in (q, k, v))
        score = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=dim**-0.5)
        if bias is not None:
            score.view(batch, heads, rows, -1).add_(bias)
        weight = torch.softmax(score, dim=-1, out=score)
        ctx.save_for_backward(q, k, v, weight)
        return torch.bmm(weight, v).view(batch, heads, rows, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, weight = ctx.saved_tensors
        batch, heads, rows, dim = ctx.shape
        out = grads[0].reshape(batch * heads, rows, dim)
        d_score = torch.bmm(out, v.transpose(1, 2))  # of the weights, then of the scores
        torch.ops.aten._softmax_backward_data.out(d_score, weight, -1, weight.dtype, grad_input=d_score)
        nothing = q.new_empty(1, 1, 1)
        d_q = torch.baddbmm(nothing, d_score, k, beta=0, alpha=dim**-0.5)
        d_k = torch.baddbmm(nothing, d_score.transpose(1, 2), q, beta=0, alpha=dim**-0.5)
        d_v = torch.bmm(weight.transpose(1, 2), out)
        return d_q.view(ctx.shape), d_k.view(batch, heads, -1, dim), d_v.view(batch, heads, -1, dim), None


def additive(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """What is added to the scores of x, for a mask that is True where a query may look: 0 there, the lowest number
    elsewhere. On a CPU several blocks share the one that is made here; kernels of a GPU take the mask itself.
    """
    device = x.device.type
    if mask is None or mask.is_floating_point() or device != "cpu" or torch.compiler.is_compiling():
        return mask
    dtype = product_dtype(x)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def product_dtype(x: Tensor) -> torch.dtype:
    """What products of x are computed in."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """scaled_dot_product_attention. mask: broadcastable to (B, H, T, S), True where a query may look, or what is added to
    the scores; None: everywhere.
    """
    plain = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.compiler.is_compiling()
    if plain and torch.is_grad_enabled() and q.requires_grad:
        found: Tensor = _Attention.apply(q, k, v, additive(mask, q))
        return found
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
