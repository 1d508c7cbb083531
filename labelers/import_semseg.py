"""import_semseg: class maps somebody already has, from PNG or .npy of class numbers, or from COCO panoptic PNGs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from labelers.core.annotations import panoptic_ids, panoptic_of
from labelers.core.class_map import NAMES, NUMBER_OF, SEMSEG, VOID
from labelers.core.coco import CATEGORY_IDS, PANOPTIC
from labelers.core.importing import ImportLabeler
from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from labelers.core.sources import MatchParams, Source, SourceError, read_map


class ImportSemsegParams(MatchParams):
    """ids: what the numbers of the maps are. "coco": COCO's panoptic category ids (1..200, 0 and 255 void); "stored": this
    project's (0 void, 1..133); "zero_based": a network's 0..132 (255 void). table: number -> class name, "void" for
    none, over and above those; with "table" nothing else is known.
    """

    ids: Literal["coco", "stored", "zero_based", "table"] = "coco"
    table: dict[int, str] = {}

    @field_validator("table")
    @classmethod
    def _known(cls, table: dict[int, str]) -> dict[int, str]:
        for name in table.values():
            if name not in NUMBER_OF:
                raise ValueError(f"{name!r} is neither void nor one of COCO's 133 classes")
        return table


class ImportSemseg(ImportLabeler):
    """Class maps from a folder or .zip of PNG or .npy of whole numbers (H, W), or of COCO panoptic PNGs with their JSON."""

    name = "import_semseg"
    version = 1
    backend = "import: class maps or panoptic PNG"
    produces = (SEMSEG,)
    Params = ImportSemsegParams

    def load(self, source: Source) -> Iterable[str]:
        self._numbers = self._known_numbers()
        segments, categories = panoptic_of(source)
        self._segments = {
            stem: {int(one["id"]): categories.get(one["category_id"], "") for one in found}
            for stem, found in segments.items()
        }
        names = source.of(".png", ".npy")
        return [n for n in names if n.rpartition("/")[2].removesuffix(".png") in segments] if segments else names

    def _known_numbers(self) -> dict[int, int]:
        """Number in the source -> stored number."""
        known = {
            "coco": {0: VOID, 255: VOID, **{CATEGORY_IDS[name]: NUMBER_OF[name] for name in PANOPTIC}},
            "stored": {number: number for number in range(len(NAMES))},
            "zero_based": {255: VOID, **{number: number + 1 for number in range(len(PANOPTIC))}},
            "table": dict[int, int](),
        }[self.params.ids]
        return known | {number: NUMBER_OF[name] for number, name in self.params.table.items()}

    def entry(self, name: str, sample: Sample) -> dict[str, Label | Null]:
        pixels = read_map(self.source.read(name), sample.shape, self.params.resize)
        if self._segments:
            found = self._segments[name.rpartition("/")[2].removesuffix(".png")]
            known = {0: VOID, **{number: NUMBER_OF.get(label, -1) for number, label in found.items()}}
            return {"semseg": looked_up(panoptic_ids(pixels), known)}
        if pixels.ndim != 2 or pixels.dtype.kind not in "iub":
            raise SourceError(f"expected whole numbers (H, W), got {pixels.dtype} {pixels.shape}")
        return {"semseg": looked_up(pixels.astype(np.int64), self._numbers)}


def looked_up(pixels: NDArray[np.int64], known: dict[int, int]) -> NDArray[np.uint8]:
    """Numbers of the source to stored numbers. SourceError naming one that is not known."""
    values, places = np.unique(pixels, return_inverse=True)
    found = [known.get(int(value), -1) for value in values]
    if -1 in found:
        value = int(values[found.index(-1)])
        raise SourceError(f"{value} is no class that params.ids or params.table knows")
    return np.array(found, np.uint8)[places].reshape(pixels.shape)
