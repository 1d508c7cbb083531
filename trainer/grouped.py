"""Attention of tokens that look only at others of their own group, by products of few groups at a time: on a CPU less
than half the work where the targets of eight modalities are hidden from each other.

Groups have any size. They are packed, the largest first, into slots of a multiple of some size, and as many slots of one
size as make a chunk are multiplied at once: libraries keep a program for each shape of a product of short floats, so that
there should be few. A GPU, which wants static shapes, takes the mask instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Tokens: slots hold a multiple of STEP, which is larger for short floats, and chunks about CHUNK.
STEP, SHORT_STEP, CHUNK = 16, 32, 256


@dataclass(frozen=True)
class Groups:
    """Where each token of (R, heads, head) is packed.

    A packed row is one head of one place for a token, P in all. query: (P,) its row among the queries (R * heads, head).
    key: (2 P,) those of its key and, after all keys, its value among keys and values (R * 2 * heads, head). empty: the
    packed rows of places without a token. own: (R * heads,) the packed row of each query; own_key: (R * 2 * heads,) of
    each key and value. biases: of each chunk, (slots, 1, size, size): 0 where a query may look, else the lowest number.
    """

    query: Tensor
    key: Tensor
    empty: Tensor
    own: Tensor
    own_key: Tensor
    biases: list[Tensor]
    heads: int

    def chunks(self, packed: Tensor) -> list[Tensor]:
        """Packed rows (P, head) by chunk: (slots * heads, size, head)."""
        shapes = [(len(bias) * self.heads, bias.shape[-1], packed.shape[-1]) for bias in self.biases]
        parts = packed.split([slots * size for slots, size, _ in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


@dataclass(frozen=True)
class Plan:
    """chunks: (slots, size) of each. slot, offset: of each group, the slot it is in, and the places before it there."""

    chunks: list[tuple[int, int]]
    slot: list[int]
    offset: list[int]


def pack(count: list[int], step: int, chunk: int) -> Plan:
    """Slots for groups of count[i] tokens: each in the fullest where it has room, else in a new chunk."""
    chunks: list[tuple[int, int]] = []
    size: list[int] = []
    room: list[int] = []
    slot, offset = [0] * len(count), [0] * len(count)
    for group in sorted(range(len(count)), key=lambda i: -count[i]):
        needed = count[group]
        at = min((s for s, free in enumerate(room) if free >= needed), key=room.__getitem__, default=len(room))
        if at == len(room):
            new = -(-needed // step) * step
            chunks.append((max(1, chunk // new), new))
            size += [new] * chunks[-1][0]
            room += [new] * chunks[-1][0]
        slot[group], offset[group] = at, size[at] - room[at]
        room[at] -= needed
    return Plan(chunks, slot, offset)


def groups_of(group: Tensor, position: Tensor, causal: Tensor, heads: int, dtype: torch.dtype) -> Groups:
    """Groups of R > 0 tokens; the arguments are (R,). group: number of its group. causal: whether those of its group
    look only at the ones whose position is not after their own. dtype: of the products.
    """
    order = torch.argsort(group, stable=True)
    of, count = torch.unique_consecutive(group[order], return_inverse=True, return_counts=True)[1:]
    plan = pack(count.tolist(), SHORT_STEP if dtype.itemsize < 4 else STEP, CHUNK)
    size = torch.tensor([size for slots, size in plan.chunks for _ in range(slots)])
    begin, slot = size.cumsum(0) - size, torch.tensor(plan.slot)[of]
    place = torch.tensor(plan.offset)[of] + torch.arange(len(of)) - (count.cumsum(0) - count)[of]  # in the slot
    packed = (begin[slot] * heads + place)[:, None] + size[slot, None] * torch.arange(heads)
    total, row = int(size.sum()), order[:, None] * heads + torch.arange(heads)
    query, empty = torch.zeros(total * heads, dtype=torch.long), torch.ones(total * heads, dtype=torch.bool)
    query[packed], empty[packed] = row, False
    own = torch.empty(len(of) * heads, dtype=torch.long)
    own[row] = packed
    key = query + query // heads * heads  # among the heads of a key, then the heads of a value
    own_key = own.view(-1, 1, heads) + torch.tensor([[0], [len(query)]])
    biases = _biases(plan, begin[slot] + place, of, torch.where(causal, position, -1)[order], dtype)
    return Groups(query, torch.cat([key, key + heads]), empty.nonzero()[:, 0], own, own_key.flatten(), biases, heads)


def _biases(plan: Plan, place: Tensor, group: Tensor, until: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """See Groups. place: (R,) of each token among all places; until: its position if it looks no further, else -1."""
    length = [slots * size for slots, size in plan.chunks]
    which, last = torch.full((2, sum(length)), -1)
    which[place], last[place] = group, until
    biases = []
    for shape, of, at in zip(plan.chunks, which.split(length), last.split(length), strict=True):
        of, at = of.view(shape), at.view(shape)
        seen = (of[:, :, None] == of[:, None, :]) & (at[:, None, :] <= at[:, :, None])
        biases.append(torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None])
    return biases


class _Grouped(torch.autograd.Function):
    """q: (R, d), kv: (R, 2 d), keys before values; (R, d). Keeps the packed tokens and the weights."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, groups: Groups, head: int) -> Tensor:
        query = q.reshape(-1, head).index_select(0, groups.query)
        key, value = kv.reshape(-1, head).index_select(0, groups.key).chunk(2)
        out, weights = torch.empty_like(query), []
        packed = (groups.chunks(a) for a in (query, key, value, out))
        for bias, a, b, c, found in zip(groups.biases, *packed, strict=True):
            score = torch.baddbmm(a.new_empty(1, 1, 1), a, b.mT, beta=0, alpha=head**-0.5)
            score.view(len(bias), -1, *bias.shape[2:]).add_(bias)
            weights.append(torch.softmax(score, dim=-1, out=score))
            torch.bmm(weights[-1], c, out=found)
        ctx.groups = groups
        ctx.save_for_backward(query, key, value, *weights)
        return out.index_select(0, groups.own).view(q.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query, key, value, *weights = ctx.saved_tensors
        groups, head = ctx.groups, query.shape[-1]
        d_out = grads[0].reshape(-1, head).index_select(0, groups.query)
        d_out.index_fill_(0, groups.empty, 0.0)
        d_query, d_kv = torch.empty_like(query), query.new_empty(2 * len(query), head)
        nothing, scale = query.new_empty(1, 1, 1), head**-0.5
        packed = (groups.chunks(a) for a in (query, key, value, d_out, d_query, *d_kv.chunk(2)))
        for weight, a, b, c, out, d_a, d_b, d_c in zip(weights, *packed, strict=True):
            d_score = torch.bmm(out, c.mT)  # of the weights, then of the scores
            torch.bmm(weight.mT, out, out=d_c)
            torch.ops.aten._softmax_backward_data.out(d_score, weight, -1, weight.dtype, grad_input=d_score)
            torch.baddbmm(nothing, d_score, b, beta=0, alpha=scale, out=d_a)
            torch.baddbmm(nothing, d_score.mT, a, beta=0, alpha=scale, out=d_b)
        shape = grads[0].shape
        return (
            d_query.index_select(0, groups.own).view(shape),
            d_kv.index_select(0, groups.own_key).view(*shape[:-1], -1),
            None,
            None,
        )


def grouped(q: Tensor, kv: Tensor, groups: Groups, heads: int) -> Tensor:
    """Attention within groups. q: (..., d), kv: (..., 2 d), keys before values; (..., d)."""
    found: Tensor = _Grouped.apply(q, kv, groups, q.shape[-1] // heads)
    return found
