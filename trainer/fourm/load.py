"""Published 4M checkpoints (hub config and safetensors) into our model: where each of their tensors goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from trainer.fourm.model import FourM
from trainer.model import Size
from trainer.streams import Stream

SUPPORTED = {"act_layer": "SiLU", "gated_mlp": True, "qk_norm": False, "qkv_bias": False, "proj_bias": False,
             "mlp_bias": False, "norm_bias": False}  # fmt: skip


def our_name(key: str) -> str:
    """The token modality here that a published one is: tok_depth@224 is tok_depth, caption tok_caption, and
    t5_caption tok_t5_caption; rgb@224, which are pixels, tok_rgb_pixels.
    """
    plain = key.removesuffix("@224")
    if plain.split("@")[0] == "rgb":
        return f"tok_{plain.replace('rgb', 'rgb_pixels', 1)}"
    return plain if plain.startswith("tok_") else f"tok_{plain}"


def streams_of(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[Stream]:
    """The modalities of a checkpoint by their published names, from its config and the shapes of its tensors."""
    found = []
    for name in dict.fromkeys([*config["domains_in"], *config["domains_out"]]):
        base = f"{'encoder' if name in config['domains_in'] else 'decoder'}_embeddings.{name}"
        places = shapes[f"{base}.pos_emb"][-2]
        side = round(places**0.5)
        if f"{base}.proj.weight" in shapes:
            found.append(Stream(name, "patches", 0, places, (side, side), width=shapes[f"{base}.proj.weight"][1]))
        elif f"{base}.emb_proj.weight" in shapes:
            found.append(Stream(name, "embedding", 0, places, width=shapes[f"{base}.emb_proj.weight"][1]))
        else:
            vocab = shapes[f"{base}.token_emb.weight"][0]
            if not name.startswith("tok_"):  # [SOS] and [EOS] take places too
                found.append(Stream(name, "sequence", vocab, places - 2, pairs=name == "metadata", own_table=True))
            elif name.endswith("_global"):
                found.append(Stream(name, "vector", vocab, places, learned=True))
            else:
                found.append(Stream(name, "image", vocab, places, (side, side)))
    return found


class _Checkpoint:
    """Tensors by their published names, each asked for; what nobody asked for can be told at the end."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.config, self.tensors, self.taken = config, tensors, set[str]()

    def __call__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ValueError(f"the checkpoint has no tensor {name}")
        self.taken.add(name)
        return self.tensors[name]

    def sides(self, key: str) -> list[str]:
        """Where a modality's own tensors are. Both sides share its vector; the decoder's, the last, is in force."""
        pairs = (("encoder", "domains_in"), ("decoder", "domains_out"))
        return [f"{side}_embeddings.{key}" for side, names in pairs if key in self.config[names]]

    def left(self) -> list[str]:
        """Tensors with no place: neither taken, nor fixed positions, nor the zero biases of norms."""
        return sorted(
            k for k, v in self.tensors.items()
            if k not in self.taken and not k.endswith("pos_emb")
            and not ("norm" in k and k.endswith(".bias") and not bool(v.any()))
        )  # fmt: skip


def build(config: Mapping[str, Any], tensors: Mapping[str, Tensor], rename: bool = False) -> FourM:
    """The model of a checkpoint, its weights in place. rename: modalities go by `our_name`. ValueError for a variant
    this code does not compute, or a tensor that is missing or left over.
    """
    for key, value in SUPPORTED.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key} is {config[key]!r}; only {value!r} is computed here")
    size = Size(
        int(config["encoder_depth"]), int(config["decoder_depth"]), int(config["dim"]), int(config["num_heads"])
    )
    published = streams_of(config, {k: tuple(v.shape) for k, v in tensors.items()})
    model = FourM([replace(s, name=our_name(s.name)) if rename else s for s in published], size)
    take = _Checkpoint(config, tensors)
    with torch.no_grad():
        for i, stream in enumerate(published):
            _fill_tables(model, i, stream.name, take)
        _fill_stacks(model, take)
    if left := take.left():
        raise ValueError(f"the checkpoint has tensors with no place here: {', '.join(left[:3])}")
    return model.eval()


def _fill_tables(model: FourM, i: int, key: str, take: _Checkpoint) -> None:
    stream = model.streams[i]
    for base in take.sides(key):
        model.modality.weight[i] = take(f"{base}.mod_emb").flatten()
        encoder = base.startswith("encoder")
        if stream.values:
            raw: Any = model.inputs[stream.name]
            kind = "proj" if stream.kind == "patches" else "emb_proj"
            raw.weight.copy_(take(f"{base}.{kind}.weight"))
            if stream.kind == "embedding":
                raw.bias.copy_(take(f"{base}.{kind}.bias"))
            continue
        start = int(model.table_start[i])
        table = model.table if encoder else model.decoder_table
        table.weight[start : start + stream.vocab] = take(f"{base}.token_emb.weight")
        if stream.learned:
            (model.learned_in if encoder else model.learned_out)[stream.name].copy_(
                take(f"{base}.pos_emb").flatten(0, -2)
            )
        if not encoder:
            head: Any = model.heads[stream.table]
            head.weight.copy_(take(f"{base}.to_logits.weight"))


def _fill_stacks(model: FourM, take: _Checkpoint) -> None:
    model.mask_token.copy_(take("mask_token").flatten())
    model.encoder_norm.weight.copy_(take("encoder_norm.weight"))
    model.decoder_norm.weight.copy_(take("decoder_norm.weight"))
    model.context_proj.weight.copy_(take("decoder_proj_context.weight"))
    model.context_proj.bias.copy_(take("decoder_proj_context.bias"))
    for stack, blocks in (("encoder", model.encoder), ("decoder", model.decoder)):
        for i, block in enumerate(blocks):
            _fill_block(block, f"{stack}.{i}", take)


def _fill_block(block: Any, base: str, take: _Checkpoint) -> None:
    decoder = base.startswith("decoder")
    own, name = (block.self_attn, "self_attn") if decoder else (block.attn, "attn")
    dim = own.q.weight.shape[0]
    qkv = take(f"{base}.{name}.qkv.weight")
    own.q.weight.copy_(qkv[:dim])
    own.kv.weight.copy_(qkv[dim:])
    own.proj.weight.copy_(take(f"{base}.{name}.proj.weight"))
    block.mlp.gate_up.weight.copy_(torch.cat([take(f"{base}.mlp.fc1.weight"), take(f"{base}.mlp.fc3.weight")]))
    block.mlp.down.weight.copy_(take(f"{base}.mlp.fc2.weight"))
    for norm in ("norm1", "norm2", *(("query_norm", "context_norm") if decoder else ())):
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
