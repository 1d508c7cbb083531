"""The diffusion decoder: begins as the plain decoder, depends on the tokens alone, learns what the plain one lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tokenize_shards.test_vit_vq import DEPTH, RGB, SIDE, data
from tokenize_shards.diffusion import STEPS, Diffusion, signal_shares
from tokenize_shards.tokenizer import load_tokenizer
from tokenize_shards.vit_vq import ViTVQ

SMALL = {"decoder": "diffusion", "diffusion_width": 8, "diffusion_steps": 3}


def inputs(n: int = 2) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(n * 16, 1, 32, generator=generator)
    plain = torch.randn(n, 3, SIDE, SIDE, generator=generator)
    return codes, plain, np.arange(n * 16).reshape(n, 16)


def test_the_schedule_goes_from_picture_to_noise() -> None:
    shares = signal_shares()
    assert len(shares) == STEPS and bool((shares.diff() < 0).all())
    assert shares[0] > 0.999 and shares[-1] < 1e-4


def test_an_unfitted_one_gives_the_plain_picture() -> None:
    codes, plain, tokens = inputs()
    assert torch.allclose(Diffusion(3, 32, 8, 4).sample(codes, plain, tokens, 4), plain)


def test_samples_depend_on_the_tokens_and_not_on_their_batch() -> None:
    torch.manual_seed(0)
    model = Diffusion(3, 32, 8, 4).eval()
    torch.nn.init.normal_(model.leave.weight, std=0.1)
    codes, plain, tokens = inputs()
    both = model.sample(codes, plain, tokens, 4)
    assert torch.equal(both, model.sample(codes, plain, tokens, 4))
    assert torch.allclose(both[1:], model.sample(codes[16:], plain[1:], tokens[1:], 4), atol=1e-5)
    other = model.sample(codes, plain, tokens[::-1].copy(), 4)
    assert not torch.allclose(both, other, atol=1e-3), "other tokens begin at other noise"


def test_a_few_steps_learn_what_the_plain_picture_lacks() -> None:
    """Plain pictures without their blue: the decoder must put it back."""
    torch.manual_seed(0)
    model, noise = Diffusion(3, 32, 8, 4), torch.Generator().manual_seed(0)
    codes, _, tokens = inputs(4)
    clean = torch.full((4, 3, SIDE, SIDE), 0.5)
    plain = clean * torch.tensor([1.0, 1.0, 0.0])[:, None, None]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(clean, codes, plain, noise).backward()
        optimizer.step()
    error = (model.eval().sample(codes, plain, tokens, 5) - clean).abs().mean()
    assert error < 0.3 * float((plain - clean).abs().mean())


@pytest.mark.parametrize("config", [replace(RGB, **SMALL), replace(DEPTH, **SMALL)])  # type: ignore[arg-type]
def test_a_tokenizer_with_one(tmp_path: Path, config: object) -> None:
    assert config in (replace(RGB, **SMALL), replace(DEPTH, **SMALL))  # type: ignore[arg-type]
    spec = config
    tokenizer = ViTVQ(spec)  # type: ignore[arg-type]
    batch = data(tokenizer.spec, 6, 1)
    report = tokenizer.fit(data(tokenizer.spec, 16), batch, steps=4)
    name = "psnr_db" if tokenizer.spec.content == "pixels" else "abs_rel"
    assert set(report.metrics) == {name, f"plain_{name}"} and report.steps == 4
    tokens = tokenizer.encode(batch)
    decoded = tokenizer.decode(tokens)
    assert (decoded.dtype, decoded.shape) == (data(tokenizer.spec, 1).dtype, batch.shape)
    tokenizer.save(tmp_path / "a")
    again = load_tokenizer(tmp_path / "a")
    assert np.array_equal(again.decode(tokens), decoded) and np.array_equal(again.encode(batch), tokens)
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_it_cannot_draw_is_refused() -> None:
    for change, why in (
        ({"content": "classes"}, "draws pictures"), ({"resolution": 24}, "multiples of 16"), ({"diffusion_steps": 50}, "1..25"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            replace(RGB, **{**SMALL, **change})  # type: ignore[arg-type]
