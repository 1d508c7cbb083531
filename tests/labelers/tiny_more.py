"""Tiny random checkpoints of the networks of features, text, people and masks; see tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.labelers.tiny import save, seeded

WORDS = tuple("a man in dark coat looks through camera on tripod . two cats sleep the red cup and".split())  # noqa: SIM905


@seeded
def clip(folder: Path) -> Path:
    """The whole CLIP, texts too, as the hub has it."""
    from transformers import CLIPConfig, CLIPModel

    one = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**one, "image_size": 224, "patch_size": 16},
        text_config={**one, "vocab_size": 99},
        projection_dim=512,
    )
    return save(CLIPModel(config), folder)


@seeded
def dinov2(folder: Path) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=768, num_hidden_layers=1, num_attention_heads=12, mlp_ratio=1, image_size=518, patch_size=14
    )
    return save(Dinov2Model(config), folder)


@seeded
def tips(folder: Path) -> Path:
    from transformers import Tipsv2DptConfig, Tipsv2DptForDensePrediction

    backbone = {
        "model_type": "tipsv2_vision_model", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
        "image_size": 56, "patch_size": 14, "out_indices": [1, 2, 3, 4], "apply_layernorm": True, "reshape_hidden_states": False,
    }  # fmt: skip
    config = Tipsv2DptConfig(
        backbone_config=backbone, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8, num_labels=3
    )
    return save(
        Tipsv2DptForDensePrediction(config), folder, {"size": {"height": 56, "width": 56}, "do_normalize": False}
    )


@seeded
def vitpose(folder: Path, experts: int = 1, joints: int = 17) -> Path:
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    backbone = VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=32, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2,
        num_experts=experts, part_features=8, out_features=["stage1"],
    )  # fmt: skip
    network = VitPoseForPoseEstimation(
        VitPoseConfig(backbone_config=backbone, num_labels=joints, use_simple_decoder=False)
    )
    return save(network, folder, {"size": {"height": 64, "width": 48}})


def _tokenizer(folder: Path, ends: str) -> None:
    """A word-level tokenizer whose texts end with `ends`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", ends, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single=f"$A {ends}", special_tokens=[(ends, vocab[ends])])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token=ends,
        bos_token="[CLS]",
        eos_token=ends,
    ).save_pretrained(folder)


@seeded
def blip(folder: Path) -> Path:
    from transformers import BlipConfig, BlipForConditionalGeneration

    one = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**one, "vocab_size": 4 + len(WORDS), "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0,
            "encoder_hidden_size": 32, "projection_dim": 32, "max_position_embeddings": 64}  # fmt: skip
    config = BlipConfig(vision_config={**one, "image_size": 32, "patch_size": 16}, text_config=text, projection_dim=32)
    save(BlipForConditionalGeneration(config), folder, {"size": {"height": 32, "width": 32}})
    _tokenizer(folder, "[SEP]")
    return folder


@seeded
def t5(folder: Path) -> Path:
    """Encoder and decoder, as the hub has it; only the encoder is loaded."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=4 + len(WORDS), d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
        tie_word_embeddings=False, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    save(T5ForConditionalGeneration(config), folder)
    _tokenizer(folder, "</s>")
    return folder


@seeded
def sam2(folder: Path) -> Path:
    from transformers import Sam2Config, Sam2Model

    vision: dict[str, Any] = {
        "model_type": "sam2_vision_model",
        "backbone_config": {
            "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [128, 128],
            "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 1, 2, 2],
            "window_size_per_stage": [8, 4, 4, 4], "global_attention_blocks": [3],
        },
        "backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]], "fpn_hidden_size": 32,
    }  # fmt: skip
    prompts = {"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 4}
    one = {
        "hidden_size": 32,
        "mlp_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    }
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=one)
    return save(Sam2Model(config), folder, {"size": {"height": 128, "width": 128}})


@seeded
def florence(folder: Path) -> Path:
    from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration, Florence2VisionConfig

    vision = Florence2VisionConfig(
        depths=(1, 1, 1, 1), embed_dim=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), num_groups=(1, 1, 2, 2), window_size=2,
        projection_dim=32, max_temporal_embeddings=4, max_position_embeddings=8, drop_path_rate=0.0,
    )  # fmt: skip
    size = 5 + len(WORDS)
    text = BartConfig(
        vocab_size=size, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=2,
        eos_token_id=3, decoder_start_token_id=3, forced_bos_token_id=None, forced_eos_token_id=3,
        init_std=0.5,  # so that it says different words of different images
    )  # fmt: skip
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=size - 1)
    network = Florence2ForConditionalGeneration(config)
    network.generation_config.update(pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3)
    save(network, folder, {"size": {"height": 64, "width": 64}, "resample": 3})
    _tokenizer(folder, "[SEP]")
    return folder
