"""Operations with a backward pass of their own are the ones they replace, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trainer.lean import _Attention, attention, gated


def test_gated_is_silu_of_one_half_times_the_other() -> None:
    both = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    gate, up = both.chunk(2, dim=-1)
    assert torch.allclose(gated(both), F.silu(gate) * up)
    assert torch.autograd.gradcheck(gated, both)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_plain_products_is_the_fused_one(masked: bool) -> None:
    q = torch.randn(2, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 3, 6, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(1)) > 0.5 if masked else None
    if mask is not None:
        mask[..., 0] = True
    hide = None if mask is None else ~mask
    assert torch.allclose(_Attention.apply(q, k, v, hide), F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    assert torch.autograd.gradcheck(lambda *a: _Attention.apply(*a, hide), (q, k, v))


def test_in_bfloat16_on_a_cpu_it_is_taken_and_close() -> None:
    q, k, v = (torch.randn(2, 2, 5, 8).bfloat16().requires_grad_() for _ in range(3))
    found, wanted = attention(q, k, v, None), F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert found.dtype == torch.bfloat16 and "_Attention" in type(found.grad_fn).__name__
    assert torch.allclose(found.float(), wanted, atol=0.03)
