"""SAM's image encoder made faster: its attention without a table of all positions times all positions, in another number
format, compiled.

The package adds to each head's logits what the distance of two positions is worth, a value for their rows and one for
their columns, in tables of 4096 x 4096 that it goes through eight times a head. That sum is a product as well: a query
with its values for each row and each column behind it, times a key with a 1 at its own row and column behind it. On a
GPU the fused kernels, which never store the logits, then do all of it; a CPU goes through the table a few rows at a
time, so that they stay in its cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROWS = 512  # of the logits at once on a CPU
ALIGNED = 8  # fused kernels want the length of a query to be a multiple of it


def hasten(encoder: Any, precision: str, compiled: bool) -> None:
    """Another attention, number format, and compilation, for an encoder that lies on its device. What comes out is float32
    where it was before: answers are held against thresholds.
    """
    import torch

    own, dtype = encoder.pos_embed.dtype, getattr(torch, precision)
    if dtype != own:
        encoder.to(dtype)
        encoder.register_forward_pre_hook(lambda _, given: tuple(pixels.to(dtype) for pixels in given))
        encoder.register_forward_hook(lambda _module, _given, made: made.to(own))
    for block in encoder.blocks:
        side = block.window_size or encoder.pos_embed.shape[1]
        if len(block.attn.rel_pos_h) == 2 * side - 1 == len(block.attn.rel_pos_w):
            block.attn.forward = attention_of(block.attn, side)
    if compiled:
        encoder.forward = torch.compile(encoder.forward)


def attention_of(attention: Any, side: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward pass of an attention of the package over side x side positions: (b, side, side, c) -> the same."""
    import torch

    by_row, by_column = attention.rel_pos_h, attention.rel_pos_w
    place = torch.arange(side, device=by_row.device)
    distance = place[:, None] - place + side - 1
    by_row, by_column = by_row[distance], by_column[distance]  # (side of the query, side of the key, e)
    own = torch.eye(side, dtype=by_row.dtype, device=by_row.device)
    own = torch.cat([own.repeat_interleave(side, dim=0), own.repeat(side, 1)], dim=1)

    def forward(x: torch.Tensor) -> torch.Tensor:
        b, h, w, _ = x.shape
        q, k, v = attention.qkv(x).view(b, h * w, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        placed = q.reshape(b, attention.num_heads, h, w, -1)
        rows = torch.einsum("bnhwe,hke->bnhwk", placed, by_row).flatten(2, 3)
        columns = torch.einsum("bnhwe,wke->bnhwk", placed, by_column).flatten(2, 3)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            mixed = _few_rows(q * attention.scale, k, v, rows, columns)
        else:
            mixed = _fused(q * attention.scale, k, v, rows, columns, own)
        out: torch.Tensor = attention.proj(mixed.transpose(1, 2).reshape(b, h, w, -1))
        return out

    return forward


def _fused(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, own: torch.Tensor
) -> torch.Tensor:
    """q, k, v (b, n, p, e), rows and columns (b, n, p, side), own (p, 2 side) -> (b, n, p, e)."""
    import torch
    from torch.nn.functional import pad, scaled_dot_product_attention

    length = v.shape[-1]
    missing = -(length + own.shape[1]) % ALIGNED
    q = pad(torch.cat([q, rows, columns], dim=-1), (0, missing))
    k = pad(torch.cat([k, own.expand(*k.shape[:2], -1, -1)], dim=-1), (0, missing))
    if v.dtype != torch.float32:  # the fastest kernel, of half precision alone, wants values as long as queries
        v = pad(v, (0, q.shape[-1] - length))
    return scaled_dot_product_attention(q, k, v, scale=1.0)[..., :length]


def _few_rows(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """The same as `_fused`, head by head."""
    import torch

    made = torch.empty_like(v)
    for image in range(q.shape[0]):
        for head in range(q.shape[1]):
            at = (image, head)
            for start in range(0, q.shape[2], ROWS):
                some = slice(start, start + ROWS)
                logits = (rows[at][some, :, None] + columns[at][some, None, :]).flatten(1)
                logits.addmm_(q[at][some], k[at].T)
                made[at][some] = logits.softmax(dim=-1) @ v[at]
    return made
