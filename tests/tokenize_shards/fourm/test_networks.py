"""Equal to the published implementation, on recorded outputs; and what is not one of its checkpoints is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fourm_reference import filled, recording
from tokenize_shards.fourm.networks import Network
from trainer.blocks import sincos_2d

SHAPES = {"vq_image": (2, 3, 224, 224), "vq_features": (2, 512, 14, 14), "mlp_vector": (2, 768, 1, 1)}


def published(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """(config, weights by the recording's formula, recorded outputs)."""
    about, recorded = recording(name)
    weights = filled(about["state"])
    for key, (_, shape) in about["state"].items():
        if key.endswith("pos_emb"):
            weights[key] = sincos_2d(shape[2], shape[3], shape[1]).T.reshape(shape)
    return about["config"], weights, recorded


@pytest.mark.parametrize("name", SHAPES)
def test_equal_to_the_published_tokenizer(name: str) -> None:
    config, weights, recorded = published(name)
    network = Network(config).eval()
    network.load(weights)
    x = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        ids = network.tokens(x)
        latents = network.latents(ids)
        decoded = network.pixels(latents[:1])
    assert torch.equal(ids, recorded["tokens"].flatten(1))
    assert torch.allclose(latents, recorded["quant"], atol=1e-3)
    assert torch.allclose(decoded, recorded["decoded_first"], atol=1e-3)


VIT = {"image_size": 32, "n_channels": 3, "enc_type": "vit_s_enc", "dec_type": "vit_s_dec", "patch_size": 16,
       "quant_type": "lucid", "codebook_size": 8, "latent_dim": 4}  # fmt: skip


def test_a_diffusion_decoder_is_an_encoder_only() -> None:
    network = Network({**VIT, "dec_type": "unet_patched"})
    network.load({**network.state_dict(), "decoder.unet.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="diffusion decoder"):
        network.pixels(network.latents(torch.zeros(1, 4, dtype=torch.long)))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"enc_type": "convnext"}, "'convnext' is not known"), ({"quant_type": "fsq"}, "quantiser 'fsq' with 1")],
)
def test_unknown_networks_are_refused(change: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Network({**VIT, **change})


def test_tensors_that_do_not_fit_are_named() -> None:
    network = Network(VIT)
    state = dict(network.state_dict())
    del state["quant_proj.bias"]
    with pytest.raises(ValueError, match=r"lacks \['quant_proj.bias'\] and has \['extra'\]"):
        network.load({**state, "extra": torch.zeros(1)})


def test_another_resolution_than_the_checkpoint_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\) patches where the checkpoint has \(2, 2\)"):
        Network(VIT).tokens(torch.zeros(1, 3, 64, 64))
