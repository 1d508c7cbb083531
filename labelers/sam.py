"""sam_instance, sam_edge: everything in an image that SAM separates, as masks, and their outlines.

A grid of points is put to the network one batch at a time; what it is sure of, and what hardly changes with the
threshold, is kept once (segment_anything's own automatic mask generator). The network is built from the shapes in the
checkpoint, so ViT-B, ViT-L and ViT-H weights, and tuned ones, need no option: name them in the configuration's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from labelers.core.labeler import Labeler, Licence, Resources, Sample
from labelers.core.masks import SAM_EDGE, SAM_INSTANCE, Instance, edges_of, instance, largest_first, pack_counts
from labelers.core.modality import Label, Null
from labelers.core.networks import NetworkParams, device
from labelers.core.sam_import import segment_anything

if TYPE_CHECKING:
    import torch

DECODER_HEADS = 8  # of every published SAM; the one number that its tensors do not tell
BATCH_PIXELS = 1024 * 1024  # image size for which points_per_batch holds


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
    return modeling.ImageEncoderViT(
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


def hasten(encoder: Any, precision: str, compiled: bool) -> None:
    """The image encoder, which is nearly all of the work, in another number format, or compiled. What decodes points stays
    in float32: its answers are held against thresholds.
    """
    import torch

    dtype = getattr(torch, precision)
    encoder.to(dtype)
    encoder.register_forward_pre_hook(lambda _, given: tuple(pixels.to(dtype) for pixels in given))
    encoder.register_forward_hook(lambda _module, _given, made: made.float())
    if compiled:
        encoder.forward = torch.compile(encoder.forward)


class SamParams(NetworkParams):
    """precision, compile: of the image encoder. points_per_side: points of the grid along each side. points_per_batch:
    points a batch, for an image of 1024 x 1024; larger ones take fewer, so that memory stays the same. pred_iou_thresh:
    least quality the network gives its own mask. stability_score_thresh: least overlap of a mask with itself at a
    stricter threshold. min_area: least share of the image. nms: of masks whose boxes overlap by more, the best is kept.
    max_masks: the best are kept.
    """

    points_per_side: int = Field(32, ge=1, le=256)
    points_per_batch: int = Field(64, ge=1)
    pred_iou_thresh: float = Field(0.88, ge=0, le=1)
    stability_score_thresh: float = Field(0.95, ge=0, le=1)
    min_area: float = Field(0.0001, ge=0, lt=1)  # 4M-21 keeps boxes of 0.0005 of a view; views cut and enlarge
    nms: float = Field(0.7, gt=0, le=1)
    max_masks: int = Field(256, ge=1)


class Sam(Labeler):
    """Masks of everything in an image, by segment-anything, and their outlines."""

    name = "sam"
    version = 1
    backend = "SAM (segment-anything)"
    produces = (SAM_INSTANCE, SAM_EDGE)
    resources = Resources(cpu=1.0, gpu=0.5, batch=4)
    weights = {
        "checkpoint": "hf:ybelkada/segment-anything@7790786db131bcdc639f24a915d9f2c331d843ee"
        "!checkpoints/sam_vit_b_01ec64.pth#sha256=ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    }
    licence = Licence("Apache-2.0", "Apache-2.0")
    default_on = False
    Params = SamParams

    def setup(self) -> None:
        p = self.params
        network = load_network(self.files["checkpoint"]).to(device())
        hasten(network.image_encoder, p.precision, p.compile)
        self._side = network.image_encoder.img_size
        self._generator = segment_anything().SamAutomaticMaskGenerator(
            network,
            points_per_side=p.points_per_side,
            pred_iou_thresh=p.pred_iou_thresh,
            stability_score_thresh=p.stability_score_thresh,
            box_nms_thresh=p.nms,
            output_mode="uncompressed_rle",
        )

    def masks(self, image: NDArray[np.uint8]) -> list[Instance]:
        """The masks in one image, uint8 RGB (H, W, 3), largest first."""
        pixels = image.shape[0] * image.shape[1]
        share = min(1.0, BATCH_PIXELS / pixels)
        self._generator.points_per_batch = max(1, int(self.params.points_per_batch * share))
        least = max(1, self.params.min_area * pixels)
        found = [one for one in self._generator.generate(image) if one["area"] >= least]
        best = sorted(found, key=lambda one: -one["predicted_iou"])[: self.params.max_masks]
        return largest_first([_instance(one) for one in best])

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        labels: list[dict[str, Label | Null]] = []
        for sample in samples:
            height, width = sample.image.shape[:2]
            scale = self._side / max(height, width)
            if int(min(height, width) * scale + 0.5) < 1:  # as the package rounds it
                narrow = Null(f"{width} x {height} pixels: no pixel is left of the short side at SAM's input size")
                labels.append({"sam_instance": narrow, "sam_edge": narrow})
            else:
                masks = self.masks(sample.image)
                labels.append({"sam_instance": masks, "sam_edge": edges_of(masks, (height, width))})
        return labels


def _instance(one: Mapping[str, Any]) -> Instance:
    """A record of the generator as an entry of the label. Its quality is a regression, which may leave 0..1."""
    rle = one["segmentation"]
    counts = pack_counts(np.array(rle["counts"], np.int64))
    score = float(np.clip(one["predicted_iou"], 0, 1))
    return instance({"size": rle["size"], "counts": counts}, score, np.array(one["point_coords"][0], np.float32))
