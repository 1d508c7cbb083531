"""Operations with a backward pass of their own are the ones they replace, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trainer import lean
from trainer.lean import _Attention, additive, attention, swiglu


@pytest.mark.parametrize("rows", [2, 100])
def test_swiglu_is_what_it_says_however_few_rows_at_a_time(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "CACHE", rows * 8 * 8)
    x, gate_up, down = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 5, 6), (8, 6), (6, 4))
    )
    gate, up = (x @ gate_up.T).chunk(2, dim=-1)
    assert torch.allclose(swiglu(x, gate_up, down), (F.silu(gate) * up) @ down.T)
    assert torch.autograd.gradcheck(swiglu, (x, gate_up, down))
    with torch.no_grad():
        assert torch.allclose(swiglu(x, gate_up, down), (F.silu(gate) * up) @ down.T)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_plain_products_is_the_fused_one(masked: bool) -> None:
    q = torch.randn(2, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 3, 6, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(1)) > 0.5 if masked else None
    if mask is not None:
        mask[..., 0] = True
    bias = additive(mask, q)
    assert torch.allclose(_Attention.apply(q, k, v, bias), F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    assert torch.autograd.gradcheck(lambda *a: _Attention.apply(*a, bias), (q, k, v))


def test_in_bfloat16_on_a_cpu_it_is_taken_and_close() -> None:
    q, k, v = (torch.randn(2, 2, 5, 8).bfloat16().requires_grad_() for _ in range(3))
    found, wanted = attention(q, k, v, None), F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert found.dtype == torch.bfloat16 and "_Attention" in type(found.grad_fn).__name__
    assert torch.allclose(found.float(), wanted, atol=0.03)


def test_an_additive_mask_is_made_in_the_dtype_of_the_products_and_hides_the_same() -> None:
    mask = torch.tensor([[True, False, True], [False, False, True]])
    with torch.autocast("cpu", torch.bfloat16):
        short = additive(mask, torch.zeros(1))
    assert short is not None and short.dtype == torch.bfloat16 and additive(short, torch.zeros(1)) is short
    for bias in (short, additive(mask, torch.zeros(1))):
        assert bias is not None and torch.equal(torch.softmax(bias.float(), dim=-1) > 0, mask)
    assert additive(None, torch.zeros(1)) is None
