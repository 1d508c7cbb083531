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

from trainer.lean import add_product, add_to, product_dtype
from trainer.model import Model

Weighing = Literal["streams", "tokens"]
ROWS = 32  # rows of a head are padded to a multiple of this
LOGITS_CPU, LOGITS_GPU = 7 << 20, 1 << 27  # logits held at a time
BLOCK = 1 << 18  # logits that are made probabilities at a time


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

    hidden: (R, d), matrix: (V, d), ids: (R,), weight: (R,) float32. The gradients are computed with the loss. adds: that of
    the matrix is added to the one that it has, see `lean.rows`.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, matrix: Tensor, ids: Tensor, weight: Tensor, dtype: torch.dtype, adds: bool
    ) -> tuple[Tensor, Tensor]:
        learns = any(ctx.needs_input_grad[:2])
        count, low, table = len(hidden), hidden.to(dtype), matrix.to(dtype)
        if pad := -count % ROWS if dtype.itemsize < 4 else 0:
            # Few different numbers of rows: libraries keep a program for each shape of a product of short floats.
            low, ids, weight = F.pad(low, (0, 0, 0, pad)), F.pad(ids, (0, pad)), F.pad(weight, (0, pad))
        surprise = torch.empty(len(ids), dtype=torch.float32, device=hidden.device)
        d_hidden = torch.empty_like(low) if learns else None
        d_matrix: Tensor | None = None
        for part in pieces(len(ids), len(matrix), hidden.device):
            share = low[part] @ table.T
            score(share, ids[part], surprise[part])
            if d_hidden is not None:
                scaled = weight[part, None].to(dtype)
                d_hidden[part] = (share @ table).mul_(scaled)
                d_matrix = add_product(d_matrix, share, low[part] * scaled)
            del share
        if learns and d_matrix is None:
            d_matrix = torch.zeros_like(matrix, dtype=dtype)
        # Not by save_for_backward, which would keep a second hold on them: a parameter can then not just take its gradient.
        ctx.grads = None if d_hidden is None else [d_hidden[:count].to(hidden.dtype), d_matrix]
        ctx.matrix = matrix if adds and matrix.is_leaf else None
        ctx.dtype = matrix.dtype
        surprise = surprise[:count]
        ctx.mark_non_differentiable(surprise)
        return (surprise * weight[:count]).sum(), surprise

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        d_matrix, d_hidden = ctx.grads.pop(), ctx.grads.pop()
        if grads[0].device.type != "cpu" or grads[0] != 1:  # a GPU would have to be waited for
            d_hidden, d_matrix = d_hidden.mul_(grads[0]), d_matrix.mul_(grads[0])
        if ctx.matrix is not None and ctx.matrix.grad is not None:
            add_to(ctx.matrix.grad, d_matrix)
            return d_hidden, None, None, None, None, None
        return d_hidden, d_matrix.to(ctx.dtype), None, None, None, None


def pieces(rows: int, vocab: int, device: torch.device) -> list[slice]:
    """Rows of a head that are scored at a time, as even as can be, so that no more logits are held than should."""
    most = max(ROWS, (LOGITS_CPU if device.type == "cpu" else LOGITS_GPU) // vocab)
    step = -(-rows // max(1, -(-rows // most)))
    step += -step % ROWS
    return [slice(at, min(rows, at + step)) for at in range(0, rows, max(1, step))]


def score(logits: Tensor, ids: Tensor, surprise: Tensor) -> None:
    """Writes the cross-entropy of each row, and its gradient in place of the logits: softmax, less 1 at the target.

    logits: (R, V), ids: (R,), surprise: (R,) float32. Computed in float32, on a CPU in blocks that stay in its cache.
    """
    block = max(1, len(ids) if logits.device.type != "cpu" else BLOCK // logits.shape[1])
    for at in range(0, len(ids), block):
        narrow, target = logits[at : at + block], ids[at : at + block, None]
        wide = narrow.float()
        top, own = wide.amax(dim=-1), wide.gather(1, target)[:, 0]
        share = torch.softmax(wide, dim=-1, out=wide)
        # The largest logit and its share tell the sum that all are divided by, however small the target's share is.
        torch.sub(top - share.amax(dim=-1).log(), own, out=surprise[at : at + block])
        share.scatter_add_(1, target, share.new_full(target.shape, -1.0))
        if share is not narrow:
            narrow.copy_(share)


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
    dtype = product_dtype(hidden)
    order, sizes = by_head(model, out_stream, out_mask) if heads is None else heads
    order = order[sizes[0] :]
    own = zip(hidden[order].split(sizes[1:]), ids[order].split(sizes[1:]), stream[order].split(sizes[1:]), strict=True)
    mean, total = hidden.new_zeros((), dtype=torch.float32), torch.zeros(streams, device=hidden.device)
    for matrix, (rows, targets, of) in zip(model.head_weights().values(), own, strict=True):
        part, surprise = _Head.apply(rows, matrix, targets, weight[of], dtype, model.adds)
        mean = mean + part
        total.index_add_(0, of, surprise)
    return Loss(mean, total, count)


def forward_loss(model: Model, batch: Mapping[str, Any], weight: Tensor | None = None) -> Loss:
    """Encode, decode and score a masked batch, see `states`. It may hold "heads"."""
    hidden = states(model, batch)
    return cross_entropy(
        model, hidden, batch["out_ids"], batch["out_stream"], batch["out_mask"], weight, batch.get("heads")
    )


def states(model: Model, batch: Mapping[str, Any]) -> Tensor:
    """Hidden states (B, n_out, d) from which the targets of a masked batch (see Masked.arrays) are predicted. It may hold
    "values" of value streams, and "full": whether every input is real.
    """
    inputs, given = model.embed_both(batch)
    context, mask = model.encode(
        batch["in_ids"], batch["in_stream"], batch["in_pos"], batch["in_mask"],
        values=batch.get("values"), full=batch.get("full"), tokens=inputs,
    )  # fmt: skip
    targets = batch["out_stream"], batch["out_pos"], batch["out_mask"]
    return model.decode(batch["dec_ids"], *targets, context, mask, tokens=given)
