"""Images a second, where there is a GPU, of networks of full size with random weights, against the transformers pipeline
API on the same images in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labelers.clip import Clip
from labelers.core.labeler import Labeler, Sample
from labelers.depth import DepthAnything
from tests.bench import sam
from tests.bench.sam import timed

Figures = Iterator[tuple[str, tuple[float | None, str, str, bool | None, str]]]
NETWORKS = {"depth": DepthAnything, "clip": Clip}
GOAL = 1.5
PHOTO = (480, 640)


def full_size(name: str, folder: Path) -> Path:
    """A random checkpoint of the published size."""
    import transformers as t

    from tests.labelers.tiny import save

    normal = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    if name == "clip":
        vision = t.CLIPVisionConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
                                    patch_size=16, projection_dim=512)  # fmt: skip
        return save(t.CLIPVisionModelWithProjection(vision), folder, normal)
    backbone = t.Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, out_indices=[3, 6, 9, 12], reshape_hidden_states=False
    )
    config = t.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
    )
    size = {"size": {"height": 518, "width": 518}, "keep_aspect_ratio": True, "ensure_multiple_of": 14, "resample": 3}
    return save(t.DepthAnythingForDepthEstimation(config), folder, {**size, **normal})


def pipeline_of(name: str, labeler: Any, folder: Path) -> Callable[[Sequence[Any], int], Any]:
    """The pipeline API over the labeler's own network: (Pillow images, batch size) -> results."""
    import transformers as t

    if name == "clip":
        prepare = t.CLIPImageProcessorPil(size={"height": 224, "width": 224}, do_center_crop=False)
        task = "image-feature-extraction"
    else:
        prepare, task = t.DPTImageProcessorPil.from_pretrained(folder), "depth-estimation"
    pipe: Any = t.pipeline(task, model=labeler.network, image_processor=prepare, device=labeler.device)  # type: ignore[call-overload]
    return lambda images, batch: list(pipe(images, batch_size=batch))


def against_pipeline(name: str, folder: Path, labeler: Labeler, count: int) -> tuple[float, float]:
    """Images a second of the labeler, and how many times that is the pipeline's at the better of two batch sizes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*PHOTO, 3), np.uint8) for _ in range(count)]
    samples = [Sample(str(i), image) for i, image in enumerate(images)]
    pictures = [Image.fromarray(image) for image in images]
    pipe = pipeline_of(name, labeler, folder)
    step = labeler.resources.batch
    chunks = [samples[i : i + step] for i in range(0, count, step)]
    labeler.label(samples[:step])  # warm
    pipe(pictures[:2], 1)
    ours = count / timed(lambda: [labeler.label(chunk) for chunk in chunks])
    theirs = max(count / timed(lambda batch=batch: pipe(pictures, batch)) for batch in (1, step))
    return ours, ours / theirs


def on_gpu(folder: Path) -> Figures:
    """SAM; Depth Anything V2 Small and CLIP ViT-B/16, in half precision."""
    yield from sam.on_gpu(folder)
    yield from of_pipelines(folder)


def of_pipelines(folder: Path) -> Figures:
    """Depth Anything V2 Small and CLIP ViT-B/16 against the pipeline API."""
    import torch

    from tests.labelers.tiny import ready

    for name, cls in NETWORKS.items():
        rate, ratio = f"{name}_gpu_images_a_second", f"{name}_gpu_against_pipeline"
        if not torch.cuda.is_available():
            yield rate, (None, "images/s", "-", None, "needs a GPU")
            yield ratio, (None, "times the pipeline API", f">= {GOAL}", None, "needs a GPU")
            continue
        at = full_size(name, folder / name)
        found, times = against_pipeline(name, at, ready(cls, at, precision="float16"), 512)
        how = f"{torch.cuda.get_device_name()}, random weights, float16, 512 images of {PHOTO[1]} x {PHOTO[0]} from memory"
        yield rate, (found, "images/s", "-", None, how)
        yield (
            ratio,
            (
                times,
                "times the pipeline API",
                f">= {GOAL}",
                times >= GOAL,
                f"{how}; its better batch size of 1 and ours",
            ),
        )
