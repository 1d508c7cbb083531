"""depth: how far away each pixel is, by Depth Anything V2 or by DPT. A configuration enables one of the two.

Both say an inverse of the distance up to scale and shift, larger = nearer; here the sign is turned. A metric checkpoint
of Depth Anything says metres, and its config.json says that it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelers.core.depth_map import DEPTH, DepthMap, stretched
from labelers.core.labeler import Licence, Resources, Sample
from labelers.core.modality import Label, Null
from labelers.core.networks import NetworkLabeler
from labelers.core.pixels import Preparation


class DepthAnything(NetworkLabeler):
    """Depth by Depth Anything V2. Small is free; Base, Large and Giant are CC-BY-NC-4.0: name them only where that fits."""

    name = "depth_anything"
    version = 1
    backend = "Depth Anything V2 Small (transformers)"
    produces = (DEPTH,)
    resources = Resources(cpu=1.0, gpu=0.25, batch=16)
    weights = {"model": "hf:depth-anything/Depth-Anything-V2-Small-hf@5426e4f0f36572d16453bbda7a8389317b1bef99"}
    licence = Licence("Apache-2.0", "Apache-2.0")
    architecture = "DepthAnythingForDepthEstimation"
    prepare = Preparation(518, 518, "nearest", multiple=14)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        maps = self.batched([s.image for s in samples], lambda out: list(out.predicted_depth.float()))
        metric = getattr(self.network.config, "depth_estimation_type", "relative") == "metric"
        pairs = [(one.cpu().numpy(), sample.image) for one, sample in zip(maps, samples, strict=True)]
        return [{"depth": label} for label in self.each(lambda pair: _label(*pair, metric), pairs)]


class Dpt(DepthAnything):
    """Depth by DPT, as MiDaS 3 trained it: the image is squeezed into a square, the only shape it takes."""

    name = "dpt"
    version = 1
    backend = "DPT-Large, MiDaS 3.0 (transformers)"
    weights = {"model": "hf:Intel/dpt-large@main"}
    licence = Licence("Apache-2.0", "Apache-2.0")
    architecture = "DPTForDepthEstimation"
    unused = (
        r"neck\.fusion_stage\.layers\.0\.residual_layer1\..*"  # the first fusion has nothing to add; not in dpt-large
    )
    prepare = Preparation(384, 384, "squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _label(values: NDArray[np.float32], image: NDArray[np.uint8], metric: bool) -> Label | Null:
    """A network's map (h, w) as a label at the image's resolution."""
    if not np.isfinite(values).all():
        return Null("the network gave values that are not finite")
    size = (image.shape[1], image.shape[0])
    full = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR), np.float32)
    return DepthMap(np.maximum(full, 0), "metre") if metric else stretched(-full, "inverse")
