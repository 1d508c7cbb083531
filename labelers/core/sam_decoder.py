"""SAM's mask decoder for one image and many points, over the weights of segment_anything's.

The package gives every point a copy of the image and projects it anew: seven projections of 4096 positions a point. Here
- what no point has touched yet (all image-side projections of the first layer) is worked out once an image, what no
  image has touched (the first attention among the prompt's tokens) once a grid;
- from then on a projection of the image is moved to the tokens it meets, of which there are seven: q·(K x) = (Kᵀq)·x,
  and Σ a (V x) = V (Σ a x). That is the same value by another order of sums, for a third of the arithmetic;
- masks are drawn from the positions' features only for points of which a mask was good enough, and a transposed
  convolution whose stride is its size is what it amounts to, a linear layer of each position.

Tokens, qualities and the last product, the logits, keep the number format of the weights; what has an entry for each position
of the image is in `work`, which may be half precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Grid:
    """Prompts of n points. tokens: (n, t, c), the decoder's own and the point's. queries: the same after the first attention
    among them.
    """

    tokens: torch.Tensor
    queries: torch.Tensor

    def split(self, size: int) -> list[Grid]:
        """The same in parts of `size` points."""
        starts = range(0, len(self.tokens), size)
        return [Grid(self.tokens[i : i + size], self.queries[i : i + size]) for i in starts]


@dataclass(frozen=True)
class Seen:
    """An image as no point has touched it, p positions. features: (p, c), what the first layer adds to. keys, values: (h, p,
    e) and queries: (p, h * e), projections of the first layer, for tokens that look at the image and the other way round.
    """

    features: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    queries: torch.Tensor


@dataclass(frozen=True)
class Answers:
    """What n points are answered, k masks each. quality: (n, k). hyper: (n, k, d), weights of the features. features:
    (n, p, c).
    """

    quality: torch.Tensor
    hyper: torch.Tensor
    features: torch.Tensor


class Decoder:
    """The mask decoder of a Sam of segment_anything; all that it makes is on the network's device."""

    def __init__(self, network: Any, work: torch.dtype | None = None) -> None:
        """work: the number format of what has an entry for each position; None: the weights'."""
        self._prompts, self._net = network.prompt_encoder, network.mask_decoder
        self._layers = list(self._net.transformer.layers)
        own = self._net.iou_token.weight
        self._own, self._work = own.dtype, work or own.dtype
        self._where = self._positions()
        self._where_work = self._where.to(self._work)
        self._norms = [_in(layer.norm4, self._work) for layer in self._layers]
        self._upscaling = _Upscaling(self._net.output_upscaling, self._work)

    def _positions(self) -> torch.Tensor:
        """What tells the positions of the image apart: (p, c)."""
        encoded: torch.Tensor = self._prompts.get_dense_pe()
        return encoded[0].flatten(1).T.to(self._own).contiguous()

    def grid(self, points: torch.Tensor) -> Grid:
        """The prompts of points, (n, 2) x, y in pixels of the network's input, each of them foreground."""
        import torch

        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        prompts, _ = self._prompts(points=(points[:, None], labels), boxes=None, masks=None)
        own = torch.cat([self._net.iou_token.weight, self._net.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(points), -1, -1), prompts.to(self._own)], dim=1)
        return Grid(tokens, _among(self._layers[0], tokens, tokens))

    def see(self, embedding: torch.Tensor) -> Seen:
        """An image's embedding, (c, h, w), made ready for any number of points."""
        first = self._layers[0]
        features = embedding.flatten(1).T.to(self._own) + self._prompts.no_mask_embed.weight.to(self._own)
        placed = features + self._where
        looked = first.cross_attn_token_to_image
        return Seen(
            features.to(self._work),
            _heads(looked.k_proj(placed), looked.num_heads).to(self._work),
            _heads(looked.v_proj(features), looked.num_heads).to(self._work),
            first.cross_attn_image_to_token.q_proj(placed).to(self._work),
        )

    def ask(self, seen: Seen, grid: Grid) -> Answers:
        """The answers to the points of a grid. The first of the network's masks, for several prompts at once, is left out."""
        queries, tokens = grid.queries, grid.tokens
        features, placed = seen.features, seen.features
        for number, layer in enumerate(self._layers):
            if number:
                queries = _among(layer, queries, tokens)
                mixed = self._looked(layer.cross_attn_token_to_image, queries + tokens, placed, features)
            else:
                mixed = self._first_looked(layer.cross_attn_token_to_image, queries + tokens, seen)
            queries = layer.norm2(queries + mixed)
            queries = layer.norm3(queries + layer.mlp(queries))
            told = layer.cross_attn_image_to_token
            if number:
                features = self._told(told, queries, tokens, placed, features)
            else:
                features = self._first_told(told, queries, tokens, seen)
            features = self._norms[number](features)
            placed = features + self._where_work
        last = self._net.transformer.final_attn_token_to_image
        mixed = self._looked(last, queries + tokens, placed, features)
        tokens = self._net.transformer.norm_final_attn(queries + mixed)
        return self._read(tokens, features)

    def _read(self, tokens: torch.Tensor, features: torch.Tensor) -> Answers:
        """What the decoder's own tokens, at last, say."""
        import torch

        heads = self._net.output_hypernetworks_mlps
        hyper = torch.stack([heads[i](tokens[:, 1 + i]) for i in range(1, self._net.num_mask_tokens)], dim=1)
        return Answers(self._net.iou_prediction_head(tokens[:, 0])[:, 1:], hyper, features)

    def draw(self, hyper: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Logits of the masks of m points, their hyper (m, k, d) and features (m, p, c): (m, k, 4 w, 4 h), column by column."""
        side = self._prompts.image_embedding_size
        return self._upscaling.draw(hyper, features, side[0], side[1])

    def _first_looked(self, attention: Any, queries: torch.Tensor, seen: Seen) -> torch.Tensor:
        """Tokens (n, t, c) look at an image that is the same for all of them."""
        import torch

        n, t, _ = queries.shape
        asked = _heads(attention.q_proj(queries).flatten(0, 1), attention.num_heads).to(self._work)
        # a batch of one, as all kernels want it
        mixed = torch.nn.functional.scaled_dot_product_attention(asked[None], seen.keys[None], seen.values[None])[0]
        joined = mixed.transpose(0, 1).reshape(n, t, -1).to(self._own)
        return attention.out_proj(joined)  # type: ignore[no-any-return]

    def _looked(
        self, attention: Any, queries: torch.Tensor, placed: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """Tokens (n, t, c) look at their own images (n, p, c), with and without what tells positions apart."""
        import torch

        h = attention.num_heads
        asked = _heads(attention.q_proj(queries), h)  # (n, h, t, e)
        asked = asked * asked.shape[-1] ** -0.5  # the bias of the keys adds one number to a whole row: softmax drops it
        folded = torch.einsum("nhte,hec->nhtc", asked, _by_head(attention.k_proj.weight, h))
        share = (folded.flatten(1, 2).to(self._work) @ placed.transpose(1, 2)).softmax(dim=-1)
        mixed = (share @ features).to(self._own).reshape(*folded.shape)
        value = torch.einsum("nhtc,hec->nthe", mixed, _by_head(attention.v_proj.weight, h)).flatten(2)
        return attention.out_proj(value + attention.v_proj.bias)  # type: ignore[no-any-return]

    def _first_told(self, attention: Any, queries: torch.Tensor, tokens: torch.Tensor, seen: Seen) -> torch.Tensor:
        """Positions of an image that is the same for all look at the tokens of each point: the image plus that, (n, p, c)."""
        import torch

        h = attention.num_heads
        keys = _heads(attention.k_proj(queries + tokens), h)  # (n, h, t, e)
        keys = keys * keys.shape[-1] ** -0.5
        # each head in columns of its own, so that all heads are one product: (n, h, t, h, e)
        apart = keys[:, :, :, None] * torch.eye(h, dtype=keys.dtype, device=keys.device)[:, None, :, None]
        logits = apart.flatten(3).flatten(1, 2).to(self._work) @ seen.queries.T
        base = seen.features.expand(len(queries), -1, -1)
        return torch.baddbmm(base, self._shares(logits, h), self._spread(attention, queries))

    def _told(
        self, attention: Any, queries: torch.Tensor, tokens: torch.Tensor, placed: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """Positions (n, p, c) look at their tokens: the features plus that, written over the features."""
        import torch

        h = attention.num_heads
        keys = _heads(attention.k_proj(queries + tokens), h)
        keys = keys * keys.shape[-1] ** -0.5
        folded = torch.einsum("nhte,hec->nhtc", keys, _by_head(attention.q_proj.weight, h)).flatten(1, 2)
        bias = torch.einsum("nhte,he->nht", keys, attention.q_proj.bias.reshape(h, -1)).flatten(1)[..., None]
        logits = torch.baddbmm(bias.to(self._work), folded.to(self._work), placed.transpose(1, 2))
        features.baddbmm_(self._shares(logits, h), self._spread(attention, queries))
        return features

    @staticmethod
    def _shares(logits: torch.Tensor, heads: int) -> torch.Tensor:
        """How much each position takes of each token: logits (n, h * t, p) -> (n, p, h * t)."""
        n, rows, p = logits.shape
        return logits.view(n, heads, rows // heads, p).softmax(dim=2).view(n, rows, p).transpose(1, 2)

    def _spread(self, attention: Any, queries: torch.Tensor) -> torch.Tensor:
        """What a position gets of each token if it takes all of it: (n, h * t, c). A head's shares sum to 1, so that the
        bias, a part of it in each head, is added once.
        """
        import torch

        h = attention.num_heads
        values = _heads(attention.v_proj(queries), h)
        given = torch.einsum("nhte,hec->nhtc", values, _by_head(attention.out_proj.weight.T, h))
        return (given + attention.out_proj.bias / h).flatten(1, 2).to(self._work)  # type: ignore[no-any-return]


class _Upscaling:
    """The decoder's upscaling, twice by two, as linear layers of each position."""

    def __init__(self, layers: Any, work: torch.dtype) -> None:
        first, norm, self._first_act, second, self._second_act = layers
        self._first, self._second = (_as_linear(layer, work) for layer in (first, second))
        self._norm = (norm.weight.to(work), norm.bias.to(work), norm.eps)

    def draw(self, hyper: torch.Tensor, features: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(m, k, d) and (m, h * w, c) -> logits (m, k, 4 w, 4 h) in the format of hyper."""
        import torch
        from torch.nn.functional import layer_norm, linear

        m, k, _ = hyper.shape
        weight, bias, eps = self._norm
        once = linear(features, *self._first).view(m, height * width, 4, -1)
        once = self._first_act(layer_norm(once, weight.shape, weight, bias, eps))
        twice = self._second_act(linear(once, *self._second)).reshape(m, height * width * 16, -1)
        logits = torch.bmm(hyper, twice.to(hyper.dtype).transpose(1, 2))
        rows = logits.view(m, k, height, width, 2, 2, 2, 2)  # y, x, then y and x of each doubling
        return rows.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(m, k, 4 * width, 4 * height)


def _as_linear(convolution: Any, work: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (4 o, c) and bias (4 o,) of a transposed convolution of kernel and stride 2, (c, o, 2, 2): y, x, channel."""
    weight, bias = convolution.weight, convolution.bias
    return weight.permute(2, 3, 1, 0).flatten(0, 2).to(work), bias.repeat(4).to(work)


def _in(module: Any, dtype: torch.dtype) -> Any:
    """A copy of a module in another number format; the module itself where that is its own."""
    from copy import deepcopy

    return module if module.weight.dtype == dtype else deepcopy(module).to(dtype)


def _heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """(..., t, h * e) -> (..., h, t, e)."""
    apart = projected.reshape(*projected.shape[:-1], heads, -1)
    return apart.transpose(-3, -2)


def _by_head(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The weight (h * e, c) of a projection to all heads, for each: (h, e, c)."""
    return weight.reshape(heads, -1, weight.shape[1])


def _among(layer: Any, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The attention among a point's tokens with which a layer begins, (n, t, c)."""
    if layer.skip_first_layer_pe:
        return layer.norm1(layer.self_attn(q=queries, k=queries, v=queries))  # type: ignore[no-any-return]
    placed = queries + tokens
    return layer.norm1(queries + layer.self_attn(q=placed, k=placed, v=queries))  # type: ignore[no-any-return]
