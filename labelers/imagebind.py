"""imagebind, imagebind_global: what ImageBind ViT-H/14 sees, in the space that images share with sound, text and depth.

A plug: network and code are those of the published package `imagebind`, which is not a dependency, because its licence
(CC-BY-NC-4.0, code and weights) forbids commercial use and it needs torchvision. Install it from its repository where you
accept that, download imagebind_huge.pth, and name it in the configuration. Only its vision part is run.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.features import ViewFeatures, features_modality
from labelers.core.labeler import Licence, Resources
from labelers.core.modality import vector_modality
from labelers.core.networks import NetworkParams, device
from labelers.core.pixels import Preparation

if TYPE_CHECKING:
    import torch

DIM = 1280
INSTALL = (
    "pip install git+https://github.com/facebookresearch/ImageBind (CC-BY-NC-4.0: no commercial use), on a machine where "
    "torchvision fits torch"
)

IMAGEBIND_FEATURES = features_modality(
    "imagebind",
    (DIM,),
    "patch tokens of ImageBind's vision trunk, one a 14 px patch of a 224 px view, after its last norm",
)
IMAGEBIND_GLOBAL = vector_modality(
    "imagebind_global", DIM,
    f"float32 ({DIM},); class token of ImageBind's vision trunk after its last norm, before the projection; not of unit length",
    on_view=True,
)  # fmt: skip


class Imagebind(ViewFeatures):
    """Patch features and the class token by the published package."""

    name = "imagebind"
    version = 1
    backend = "ImageBind ViT-H/14 (package imagebind)"
    produces = (IMAGEBIND_FEATURES, IMAGEBIND_GLOBAL)
    resources = Resources(cpu=1.0, gpu=0.5, batch=32)
    sources = ("checkpoint",)  # imagebind_huge.pth
    licence = Licence("CC-BY-NC-4.0", "CC-BY-NC-4.0", commercial=False)
    default_on = False
    Params = NetworkParams
    patch = 14
    prepare = Preparation(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))

    def code(self) -> Mapping[str, str]:
        try:
            return {"imagebind": version("imagebind")}
        except PackageNotFoundError:
            return {"imagebind": "not installed here"}

    def setup(self) -> None:
        import torch

        model = _published().imagebind_huge(pretrained=False)
        path = self.files["checkpoint"]
        try:
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (OSError, MemoryError):
            raise
        except Exception as error:  # no checkpoint, or one of something else
            raise ValueError(f"{path} is no imagebind_huge.pth ({type(error).__name__}: {str(error)[:200]})") from error
        dtype = getattr(torch, self.params.precision)
        parts = {
            "prepare": model.modality_preprocessors["vision"],
            "trunk": model.modality_trunks["vision"],
            "norm": model.modality_heads["vision"][
                0
            ],  # LayerNorm, then the choice of the class token and the projection
        }
        self.device = device()
        self._parts: dict[str, Any] = {
            name: part.to(self.device, dtype).eval().requires_grad_(False) for name, part in parts.items()
        }
        if self.params.compile:
            self._parts["trunk"] = torch.compile(self._parts["trunk"])

    def embed(self, views: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        pixels = self.prepare.tensor(views, self.device, getattr(torch, self.params.precision))
        inputs = self._parts["prepare"](vision=pixels)
        tokens = self._parts["norm"](self._parts["trunk"](**inputs["trunk"]))
        return tokens[:, 0], tokens[:, 1:]


def _published() -> Any:
    """The package's module that builds the network. ImportError, with what to do, where it is absent or broken."""
    try:
        return importlib.import_module("imagebind.models.imagebind_model")
    except ImportError as error:
        raise ImportError(
            f"labelers.imagebind needs the package imagebind, which is not here ({error}): {INSTALL}"
        ) from error
