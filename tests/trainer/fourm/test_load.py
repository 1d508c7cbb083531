"""A published masked model in our blocks: logits and losses equal to the recorded ones; other checkpoints refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import ConfigError
from tests.fourm_reference import filled, recording
from trainer.fourm.load import build, load
from trainer.fourm.model import FourM, patches

ORDER = ("tok_dinov2_global", "metadata", "caption", "tok_depth@224")  # rows of the recorded logits


def reference() -> tuple[FourM, dict[str, Any], dict[str, Tensor]]:
    about, recorded = recording("fm_reference")
    weights = filled(about["state"], zero_norm_bias=True)
    fixed = {name: torch.zeros(shape) for name, (_, shape) in about["state"].items() if name not in weights}
    return build(about["config"], {**fixed, **weights}), about, recorded


def index(model: FourM, name: str) -> int:
    return [s.name for s in model.streams].index(name)


def visible(model: FourM, recorded: dict[str, Tensor], b: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(ids or rows, stream, position) of what one sample shows."""
    found = []
    for i, part in enumerate(model.streams):
        name = part.name
        shown = (~recorded[f"in/{name}/input_mask"][b]).nonzero().flatten()
        counted = part.kind in ("sequence", "embedding")
        ids = shown if part.values else recorded[f"in/{name}/tensor"][b][shown]
        found.append((ids, torch.full_like(shown, i), torch.arange(len(shown)) if counted else shown))
    return found


