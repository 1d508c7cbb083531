"""import_depth: depth maps somebody already has, from 8- or 16-bit PNG, or .npy, of a declared unit and scale."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydantic import Field

from labelers.core.depth_map import DEPTH, DepthMap, Unit
from labelers.core.importing import ImportLabeler
from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from labelers.core.sources import MatchParams, Source, SourceError, read_map, resized


class ImportDepthParams(MatchParams):
    """unit: what a number is after multiplication by `scale`: "metre" (millimetres: scale 0.001), "relative" (distance of
    unknown scale and shift, larger is farther), or "inverse" (disparity, or 1 / distance of unknown scale and shift:
    larger is NEARER in the source, and its sign is turned here). missing: the number that stands for no value; null for
    none. Not finite is always missing, and so is a distance of 0 m.
    """

    unit: Unit = "metre"
    scale: float = Field(0.001, gt=0)
    missing: float | None = 0.0


class ImportDepth(ImportLabeler):
    """Depth from a folder or .zip of PNG (8 or 16 bits) or .npy (H, W), or of the PNGs that a data set holds, whose unit
    and range are inside.
    """

    name = "import_depth"
    version = 2
    backend = "import: depth maps"
    produces = (DEPTH,)
    Params = ImportDepthParams

    def load(self, source: Source) -> Iterable[str]:
        return source.of(".png", ".npy")

    def entry(self, name: str, sample: Sample) -> dict[str, Label | Null]:
        data, p = self.source.read(name), self.params
        pixels = read_map(data, sample.shape, p.resize)
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[..., 0]
        if pixels.ndim != 2:
            raise SourceError(f"expected one number a pixel, got {pixels.shape}")
        if b"manymodal-depth" in data[:4096]:  # read_map has judged its size and that it is whole
            mine = DEPTH.decode(data)
            return {"depth": DepthMap(resized(mine.values, sample.shape), mine.unit)}
        values = pixels.astype(np.float64)
        known = np.isfinite(values) & ((values != p.missing) if p.missing is not None else True)
        values = values * p.scale * (-1 if p.unit == "inverse" else 1)
        if p.unit == "metre":
            known &= values != 0
        if not known.any():
            return {"depth": Null("no pixel of the map has a value")}
        return {"depth": DepthMap(np.where(known, values, np.nan).astype(np.float32), p.unit)}
