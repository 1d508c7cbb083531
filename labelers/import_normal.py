"""import_normal: surface normals somebody already has, from RGB PNG of 8 or 16 bits, or .npy of vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from labelers.core.importing import ImportLabeler
from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from labelers.core.normal_map import NORMAL, from_rgb, unit_vectors
from labelers.core.sources import MatchParams, Source, SourceError, read_map


class ImportNormalParams(MatchParams):
    """negate: axes of the source that point the other way than here (+X right, +Y down, +Z towards the camera); for most
    graphics programs ["y"], for a camera's own frame (x right, y down, z forward) ["z"].
    """

    negate: tuple[Literal["x", "y", "z"], ...] = ()


class ImportNormal(ImportLabeler):
    """Normals from a folder or .zip of RGB PNG, 255 (n / 2 + 0.5) or 65535 (n / 2 + 0.5), black missing, or .npy of floats
    (H, W, 3). Vectors are brought to length 1; those of no length are missing.
    """

    name = "import_normal"
    version = 1
    backend = "import: normal maps"
    produces = (NORMAL,)
    Params = ImportNormalParams

    def load(self, source: Source) -> Iterable[str]:
        return source.of(".png", ".npy")

    def entry(self, name: str, sample: Sample) -> dict[str, Label | Null]:
        pixels = read_map(self.source.read(name), sample.shape, self.params.resize)
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise SourceError(f"expected three numbers a pixel, got {pixels.shape}")
        if pixels.dtype.kind == "f":
            vectors = pixels.astype(np.float32)
        elif pixels.dtype in (np.uint8, np.uint16):
            vectors = from_rgb(pixels, 255 if pixels.dtype == np.uint8 else 65535)
        else:
            raise SourceError(f"expected 8- or 16-bit colours or floats, got {pixels.dtype}")
        found = unit_vectors(vectors) * [-1.0 if axis in self.params.negate else 1.0 for axis in "xyz"]
        if not found.any():
            return {"normal": Null("no pixel of the map has a direction")}
        return {"normal": (found + 0.0).astype(np.float32)}
