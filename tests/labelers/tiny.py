"""Tiny random checkpoints of the published architectures, saved as real ones are, so that loading them is real."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.coco import CLASSES, PANOPTIC
from labelers.core.labeler import Labeler, Sample

ODD_SHAPES = [(48, 64), (64, 48), (1, 1), (1, 900), (300, 2)]


def photo(shape: tuple[int, int] = (48, 64), seed: int = 0) -> NDArray[np.uint8]:
    """A smooth picture with a few edges, uint8 RGB (H, W, 3)."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    rng = np.random.default_rng(seed)
    waves = [np.sin(x * rng.uniform(3, 12) + y * rng.uniform(3, 12) + rng.uniform(0, 6)) for _ in range(3)]
    picture = np.stack(waves, axis=-1) * 60 + 120 + 40 * (x + y > 0.7)[..., None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def odd_samples(**more: Any) -> list[Sample]:
    """Photos of odd shapes, black and white: what every labeler must take, each at its own resolution."""
    images = [photo(shape) for shape in ODD_SHAPES]
    images += [np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)]
    return [Sample(f"{i:032d}", image, **more) for i, image in enumerate(images)]


def save(network: Any, folder: Path, preprocessor: dict[str, Any] | None = None) -> Path:
    """The network as a checkpoint folder: config.json, model.safetensors, preprocessor_config.json."""
    from labelers.core.networks import quiet

    with quiet():
        network.save_pretrained(folder)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def ready(cls: type[Labeler], folder: Path, **params: Any) -> Any:
    """The labeler with its weights named by a file: URL, set up on one thread with fixed random weights."""
    import torch

    from labelers.core.weights import resolve_all

    torch.set_num_threads(1)
    urls = dict.fromkeys((*cls.weights, *cls.sources), f"file:{folder}")
    labeler = cls(cls.Params(**params), {slot: weight.path for slot, weight in resolve_all(urls).items()})
    labeler.setup()
    return labeler


def seeded(build: Callable[..., Path]) -> Callable[..., Path]:
    """The same random weights in every run and order of tests."""

    @functools.wraps(build)
    def run(*args: Any, **kwargs: Any) -> Path:
        import torch

        torch.manual_seed(0)
        return build(*args, **kwargs)

    return run


def names(classes: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}


@seeded
def depth_anything(folder: Path, **config: Any) -> Path:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    sizes = {"reassemble_hidden_size": 32, "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8}
    network = DepthAnythingForDepthEstimation(
        DepthAnythingConfig(backbone_config=backbone, patch_size=14, head_hidden_size=4, **sizes, **config)
    )
    prepare = {"size": {"height": 70, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14, "resample": 3}
    prepare |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    return save(network, folder, prepare)


@seeded
def dpt(folder: Path) -> Path:
    from transformers import DPTConfig, DPTForDepthEstimation

    config = DPTConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=64,
            patch_size=16,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=8,
            is_hybrid=False,
    )  # fmt: skip
    network = DPTForDepthEstimation(config)
    return save(network, folder, {"size": 64, "keep_aspect_ratio": False, "ensure_multiple_of": 1, "resample": 2})


def _resnet(kind: Any, **config: Any) -> Any:
    return kind(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", **config)


@seeded
def rt_detr(folder: Path) -> Path:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    config = RTDetrConfig(
            backbone_config=_resnet(RTDetrResNetConfig, out_features=["stage2", "stage3", "stage4"]),
            encoder_hidden_dim=16,
            encoder_in_channels=[8, 16, 16],
            encoder_ffn_dim=16,
            encoder_attention_heads=2,
            d_model=16,
            num_queries=12,
            decoder_in_channels=[16, 16, 16],
            decoder_ffn_dim=16,
            decoder_layers=1,
            decoder_attention_heads=2,
            encoder_layers=1,
            **names(CLASSES),
    )  # fmt: skip
    network = RTDetrForObjectDetection(config)
    return save(network, folder, {"size": {"height": 64, "width": 64}, "do_normalize": False, "resample": 2})


@seeded
def detr(folder: Path) -> Path:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    config = DetrConfig(
            backbone_config=_resnet(ResNetConfig, out_features=["stage4"]),
            use_timm_backbone=False,
            backbone=None,
            use_pretrained_backbone=False,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            num_queries=12,
            **names(CLASSES),
    )  # fmt: skip
    network = DetrForObjectDetection(config)
    return save(network, folder, {"size": {"shortest_edge": 64, "longest_edge": 100}, "resample": 2})


@seeded
def mask2former(folder: Path, classes: tuple[str, ...] = PANOPTIC) -> Path:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
            backbone_config=backbone,
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_layers=1,
            encoder_feedforward_dim=16,
            decoder_layers=2,
            num_attention_heads=2,
            dim_feedforward=16,
            num_queries=8,
            **names(classes),
    )  # fmt: skip
    network = Mask2FormerForUniversalSegmentation(config)
    return save(network, folder, {"size": {"shortest_edge": 64, "longest_edge": 100}, "resample": 2})
