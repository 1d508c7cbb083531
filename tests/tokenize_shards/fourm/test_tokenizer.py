"""A published tokenizer in our file format, and adopted by a data set. Weights: tiny random ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from labelers.core.weights import resolve
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tests.tokenize_shards.small import small_config
from tokenize_shards.fourm import networks
from tokenize_shards.fourm.adopt import adopt_tokenizer
from tokenize_shards.fourm.networks import Network
from tokenize_shards.fourm.tokenizer import FourM
from tokenize_shards.shards import open_tokens
from tokenize_shards.tokenize import tokenize
from tokenize_shards.tokenizer import FitError, load_tokenizer

CONFIG = {"image_size": 32, "n_channels": 3, "enc_type": "vit_s_enc", "dec_type": "vit_s_dec", "patch_size": 8,
          "post_mlp": True, "quant_type": "lucid", "codebook_size": 64, "latent_dim": 8}  # fmt: skip
VECTOR = {"image_size": 1, "n_channels": 12, "enc_type": "BottleneckMLP/B_1-Wi_16", "dec_type": "BottleneckMLP/B_1-Wi_16",
          "patch_size": 1, "quant_type": "memcodes", "codebook_size": 8, "num_codebooks": 2, "latent_dim": 16}  # fmt: skip


@pytest.fixture(autouse=True)
def small_vits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(networks.SIZES, "s", (32, 1, 2))


def checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """A random checkpoint in the published layout."""
    network = Network(config)
    generator = torch.Generator().manual_seed(0)
    state = {k: 0.3 * torch.randn(v.shape, generator=generator) for k, v in network.state_dict().items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors")
    return folder


def test_saved_and_loaded_it_makes_the_same_tokens(tmp_path: Path) -> None:
    made = FourM.from_folder(checkpoint(tmp_path / "c", CONFIG), "rgb", "pixels")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    tokens = made.encode(images)
    assert tokens.shape == (3, 16) and tokens.dtype == np.uint16 and made.vocab == 64
    assert np.array_equal(made.encode(images[1:2]), tokens[1:2])
    made.save(tmp_path / "a")
    again = load_tokenizer(tmp_path / "a")
    assert np.array_equal(again.encode(images), tokens)
    decoded = again.decode(tokens)
    assert decoded.shape == images.shape and np.array_equal(decoded, made.decode(tokens))
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_vectors(tmp_path: Path) -> None:
    made = FourM.from_folder(checkpoint(tmp_path / "c", VECTOR), "dinov2_global", "vector")
    vectors = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    tokens = made.encode(vectors)
    assert tokens.shape == (5, 2) and made.decode(tokens).shape == (5, 12)
    with pytest.raises(ValueError, match="token 8 is outside the vocabulary of 8"):
        made.decode(np.full((1, 2), 8))
    with pytest.raises(FitError, match="is not fitted here"):
        made.fit(vectors, vectors)


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no 4M tokenizer that can be used for rgb"):
        FourM.from_folder(tmp_path, "rgb", "pixels")


def test_a_data_set_adopts_it_and_tokenizes_with_it(labelled: Path, tmp_path: Path) -> None:
    ds, config = Dataset.open(str(labelled)), small_config(labelled)
    weights = resolve(f"file:{checkpoint(tmp_path / 'c', CONFIG)}")
    adopt_tokenizer(ds, config, "tok_rgb", weights)
    assert not tokenize(ds, config, ["tok_rgb"]).failed
    shard = open_tokens(ds.open_shard("tok_rgb", ds.current("tok_rgb"), 0)[0])
    assert shard.meta.vocab == 64 and shard.valid.all()
    weights = resolve(f"file:{checkpoint(tmp_path / 'd', {**CONFIG, 'codebook_size': 32})}")
    with pytest.raises(ConfigError, match="makes 16 tokens of 32 codes, tok_rgb has 16 of 64"):
        adopt_tokenizer(ds, config, "tok_rgb", weights)
    with pytest.raises(ConfigError, match="no token modality is named 'tok_rgbb'"):
        adopt_tokenizer(ds, config, "tok_rgbb", weights)