def targets(model: FourM, recorded: dict[str, Tensor], b: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(symbol before, target, stream, position) of what one sample is asked for."""
    found = []
    for name in ORDER:
        at = (~recorded[f"in/{name}/target_mask"][b]).nonzero().flatten()
        ids, i = recorded[f"in/{name}/tensor"][b][at], index(model, name)
        if model.streams[i].kind == "sequence":
            ids_in, ids, at = ids[:-1], ids[1:], torch.arange(len(at) - 1)
        else:
            ids_in = torch.zeros_like(ids)
        found.append((ids_in, ids, torch.full_like(ids, i), at))
    return found


def stacked(rows: list[list[tuple[Tensor, ...]]]) -> list[Tensor]:
    """Each of the parts of a sample, end to end, samples in rows."""
    return [torch.stack([torch.cat([p[j] for p in row]) for row in rows]) for j in range(len(rows[0][0]))]


@torch.no_grad()
def test_equal_to_the_published_model() -> None:
    model, about, recorded = reference()
    ids, stream, position = stacked([visible(model, recorded, b) for b in range(2)])
    before, target, out_stream, out_position = stacked([targets(model, recorded, b) for b in range(2)])
    real = torch.ones_like(target, dtype=torch.bool)
    raw = {
        "rgb@224": patches(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(5)), 16),
        "t5_caption": torch.randn(2, 77, 4096, generator=torch.Generator().manual_seed(6)),
    }
    context, mask = model.encode(ids, stream, position, torch.ones_like(ids, dtype=torch.bool), values=raw)
    hidden = model.decode(before, out_stream, out_position, real, context, mask)
    losses = []
    for name in ORDER:
        logits, n = model.logits(hidden, name), real.shape[1]
        assert torch.allclose(logits[..., :64], recorded[f"logits/{name}/first64"][:, :n], atol=1e-4)
        assert torch.allclose(logits.logsumexp(-1), recorded[f"logits/{name}/logsumexp"][:, :n], atol=1e-4)
        assert torch.equal(logits.argmax(-1), recorded[f"logits/{name}/argmax"][:, :n])
        mine = out_stream == index(model, name)
        losses.append(float(F.cross_entropy(logits[mine], target[mine])))
        assert losses[-1] == pytest.approx(about["loss_per_modality"][name], abs=1e-4)
    assert sum(losses) / len(losses) == pytest.approx(about["loss"], abs=1e-4)


@torch.no_grad()
def test_step_by_step_is_the_same_as_at_once() -> None:
    model, _, _ = tiny()
    i = index(model, "caption")
    context, mask = model.encode(*shown(model, "tok_depth@32"))
    ids = torch.tensor([[2, 250, 251, 252]])
    which, at = torch.full_like(ids, i), torch.arange(4)[None]
    whole = model.decode(ids, which, at, torch.ones_like(ids, dtype=torch.bool), context, mask)
    past, contexts, rows = None, model.contexts(context), []
    for t in range(4):
        part = slice(t, t + 1)
        x = model.query(ids[:, part], which[:, part], at[:, part], torch.ones(1, 1, dtype=torch.bool))
        hidden, past = model.step(x, past, contexts, mask)
        rows.append(hidden)
    assert torch.allclose(torch.cat(rows, 1), whole, atol=1e-5)


def shown(model: FourM, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    part = model.streams[index(model, name)]
    at = torch.arange(part.length)[None]
    return at % max(1, part.vocab), torch.full_like(at, index(model, name)), at, torch.ones_like(at, dtype=torch.bool)


CONFIG = {"domains_in": ["rgb@32", "caption", "tok_depth@32", "t5_caption"], "domains_out": ["caption", "tok_depth@32"],
          "dim": 64, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 1, "act_layer": "SiLU", "gated_mlp": True}  # fmt: skip


def tiny() -> tuple[FourM, dict[str, Any], dict[str, Tensor]]:
    """A random checkpoint in the published layout: (model, config, tensors)."""
    shapes: dict[str, tuple[int, ...]] = {"mask_token": (1, 1, 64), "decoder_proj_context.weight": (64, 64)}
    shapes |= {"decoder_proj_context.bias": (64,), "encoder_norm.weight": (64,), "decoder_norm.weight": (64,)}
    value = {
        "rgb@32": {"proj.weight": (64, 768), "pos_emb": (1, 4, 64)},
        "caption": {"token_emb.weight": (300, 64), "pos_emb": (1, 512, 64)},
        "tok_depth@32": {"token_emb.weight": (16, 64), "pos_emb": (1, 4, 64)},
        "t5_caption": {"emb_proj.weight": (64, 32), "emb_proj.bias": (64,), "pos_emb": (1, 512, 64)},
    }
    for side, names in (("encoder", CONFIG["domains_in"]), ("decoder", CONFIG["domains_out"])):
        for name in names:  # type: ignore[attr-defined]
            head = {"to_logits.weight": value[name].get("token_emb.weight", ())} if side == "decoder" else {}
            for key, shape in {**value[name], **head, "mod_emb": (1, 1, 64)}.items():
                shapes[f"{side}_embeddings.{name}.{key}"] = shape
    for base, attention in (("encoder.0", "attn"), ("decoder.0", "self_attn")):
        shapes |= {f"{base}.{attention}.qkv.weight": (192, 64), f"{base}.{attention}.proj.weight": (64, 64)}
        shapes |= {f"{base}.mlp.fc{i}.weight": (64, 170) if i == 2 else (170, 64) for i in (1, 2, 3)}
        shapes |= {f"{base}.norm{i}.weight": (64,) for i in (1, 2)}
    shapes |= {f"decoder.0.{n}.weight": (64,) for n in ("query_norm", "context_norm")}
    shapes |= {f"decoder.0.cross_attn.{n}.weight": (128 if n == "kv" else 64, 64) for n in ("q", "kv", "proj")}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return build(CONFIG, tensors), dict(CONFIG), tensors


def test_the_modalities_are_read_from_the_checkpoint() -> None:
    model, _, _ = tiny()
    assert {s.name: s.kind for s in model.streams} == {
        "rgb@32": "patches", "caption": "sequence", "tok_depth@32": "image", "t5_caption": "embedding"
    }  # fmt: skip
    renamed = build(*tiny()[1:], rename=True)
    assert [s.name for s in renamed.streams] == ["tok_rgb_pixels@32", "tok_caption", "tok_depth@32", "tok_t5_caption"]


def test_a_folder_is_loaded_and_what_is_none_is_refused(tmp_path: Path) -> None:
    model, config, tensors = tiny()
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors")
    again = load(tmp_path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    for change, said in (({"qk_norm": True}, "qk_norm is True"), ({"dim": 128}, "no 4M model")):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ConfigError, match=said):
            load(tmp_path)
    with pytest.raises(ConfigError, match="no 4M model"):
        load(tmp_path / "absent")


def test_missing_and_left_over_tensors_are_named() -> None:
    _, config, tensors = tiny()
    with pytest.raises(ValueError, match="with no place here: extra"):
        build(config, {**tensors, "extra": torch.ones(3)})
    del tensors["mask_token"]
    with pytest.raises(ValueError, match="no tensor mask_token"):
        build(config, tensors)
