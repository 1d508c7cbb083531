"""clip, dinov2 and imagebind: real code on tiny checkpoints (ImageBind's on a stand-in for its package), and encodings."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from labelers.clip import CLIP_FEATURES, CLIP_GLOBAL, Clip
from labelers.core.labeler import Sample
from labelers.core.pixels import square
from labelers.dinov2 import FEATURES, GLOBAL, Dinov2Base
from labelers.imagebind import IMAGEBIND_FEATURES, IMAGEBIND_GLOBAL, Imagebind
from tests.labelers import tiny, tiny_more


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.ready(Clip, tiny_more.clip(tmp_path_factory.mktemp("clip")))


def test_clip_on_odd_images(clip: Any) -> None:
    for row in clip.label(tiny.odd_samples()[1:4]):
        CLIP_FEATURES.check(row["clip"])
        CLIP_GLOBAL.check(row["clip_global"])
        assert row["clip"].shape == (14, 14, 512)


def test_clip_is_transformers_own(clip: Any, tmp_path: Path) -> None:
    """The global vector is CLIPModel's, and the class token put through the path of the patches is that vector too."""
    import torch
    from transformers import CLIPModel

    image = square(tiny.photo((300, 200)), 224)
    row = clip.label([Sample("a", image)])[0]
    model = CLIPModel.from_pretrained(clip.files["model"]).eval()
    with torch.inference_mode():
        pixels = clip.pixels(image[None])
        wanted = model.get_image_features(pixel_values=pixels).pooler_output[0]
        states = model.vision_model(pixel_values=pixels).last_hidden_state
        projected = model.visual_projection(model.vision_model.post_layernorm(states))[0]
    np.testing.assert_allclose(row["clip_global"], wanted, atol=1e-5)
    np.testing.assert_allclose(projected[0], wanted, atol=1e-5)
    np.testing.assert_allclose(row["clip"].reshape(-1, 512), projected[1:], atol=2e-3)


def test_a_large_view_has_a_finer_map(clip: Any) -> None:
    image = tiny.photo((448, 448))
    rows = clip.label([Sample("a", image), Sample("b", square(image, 224))])
    assert [row["clip"].shape for row in rows] == [(28, 28, 512), (14, 14, 512)]
    coarse = rows[0]["clip"].astype(np.float32).reshape(14, 2, 14, 2, 512).mean(axis=(1, 3))
    assert CLIP_FEATURES.compare(coarse, rows[1]["clip"])["cosine"] > 0.9


def test_dinov2_of_the_hub(tmp_path: Path) -> None:
    labeler = tiny.ready(Dinov2Base, tiny_more.dinov2(tmp_path))
    rows = labeler.label(tiny.odd_samples()[:3])
    for row in rows:
        FEATURES.check(row["dinov2"])
        GLOBAL.check(row["dinov2_global"])
        assert (row["dinov2"].shape, row["dinov2_global"].shape) == ((16, 16, 768), (768,))
    alone = labeler.label(tiny.odd_samples()[1:2])[0]
    assert alone["dinov2"].tobytes() == rows[1]["dinov2"].tobytes()


def test_a_network_that_overflows_gives_nulls(clip: Any) -> None:
    import torch

    scale = clip.network.visual_projection.weight.data.clone()
    clip.network.visual_projection.weight.data.mul_(1e6)
    try:
        (row,) = clip.label([Sample("a", tiny.photo((224, 224)))])
    finally:
        clip.network.visual_projection.weight.data.copy_(scale)
    assert "not finite" in row["clip"].reason
    assert torch.isfinite(scale).all()


def stand_in() -> ModuleType:
    """A module with the interface of imagebind.models.imagebind_model, its vision part tiny but 1280 wide."""
    import torch
    from torch import nn

    class Prepare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 1280, 14, 14)
            self.start = nn.Parameter(torch.randn(1, 1, 1280))

        def forward(self, vision: Any) -> Any:
            tokens = self.patch(vision).flatten(2).transpose(1, 2)
            return {"trunk": {"tokens": torch.cat([self.start.expand(len(tokens), -1, -1), tokens], 1)}, "head": {}}

    class Trunk(nn.Module):
        def forward(self, tokens: Any, attn_mask: Any = None) -> Any:
            return tokens + tokens.mean(1, keepdim=True)

    class ImageBindModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.modality_preprocessors = nn.ModuleDict({"vision": Prepare(), "text": nn.Linear(2, 2)})
            self.modality_trunks = nn.ModuleDict({"vision": Trunk()})
            self.modality_heads = nn.ModuleDict({"vision": nn.Sequential(nn.LayerNorm(1280), nn.Identity())})

    module = ModuleType("imagebind.models.imagebind_model")
    module.imagebind_huge = lambda pretrained: ImageBindModel()  # type: ignore[attr-defined]
    return module


def test_imagebind_through_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    module = stand_in()
    for name in ("imagebind", "imagebind.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "imagebind.models.imagebind_model", module)
    path = tmp_path / "imagebind_huge.pth"
    torch.save(module.imagebind_huge(pretrained=False).state_dict(), path)
    labeler = tiny.ready(Imagebind, path)
    for row in labeler.label(tiny.odd_samples()[:2]):
        IMAGEBIND_FEATURES.check(row["imagebind"])
        IMAGEBIND_GLOBAL.check(row["imagebind_global"])
        assert row["imagebind"].shape == (16, 16, 1280)
        np.testing.assert_allclose(row["imagebind_global"].std(), 1, atol=0.01)  # after the layer norm
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"is no imagebind_huge\.pth"):
        tiny.ready(Imagebind, path)


def test_imagebind_without_its_package_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "imagebind_huge.pth").write_bytes(b"")
    with pytest.raises(ImportError, match=r"needs the package imagebind.*pip install git\+https.*CC-BY-NC"):
        tiny.ready(Imagebind, tmp_path / "imagebind_huge.pth")
    assert not Imagebind.licence.commercial
    assert Imagebind().code() == {"imagebind": "not installed here"}
