"""clip, clip_global: what CLIP ViT-B/16 sees, in the space that images share with texts.

The map holds the last layer's patch tokens, normalised and projected as CLIP does with its class token, which itself is
the global vector. Projected patches are what 4M-21 tokenizes; the class token is not among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from labelers.core.features import ViewFeatures, features_modality
from labelers.core.labeler import Licence, Resources
from labelers.core.modality import vector_modality
from labelers.core.networks import NetworkLabeler
from labelers.core.pixels import Preparation

if TYPE_CHECKING:
    import torch

DIM = 512

CLIP_FEATURES = features_modality(
    "clip",
    (DIM,),
    "projected patch tokens of CLIP ViT-B/16, one a 16 px patch of a view, after the last norm, no class token",
)
CLIP_GLOBAL = vector_modality(
    "clip_global",
    DIM,
    f"float32 ({DIM},); CLIP's image embedding, not of unit length; cosine with text embeddings",
    on_view=True,
)


class Clip(ViewFeatures, NetworkLabeler):
    """CLIP's projected patches and image embedding. Views of 448 px get a map of 28 x 28: positions are interpolated."""

    name = "clip"
    version = 1
    backend = "CLIP ViT-B/16 (transformers)"
    produces = (CLIP_FEATURES, CLIP_GLOBAL)
    resources = Resources(cpu=1.0, gpu=0.25, batch=32)
    weights = {"model": "hf:openai/clip-vit-base-patch16@57c216476eefef5ab752ec549e440a49ae4ae5f3"}
    licence = Licence("MIT", "MIT")
    architecture = "CLIPVisionModelWithProjection"
    prepare = Preparation(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
    patch = 16
    sides = (224, 448)

    def embed(self, views: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.network(self.pixels(views), interpolate_pos_encoding=True)
        patches = self.network.vision_model.post_layernorm(out.last_hidden_state[:, 1:])
        return out.image_embeds, self.network.visual_projection(patches)
