"""SAM on a tiny scale: a 64 pixel input, two blocks, no training."""

from __future__ import annotations

from functools import partial

import torch

from labelers.core.sam_import import segment_anything


def tiny_network() -> torch.nn.Module:
    """SAM with a 64 x 64 input, 4 x 4 tokens of 24 values; one block of windows of 3, one global one; two decoder layers."""
    modeling = segment_anything().modeling
    torch.manual_seed(0)
    network = modeling.Sam(
        modeling.ImageEncoderViT(
            img_size=64, patch_size=16, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2, out_chans=32,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=3, global_attn_indexes=(1,),
        ),
        modeling.PromptEncoder(embed_dim=32, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=8),
        modeling.MaskDecoder(
            num_multimask_outputs=3, transformer_dim=32, iou_head_depth=2, iou_head_hidden_dim=16,
            transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=32, num_heads=8, mlp_dim=40),
        ),
    )  # fmt: skip
    for name, tensor in network.named_parameters():
        if "pos" in name:  # these begin as zeros, which would hide a mistake
            torch.nn.init.normal_(tensor)
    with torch.no_grad():
        quality = network.mask_decoder.iou_prediction_head.layers[-1]  # scores inside 0..1, so that they differ
        quality.weight.mul_(0.1)
        quality.bias.fill_(0.5)
    return network.eval()
