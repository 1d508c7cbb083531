"""Cross-entropy of each stream on its own targets: no head ever computes logits of rows that are not its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model import Model


@dataclass(frozen=True)
class Loss:
    """mean: what is minimised, the mean over the streams that have targets of their mean cross-entropy, in nats.

    total: (M,) sum of the cross-entropy of each stream, detached. count: (M,) number of its targets.
    """

    mean: Tensor
    total: Tensor
    count: Tensor


def cross_entropy(model: Model, hidden: Tensor, out_ids: Tensor, out_stream: Tensor, out_mask: Tensor) -> Loss:
    """hidden: (B, n_out, d) of Model.decode; the rest as in Masked."""
    hidden, ids, real = hidden.flatten(0, 1), out_ids.flatten(), out_mask.flatten()
    stream = out_stream.flatten()
    table = torch.tensor(model.table_of, device=hidden.device)[stream]
    rows: list[Tensor] = []
    values: list[Tensor] = []
    for t, name in enumerate(model.names):
        own = torch.nonzero(real & (table == t)).squeeze(1)
        if len(own):
            rows.append(own)
            values.append(F.cross_entropy(model.logits(hidden[own], name).float(), ids[own], reduction="none"))
    streams = len(model.streams)
    if not rows:
        zero = hidden.sum() * 0.0
        return Loss(zero, hidden.new_zeros(streams), hidden.new_zeros(streams))
    which, value = stream[torch.cat(rows)], torch.cat(values)
    count = torch.bincount(which, minlength=streams).to(value.dtype)
    total = value.new_zeros(streams).index_add(0, which, value)
    present = count > 0
    mean = (total[present] / count[present]).mean()
    return Loss(mean, total.detach(), count)


def forward_loss(model: Model, batch: dict[str, Tensor]) -> Loss:
    """Encode, decode and score a masked batch (see Masked.arrays)."""
    context, mask = model.encode(batch["in_ids"], batch["in_stream"], batch["in_pos"], batch["in_mask"])
    hidden = model.decode(
        batch["dec_ids"], batch["out_stream"], batch["out_pos"], batch["out_mask"], context, mask
    )  # fmt: skip
    return cross_entropy(model, hidden, batch["out_ids"], batch["out_stream"], batch["out_mask"])
