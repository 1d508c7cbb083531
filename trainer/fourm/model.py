"""A published 4M model: `trainer.model.Model`, but its decoder reads tokens from tables of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trainer.model import Model, Size
from trainer.streams import Stream


class FourM(Model):
    """See the module. decoder_table: the rows of `table` as the decoder embeds them."""

    def __init__(self, streams: Sequence[Stream], size: Size) -> None:
        super().__init__(streams, size)
        self.decoder_table = nn.Embedding(self.table.num_embeddings, size.dim)

    def embed_both(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Two lookups, as each side has a table of its own."""
        sequence = batch["out_mask"] & self.causal[batch["out_stream"]]
        given = self.decoder_table(batch["dec_ids"] + self.table_start[batch["out_stream"]]) * sequence[..., None]
        return self.embed(batch["in_ids"], batch["in_stream"], batch["in_mask"]), given

    def query(
        self, dec_ids: Tensor, stream: Tensor, position: Tensor, real: Tensor, tokens: Tensor | None = None
    ) -> Tensor:
        """The decoder's input, as Model.query."""
        sequence = self.causal[stream]
        token = tokens
        if token is None:
            token = self.decoder_table(dec_ids + self.table_start[stream]) * (real & sequence)[..., None]
        return token + self.mask_token * (~sequence)[..., None] + self.place(stream, position)


def patches(image: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> (B, patches, side * side * 3), each patch in the order row, column, channel."""
    cut = image.unfold(2, side, side).unfold(3, side, side)
    return torch.flatten(cut.permute(0, 2, 3, 4, 5, 1).flatten(3), 1, 2)
