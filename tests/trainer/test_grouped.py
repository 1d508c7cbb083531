"""Attention within groups is the masked attention it stands for, forward and backward, whatever the groups."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import grouped as module
from trainer.grouped import grouped, groups_of

HEADS, HEAD = 2, 4


def tokens(rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    dim = HEADS * HEAD
    return tuple(torch.randn(rows, width, dtype=dtype, requires_grad=True) for width in (dim, 2 * dim))  # type: ignore[return-value]


def masked(q: Tensor, kv: Tensor, mask: Tensor) -> Tensor:
    q, k, v = (a.unflatten(-1, (HEADS, HEAD)).transpose(0, 1) for a in (q, *kv.chunk(2, dim=-1)))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1).flatten(1)


# Group of each row, its position and whether it is causal: mixed orders, sizes below, at and above what groups are filled to.
GROUPS = [[0] * 5, [3, 0, 3, 1, 0, 3, 3], [0, 1, 2, 3, 4], [7, 7, 7, 2] * 5]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{len(group)}-{len(set(group))}")
@pytest.mark.parametrize(("step", "chunk"), [(1, 1), (1, 8), (4, 12), (16, 256)])
def test_it_is_attention_with_the_mask_of_the_groups(
    group: list[int], step: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP", step)
    monkeypatch.setattr(module, "CHUNK", chunk)
    of = torch.tensor(group)
    position = torch.randperm(len(of), generator=torch.Generator().manual_seed(0)) // 2
    causal = of == group[0]
    mask = (of[:, None] == of) & ((position <= position[:, None]) | ~causal[:, None])
    groups = groups_of(of, position, causal, HEADS, torch.float64)
    q, kv = tokens(len(of), torch.float64)
    found, wanted = grouped(q, kv, groups, HEADS), masked(q, kv, mask)
    assert torch.allclose(found, wanted)
    direction = torch.randn_like(found)
    for mine, theirs in zip(*(torch.autograd.grad(a, (q, kv), direction) for a in (found, wanted)), strict=True):
        assert torch.allclose(mine, theirs)
    assert torch.autograd.gradcheck(lambda *a: grouped(*a, groups, HEADS), (q, kv))


def test_in_bfloat16_it_is_close() -> None:
    of = torch.tensor([0, 1, 1, 0, 1])
    groups = groups_of(of, of, of < 0, HEADS, torch.bfloat16)
    q, kv = tokens(len(of), torch.float32)
    found = grouped(q.bfloat16(), kv.bfloat16(), groups, HEADS)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), masked(q, kv, of[:, None] == of), atol=0.03)
