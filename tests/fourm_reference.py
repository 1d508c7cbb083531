"""The recorded outputs of the published implementation, and the formula that fills its weights."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parents[2] / "shared" / "assets" / "reference"


def recording(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(description, recorded tensors) of one recording; skips where the recordings are absent."""
    if not (FOLDER / f"{name}.json").is_file():
        pytest.skip(f"the recorded outputs of the published implementation are not here ({FOLDER})")
    return json.loads((FOLDER / f"{name}.json").read_text()), load_file(FOLDER / f"{name}.safetensors")


def filled(state: dict[str, tuple[str, list[int]]], zero_norm_bias: bool = False) -> dict[str, Tensor]:
    """The weights of a recording, each from its name alone; sin-cos tables and statistics are left out."""
    made = {}
    for name, (dtype, shape) in state.items():
        statistic = name.endswith(("cluster_size", "initted"))
        fixed = name.endswith("pos_emb") and "dinov2_global" not in name
        if not dtype.startswith("float") or statistic or fixed:
            continue
        r = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if name.endswith("_codebook.embed"):
            r = F.normalize(r, dim=-1)
        elif len(shape) == 1 and "norm" in name and name.endswith("weight"):
            r = 1 + 0.1 * r
        elif zero_norm_bias and "norm" in name and name.endswith("bias"):
            r = torch.zeros(shape)
        else:
            r = 0.05 * r
        made[name] = r
    return made
