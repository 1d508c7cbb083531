"""SAM's network: built from the shapes in a checkpoint of segment_anything.

ViT-B, ViT-L and ViT-H weights, and tuned ones, need no option: all sizes but one stand in the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelers.core.sam_import import segment_anything

if TYPE_CHECKING:
    import torch

DECODER_HEADS = 8  # of every published SAM; the one number that its tensors do not tell


def _blocks(tensors: Mapping[str, Any], prefix: str) -> int:
    """How many numbered parts there are below a prefix."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)})


def _image_encoder(tensors: Mapping[str, torch.Tensor], modeling: Any) -> torch.nn.Module:
    from functools import partial

    from torch import nn

    at = "image_encoder."
    _, grid, _, dim = tensors[f"{at}pos_embed"].shape
    patch = tensors[f"{at}patch_embed.proj.weight"].shape[-1]
    depth = _blocks(tensors, f"{at}blocks.")
    reach = [tensors[f"{at}blocks.{i}.attn.rel_pos_h"].shape[0] // 2 + 1 for i in range(depth)]  # tokens a side
    encoder: torch.nn.Module = modeling.ImageEncoderViT(
        img_size=grid * patch,
        patch_size=patch,
        embed_dim=dim,
        depth=depth,
        num_heads=dim // tensors[f"{at}blocks.0.attn.rel_pos_h"].shape[1],
        mlp_ratio=tensors[f"{at}blocks.0.mlp.lin1.weight"].shape[0] / dim,
        out_chans=tensors[f"{at}neck.0.weight"].shape[0],
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=min(reach),
        global_attn_indexes=tuple(i for i, tokens in enumerate(reach) if tokens == grid),
    )
    return encoder


def build_network(tensors: Mapping[str, torch.Tensor], modeling: Any) -> Any:
    """The Sam that a checkpoint fits, by the shapes of its tensors; its values are not filled in.

    modeling: segment_anything.modeling. Raises KeyError, ValueError and the like for tensors of something else.
    """
    encoder, at = _image_encoder(tensors, modeling), "mask_decoder."
    answers, dim = tensors[f"{at}mask_tokens.weight"].shape
    grid = tensors["image_encoder.pos_embed"].shape[1]
    prompts = modeling.PromptEncoder(
        embed_dim=dim,
        image_embedding_size=(grid, grid),
        input_image_size=(encoder.img_size, encoder.img_size),
        mask_in_chans=tensors["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    )
    decoder = modeling.MaskDecoder(
        num_multimask_outputs=answers - 1,
        transformer_dim=dim,
        transformer=modeling.TwoWayTransformer(
            depth=_blocks(tensors, f"{at}transformer.layers."),
            embedding_dim=dim,
            mlp_dim=tensors[f"{at}transformer.layers.0.mlp.lin1.weight"].shape[0],
            num_heads=DECODER_HEADS,
        ),
        iou_head_depth=_blocks(tensors, f"{at}iou_prediction_head.layers."),
        iou_head_hidden_dim=tensors[f"{at}iou_prediction_head.layers.0.weight"].shape[0],
    )
    return modeling.Sam(encoder, prompts, decoder)


def load_network(path: Path) -> Any:
    """segment_anything's Sam with the weights of a checkpoint (.pth), in float32, ready for inference.

    Raises ValueError for a file that is no checkpoint of that package, or that holds values which are not finite: such
    a network would find nothing and look as if there was nothing to find.
    """
    import torch

    modeling = segment_anything().modeling
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch's own words advise to unpickle code
        raise ValueError(f"{path} is no file of tensors that torch loads safely ({type(error).__name__})") from error
    try:
        network = build_network(tensors, modeling)
        network.load_state_dict(tensors)
    except Exception as error:  # missing names, other shapes, no dictionary at all: each says the same of the file
        raise ValueError(
            f"{path} is no SAM checkpoint in the layout of segment_anything ({type(error).__name__}: "
            f"{str(error)[:200]}); name a .pth such as sam_vit_b_01ec64.pth"
        ) from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError(f"{path} holds values that are not finite; fetch it again")
    return network.eval().requires_grad_(False)
