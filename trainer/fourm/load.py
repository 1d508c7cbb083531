"""Published 4M checkpoints (hub config and safetensors) into `FourM`: where each of their tensors goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from trainer.fourm.model import FourM, Part
from trainer.model import Size

SUPPORTED = {"act_layer": "SiLU", "gated_mlp": True, "qk_norm": False, "qkv_bias": False, "proj_bias": False,
             "mlp_bias": False, "norm_bias": False}  # fmt: skip


def parts_of(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[Part]:
    """The modalities of a checkpoint, from its config and the shapes of its tensors."""
    ins, outs = list(config["domains_in"]), list(config["domains_out"])
    found = []
    for name in dict.fromkeys([*ins, *outs]):
        sides = [f"{side}_embeddings.{name}" for side, names in (("encoder", ins), ("decoder", outs)) if name in names]
        places = shapes[f"{sides[0]}.pos_emb"][-2]
        if f"{sides[0]}.proj.weight" in shapes:
            width, grid = shapes[f"{sides[0]}.proj.weight"][1], _square(places)
            part = Part(name, "pixels", 0, places, grid, width)
        elif f"{sides[0]}.emb_proj.weight" in shapes:
            part = Part(name, "embeddings", 0, places, width=shapes[f"{sides[0]}.emb_proj.weight"][1])
        else:
            part = _token_part(name, places, shapes[f"{sides[0]}.token_emb.weight"][0])
        found.append(replace(part, inputs=name in ins, target=name in outs))
    return found


def _square(places: int) -> tuple[int, int]:
    side = round(places**0.5)
    return side, side


def _token_part(name: str, places: int, vocab: int) -> Part:
    if not name.startswith("tok_"):
        return Part(name, "sequence", vocab, places, pairs=name == "metadata")
    if name.endswith("_global"):
        return Part(name, "vector", vocab, places, learned=True)
    return Part(name, "image", vocab, places, _square(places))


def our_name(key: str) -> str:
    """The token modality here that a published one is: tok_depth@224 is tok_depth, caption tok_caption."""
    plain = key.removesuffix("@224")
    return plain if plain.startswith("tok_") or plain in ("rgb", "t5_caption") else f"tok_{plain}"


def build(config: Mapping[str, Any], tensors: Mapping[str, Tensor], rename: bool = False) -> FourM:
    """The model of a checkpoint, its weights in place. rename: modalities go by `our_name`. ValueError for a variant
    this code does not compute, or a tensor that is missing or left over.
    """
    for key, value in SUPPORTED.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key} is {config[key]!r}; only {value!r} is computed here")
    dim = int(config["dim"])
    size = Size(int(config["encoder_depth"]), int(config["decoder_depth"]), dim, int(config["num_heads"]))
    parts = parts_of(config, {k: tuple(v.shape) for k, v in tensors.items()})
    parts = [replace(part, alias=our_name(part.key)) for part in parts] if rename else parts
    with torch.device("meta"):
        model = FourM(parts, size)
    model = model.to_empty(device="cpu")
    fresh = FourM(model.parts, Size(0, 0, dim, size.heads))  # its tables of positions and its index buffers
    model.inputs, model.outputs, model.causal = fresh.inputs, fresh.outputs, fresh.causal
    taken: set[str] = set()

    def take(name: str) -> Tensor:
        if name not in tensors:
            raise ValueError(f"the checkpoint has no tensor {name}")
        taken.add(name)
        return tensors[name]

    with torch.no_grad():
        _fill_tables(model, take)
        _fill_stacks(model, take)
    left = [k for k in tensors if k not in taken and not _constant(k, tensors[k]) and not k.endswith("pos_emb")]
    if left:
        raise ValueError(f"the checkpoint has tensors with no place here: {', '.join(sorted(left)[:3])}")
    return model.eval()


def _constant(name: str, value: Tensor) -> bool:
    """Biases of norms that are zero and not learned."""
    return "norm" in name and name.endswith(".bias") and not bool(value.any())


def _fill_tables(model: FourM, take: Any) -> None:
    for i, part in enumerate(model.parts):
        # Both sides share the modality's vector; where a checkpoint has two, the decoder's is the one in force.
        sides = [("encoder", model.inputs)] * part.inputs + [("decoder", model.outputs)] * part.target
        for prefix, side in sides:
            base = f"{prefix}_embeddings.{part.key}"
            model.modality.weight[i] = take(f"{base}.mod_emb").flatten()
            if part.vocab:
                side.tokens_of(i, part).copy_(take(f"{base}.token_emb.weight"))
            if part.learned:
                side.places_of(i, part, model.size.dim).copy_(take(f"{base}.pos_emb").flatten(0, -2))
        if part.width:
            kind = "proj" if part.kind == "pixels" else "emb_proj"
            raw: Any = model.raw[str(i)]
            raw.weight.copy_(take(f"encoder_embeddings.{part.key}.{kind}.weight"))
            if part.kind == "embeddings":
                raw.bias.copy_(take(f"encoder_embeddings.{part.key}.{kind}.bias"))
        if part.vocab and part.target:
            head: Any = model.heads[str(i)]
            head.weight.copy_(take(f"decoder_embeddings.{part.key}.to_logits.weight"))


def _fill_stacks(model: FourM, take: Any) -> None:
    model.mask_token.copy_(take("mask_token").flatten())
    model.encoder_norm.weight.copy_(take("encoder_norm.weight"))
    model.decoder_norm.weight.copy_(take("decoder_norm.weight"))
    model.context_proj.weight.copy_(take("decoder_proj_context.weight"))
    model.context_proj.bias.copy_(take("decoder_proj_context.bias"))
    for stack, blocks in (("encoder", model.encoder), ("decoder", model.decoder)):
        for i, block in enumerate(blocks):
            _fill_block(block, f"{stack}.{i}", take)


def _fill_block(block: Any, base: str, take: Any) -> None:
    decoder = base.startswith("decoder")
    own, name = (block.self_attn, "self_attn") if decoder else (block.attn, "attn")
    dim = own.q.weight.shape[0]
    qkv = take(f"{base}.{name}.qkv.weight")
    own.q.weight.copy_(qkv[:dim])
    own.kv.weight.copy_(qkv[dim:])
    own.proj.weight.copy_(take(f"{base}.{name}.proj.weight"))
    block.mlp.gate_up.weight.copy_(torch.cat([take(f"{base}.mlp.fc1.weight"), take(f"{base}.mlp.fc3.weight")]))
    block.mlp.down.weight.copy_(take(f"{base}.mlp.fc2.weight"))
    norms = ["norm1", "norm2", *(["query_norm", "context_norm"] if decoder else [])]
    for norm in norms:
        getattr(block, norm).weight.copy_(take(f"{base}.{norm}.weight"))
    if decoder:
        for part in ("q", "kv", "proj"):
            getattr(block.cross_attn, part).weight.copy_(take(f"{base}.cross_attn.{part}.weight"))


def load(folder: Path, rename: bool = False) -> FourM:
    """From a published folder (config.json, model.safetensors). ConfigError, naming it, for anything else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return build(config, load_file(folder / "model.safetensors"), rename)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{folder}: is no 4M model that can be used: {error}") from error
