"""Cross-entropy of each stream on its own targets: no head ever computes logits of rows that are not its own.

Logits are made, used and dropped a few rows at a time, the gradient with them, so that memory does not grow with the
vocabularies. Every head takes part in every batch, if only with a gradient of zero: an optimizer step then is the same
however a batch is divided over processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model import Model

Weighing = Literal["streams", "tokens"]
ROWS = 64  # rows of a head are padded to a multiple of this
LOGITS_CPU, LOGITS_GPU = 1 << 22, 1 << 27  # logits held at a time


@dataclass(frozen=True)
class Loss:
    """mean: what is minimised, in nats. total: (M,) sum of the cross-entropy of each stream, detached, float32. count:
    (M,) number of its targets.
    """

    mean: Tensor
    total: Tensor
    count: Tensor


class _Head(torch.autograd.Function):
    """sum_i weight_i * cross-entropy of row i, and the cross-entropies themselves, for one output head.

    hidden: (R, d), matrix: (V, d), ids: (R,), weight: (R,) float32. The gradients are computed with the loss.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, matrix: Tensor, ids: Tensor, weight: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        learns = any(ctx.needs_input_grad[:2])
        # Few different numbers of rows: libraries keep a program for each shape of a product.
        pad = -len(ids) % ROWS if len(ids) else 0
        low, table = F.pad(hidden.to(dtype), (0, 0, 0, pad)), matrix.to(dtype)
        ids, weight = F.pad(ids, (0, pad)), F.pad(weight, (0, pad))
        surprise = torch.empty(len(ids), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.empty_like(low) if learns else None
        d_matrix = torch.zeros_like(matrix, dtype=torch.float32) if learns else None
        most = (LOGITS_CPU if hidden.device.type == "cpu" else LOGITS_GPU) // max(1, len(matrix))
        step = max(ROWS, most // ROWS * ROWS)
        for at in range(0, len(ids), step):
            part = slice(at, at + step)
            rows = torch.arange(len(ids[part]), device=hidden.device)
            log = torch.log_softmax(low[part] @ table.T, dim=-1, dtype=torch.float32)
            surprise[part] = -log[rows, ids[part]]
            if d_hidden is not None and d_matrix is not None:
                share = log.exp_()
                share[rows, ids[part]] -= 1.0
                share = share.to(dtype)
                scaled = weight[part, None].to(dtype)
                d_hidden[part] = (share @ table) * scaled
                scaled = low[part] * scaled
                if dtype == d_matrix.dtype:
                    torch.addmm(d_matrix, share.T, scaled, out=d_matrix)
                else:
                    d_matrix += share.T @ scaled
        rows_there = len(hidden)
        surprise, weight = surprise[:rows_there], weight[:rows_there]
        ctx.save_for_backward(None if d_hidden is None else d_hidden[:rows_there], d_matrix)
        ctx.dtypes = hidden.dtype, matrix.dtype
        ctx.mark_non_differentiable(surprise)
        return (surprise * weight).sum(), surprise

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_hidden, d_matrix = ctx.saved_tensors
        return d_hidden.mul_(grads[0]).to(ctx.dtypes[0]), d_matrix.mul_(grads[0]).to(ctx.dtypes[1]), None, None, None


def target_counts(out_stream: Tensor, out_mask: Tensor, streams: int) -> Tensor:
    """(M,) float32: how many targets each stream has."""
    return torch.bincount(out_stream[out_mask], minlength=streams).float()


def stream_weights(count: Tensor, weighing: Weighing) -> Tensor:
    """What one target of each stream weighs, (M,), given how many there are in the whole batch.

    "streams": the loss is the mean over the streams that have targets of their mean cross-entropy, as published.
    "tokens": it is the mean over all targets.
    """
    if weighing == "tokens":
        return torch.full_like(count, 1.0) / count.sum().clamp(min=1)
    present = (count > 0).sum().clamp(min=1)
    return torch.where(count > 0, 1.0 / (count.clamp(min=1) * present), 0.0)


def by_head(model: Model, out_stream: Tensor, out_mask: Tensor) -> tuple[Tensor, list[int]]:
    """The targets of a batch in the order of the heads, padding first, and how many there are of each. On the CPU, so
    that no GPU has to be waited for.
    """
    table = torch.where(
        out_mask.flatten(), torch.tensor(model.table_of, device=out_mask.device)[out_stream.flatten()], -1
    )
    return torch.argsort(table, stable=True), torch.bincount(table + 1, minlength=len(model.names) + 1).tolist()


def cross_entropy(
    model: Model, hidden: Tensor, out_ids: Tensor, out_stream: Tensor, out_mask: Tensor, weight: Tensor | None = None,
    heads: tuple[Tensor, list[int]] | None = None,
) -> Loss:  # fmt: skip
    """hidden: (B, n_out, d) of Model.decode; the rest as in Masked. weight: (M,) of one target of each stream; None:
    the mean over the streams of this batch. heads: of `by_head`, where it was computed before.
    """
    hidden, ids, real, stream = hidden.flatten(0, 1), out_ids.flatten(), out_mask.flatten(), out_stream.flatten()
    streams = len(model.streams)
    count = target_counts(stream, real, streams)
    weight = stream_weights(count, "streams") if weight is None else weight
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    order, sizes = by_head(model, out_stream, out_mask) if heads is None else heads
    own = dict(zip(model.names, order.split(sizes)[1:], strict=True))
    mean, total = hidden.new_zeros((), dtype=torch.float32), torch.zeros(streams, device=hidden.device)
    for name, matrix in model.head_weights().items():
        rows = own[name]
        part, surprise = _Head.apply(hidden[rows], matrix, ids[rows], weight[stream[rows]], dtype)
        mean = mean + part
        total.index_add_(0, stream[rows], surprise)
    return Loss(mean, total, count)


def forward_loss(model: Model, batch: Mapping[str, Any], weight: Tensor | None = None) -> Loss:
    """Encode, decode and score a masked batch (see Masked.arrays). It may hold "values" of value streams, "full":
    whether every input is real, and "heads".
    """
    inputs, given = model.embed_both(batch)
    context, mask = model.encode(
        batch["in_ids"], batch["in_stream"], batch["in_pos"], batch["in_mask"],
        values=batch.get("values"), full=batch.get("full"), tokens=inputs,
    )  # fmt: skip
    targets = batch["out_stream"], batch["out_mask"]
    hidden = model.decode(
        batch["dec_ids"], targets[0], batch["out_pos"], targets[1], context, mask, tokens=given
    )  # fmt: skip
    return cross_entropy(model, hidden, batch["out_ids"], *targets, weight, batch.get("heads"))
