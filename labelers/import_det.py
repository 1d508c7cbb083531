"""import_det: boxes somebody already has, from a COCO annotation file or YOLO text files."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from labelers.core.annotations import Coco, read_coco
from labelers.core.boxes import DET, Box, detection, sorted_boxes
from labelers.core.coco import CLASSES, NUMBER
from labelers.core.importing import ImportLabeler
from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from labelers.core.sources import MatchParams, Source, SourceError

_LONGEST = 100_000  # lines of one YOLO file


class ImportDetParams(MatchParams):
    """names: the classes of YOLO files by number. classes: what a class of the source is called in COCO's 80; null
    leaves its boxes out. crowds: keep COCO's boxes round whole crowds too.
    """

    names: tuple[str, ...] = CLASSES
    classes: dict[str, str | None] = {}
    crowds: bool = False


class ImportDet(ImportLabeler):
    """Boxes from one COCO JSON, or from a folder or .zip with a YOLO .txt a photo: "class x y w h [score]" a line, centre
    and size in shares of the photo. A photo that COCO lists without boxes, or whose .txt is empty, has none.
    """

    name = "import_det"
    version = 2
    backend = "import: COCO or YOLO boxes"
    produces = (DET,)
    Params = ImportDetParams

    def load(self, source: Source) -> Iterable[str]:
        self._coco: Coco | None = None
        if source.single:
            self._coco = read_coco(source.read(""), "boxes as COCO JSON, or a folder or .zip of YOLO .txt files")
            return self._coco.images
        return source.of(".txt")

    def entry(self, name: str, sample: Sample) -> dict[str, Label | Null]:
        found = self._from_yolo(name, sample.shape) if self._coco is None else self._from_coco(name, sample.shape)
        return {"det": sorted_boxes(found)}

    def _from_coco(self, name: str, shape: tuple[int, int]) -> list[Box]:
        assert self._coco is not None
        found = []
        for one in self._coco.of(name, shape):
            if "bbox" not in one or (one.get("iscrowd") and not self.params.crowds):
                continue
            label = self._class(self._coco.categories.get(one.get("category_id", -1)), one.get("category_id"))
            x, y, width, height = _numbers(one["bbox"], 4)
            if label:
                found.append(detection([x, y, x + width, y + height], label, _score(one.get("score", 1.0)), shape))
        return [one for one in found if one is not None]

    def _from_yolo(self, name: str, shape: tuple[int, int]) -> list[Box]:
        try:
            lines = self.source.read(name).decode("utf-8-sig").splitlines()[:_LONGEST]
        except UnicodeDecodeError as error:
            raise SourceError(f"{name} is no text") from error
        found = []
        for number, line in enumerate(filter(str.strip, lines), 1):
            values = _numbers(line.split(), 5, f"line {number}: ")
            if len(values) > 6:
                raise SourceError(
                    f"line {number}: expected class x y w h [score], got {len(values)} numbers, as polygons and keypoints have"
                )
            kind = int(values[0])
            if kind != values[0] or not 0 <= kind < len(self.params.names):
                raise SourceError(
                    f"line {number}: class {values[0]:g} is not one of the {len(self.params.names)} names"
                )
            label = self._class(self.params.names[kind], kind)
            centre, size = np.array(values[1:3]), np.array(values[3:5])
            corners = np.concatenate([centre - size / 2, centre + size / 2]) * [*shape[::-1], *shape[::-1]]
            if label:
                found.append(detection(corners, label, _score(values[5] if len(values) > 5 else 1.0), shape))
        return [one for one in found if one is not None]

    def _class(self, name: str | None, number: object) -> str | None:
        """The COCO class of one of the source, None to leave it out. SourceError for one that nobody has mapped."""
        if name is None:
            raise SourceError(f"category {number!r} has no name in the source")
        label: str | None = self.params.classes.get(name, name)
        if label is not None and label not in NUMBER:
            raise SourceError(
                f"{label!r} is not one of COCO's 80 classes; say in params.classes what it is, or null to leave it out"
            )
        return label


def _numbers(values: object, least: int, where: str = "") -> list[float]:
    try:
        numbers = [float(v) for v in values]  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise SourceError(f"{where}{values!r:.80} are not numbers") from error
    if len(numbers) < least or not np.isfinite(numbers).all():
        raise SourceError(f"{where}expected {least} finite numbers, got {values!r:.80}")
    return numbers


def _score(value: float) -> float:
    if not 0 <= value <= 1:
        raise SourceError(f"a score of {value:g} is not in 0..1")
    return float(value)
