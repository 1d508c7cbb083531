"""import_instances: masks somebody already has, from COCO polygons, panoptic PNGs or number maps, as sam_instance, sam_edge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from labelers.core.annotations import Coco, mask_of, panoptic_ids, panoptic_of, read_coco
from labelers.core.coco import NUMBER
from labelers.core.importing import ImportLabeler
from labelers.core.labeler import Sample
from labelers.core.masks import (
    SAM_EDGE,
    SAM_INSTANCE,
    Instance,
    edges_of,
    instance,
    largest_first,
)
from labelers.core.modality import Label, Null
from labelers.core.rle import encode_rle
from labelers.core.sources import MatchParams, Source, SourceError, read_map


class ImportInstancesParams(MatchParams):
    """crowds: keep masks of whole crowds too. things_only: of panoptic segments, those of COCO's 80 things alone.
    min_pixels: smaller masks are left out.
    """

    crowds: bool = False
    things_only: bool = True
    min_pixels: int = Field(1, ge=1)


class ImportInstances(ImportLabeler):
    """Masks from one COCO JSON (polygons, or runs), or from a folder or .zip: of COCO panoptic PNGs with their JSON, or of
    PNG or .npy maps in which each number but 0 is a mask.

    A polygon covers the pixels whose centre it holds, which gives COCO's own areas to a few parts in a hundred.
    """

    name = "import_instances"
    version = 1
    backend = "import: COCO polygons, panoptic PNG or maps of numbers"
    produces = (SAM_INSTANCE, SAM_EDGE)
    Params = ImportInstancesParams

    def load(self, source: Source) -> Iterable[str]:
        self._coco: Coco | None = None
        if source.single:
            self._coco = read_coco(source.read(""), "masks as COCO JSON, or panoptic PNGs with their JSON")
            return self._coco.images
        self._segments, self._categories = panoptic_of(source)
        if self._segments:
            return [name for name in source.of(".png") if _stem(name) in self._segments]
        return source.of(".png", ".npy")

    def entry(self, name: str, sample: Sample) -> dict[str, Label | Null]:
        masks = self._from_png(name, sample) if self._coco is None else self._from_coco(name, sample.shape)
        masks = largest_first([one for one in masks if one["area"] >= self.params.min_pixels])
        return {"sam_instance": masks, "sam_edge": edges_of(masks, sample.shape)}

    def _wanted(self, annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one for one in annotations if self.params.crowds or not one.get("iscrowd")]

    def _from_coco(self, name: str, shape: tuple[int, int]) -> list[Instance]:
        assert self._coco is not None
        masks = []
        for one in self._wanted(self._coco.of(name, shape)):
            if not one.get("segmentation"):
                continue
            mask, score = mask_of(one["segmentation"], shape), one.get("score", 1.0)
            if not isinstance(score, int | float) or not 0 <= score <= 1:
                raise SourceError(f"a score of {score!r} is not in 0..1")
            if mask.any():
                masks.append(instance(encode_rle(mask), float(score)))
        return masks

    def _from_png(self, name: str, sample: Sample) -> list[Instance]:
        pixels = read_map(self.source.read(name), sample.shape, self.params.resize)
        if pixels.dtype.kind not in "iub":
            raise SourceError(f"expected whole numbers, got {pixels.dtype}")
        ids = panoptic_ids(pixels) if pixels.ndim == 3 else pixels.astype(np.int64)
        if not self._segments:
            return [instance(encode_rle(ids == one), 1.0) for one in np.unique(ids) if one != 0]
        masks = []
        for one in self._wanted(self._segments[_stem(name)]):
            if self.params.things_only and self._categories.get(one.get("category_id", -1)) not in NUMBER:
                continue
            mask = ids == one.get("id")
            if np.any(mask):
                masks.append(instance(encode_rle(mask), 1.0))
        return masks


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".png")
