"""The attention of SAM's image encoder, in both its forms, against the package's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from labelers.core import sam_encoder
from labelers.core.sam_import import segment_anything
from tests.labelers.tiny_sam import tiny_network


def attention(side: int, heads: int = 3) -> Any:
    """Of 10 values a head, so that fused kernels need padding."""
    package = segment_anything().modeling.image_encoder
    made = package.Attention(heads * 10, num_heads=heads, use_rel_pos=True, input_size=(side, side)).double()
    for name, values in made.named_parameters():
        torch.nn.init.normal_(values, std=0.5 if "rel_pos" in name else 0.2)
    return made.requires_grad_(False)


@pytest.mark.parametrize("side", [1, 5, 9])
@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_that_of_the_package(side: int, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(side)
    made = attention(side)
    pixels = torch.randn(2, side, side, 30, dtype=torch.float64)
    monkeypatch.setattr(sam_encoder, "ROWS", 7)
    if fused:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = sam_encoder.attention_of(made, side)(pixels)
    assert torch.allclose(found, made(pixels), atol=1e-12)


def test_all_blocks_are_hastened_and_the_embedding_stays() -> None:
    ours, theirs = tiny_network().double(), tiny_network().double()
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    sam_encoder.hasten(ours.image_encoder, "float64", compiled=False)
    assert all("forward" in vars(block.attn) for block in ours.image_encoder.blocks)
    assert torch.allclose(ours.image_encoder(pixels), theirs.image_encoder(pixels), atol=1e-12)


def test_half_precision_comes_out_as_it_went_in() -> None:
    network, theirs = tiny_network(), tiny_network()
    pixels = torch.randn(1, 3, 64, 64)
    sam_encoder.hasten(network.image_encoder, "bfloat16", compiled=False)
    found = network.image_encoder(pixels)
    assert found.dtype == torch.float32
    assert next(network.image_encoder.parameters()).dtype == torch.bfloat16
    assert (found - theirs.image_encoder(pixels)).abs().max() < 0.1
