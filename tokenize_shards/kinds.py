"""From a row of the token table to the tokenizer it asks for, not yet fitted. Rows of sequences are built in fit.py:
they need a vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

from tokenize_shards.mask_vq import MaskVQ, MaskVQConfig
from tokenize_shards.mlp_pq import MLPPQ, MLPPQConfig
from tokenize_shards.table import TokenSpec
from tokenize_shards.tokenizer import Tokenizer
from tokenize_shards.vit_vq import ViTVQ
from tokenize_shards.vit_vq_network import ViTVQConfig


def make_tokenizer(spec: TokenSpec) -> Tokenizer:
    """The unfitted tokenizer of a "vit_vq" or "mlp_pq" row; the row's params go to its configuration."""
    params = dict(spec.params)
    vocab = spec.vocab or 0
    if spec.kind == "mlp_pq":
        return MLPPQ(MLPPQConfig(spec.modality, "embedding", spec.channels, spec.tokens or 0, vocab, **params))
    if spec.kind != "vit_vq":
        raise ValueError(f"{spec.name}: {spec.kind} rows have no network of their own")
    # One token a cell of a feature map: patches of pixels are the feature network's business.
    side, patch = (spec.size // spec.patch, 1) if spec.content == "features" else (spec.size, spec.patch)
    return ViTVQ(ViTVQConfig(spec.modality, cast(Any, spec.content), side, spec.channels, patch, vocab, **params))


def make_pose_codec(spec: TokenSpec, dim: int) -> MLPPQ:
    """The codec of body poses inside a sequence row: vectors of `dim` numbers, settings pose_tokens and pose_codes."""
    tokens, codes = int(spec.params["pose_tokens"]), int(spec.params["pose_codes"])
    return MLPPQ(MLPPQConfig(spec.modality, "landmarks", dim, tokens, codes))


def make_mask_codec(spec: TokenSpec) -> MaskVQ:
    """The codec of instance masks inside a sequence row; settings mask_size, mask_tokens and mask_codes (4M-21's)."""
    size, tokens = int(spec.params.get("mask_size", 64)), int(spec.params.get("mask_tokens", 16))
    return MaskVQ(MaskVQConfig(spec.modality, size, tokens, int(spec.params.get("mask_codes", 1024))))
