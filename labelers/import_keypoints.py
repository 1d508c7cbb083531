"""import_keypoints: people's joints somebody already has, from COCO's person keypoints."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from labelers.core.annotations import read_coco
from labelers.core.importing import ImportLabeler
from labelers.core.keypoints import KEYPOINTS, NAMES, Joints
from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from labelers.core.sources import Source, SourceError

_CONFIDENCE = {0: 0.0, 1: 0.5, 2: 1.0}  # COCO's v: not labelled, hidden, visible


class ImportKeypoints(ImportLabeler):
    """Joints from one COCO JSON with 17 keypoints a person. People whose joints nobody marked are left out."""

    name = "import_keypoints"
    version = 1
    backend = "import: COCO keypoints"
    produces = (KEYPOINTS,)

    def load(self, source: Source) -> Iterable[str]:
        if not source.single:
            raise SourceError("import_keypoints: expected one COCO JSON file, got a folder or .zip")
        self._coco = read_coco(source.read(""), "COCO's person keypoints")
        if not any("keypoints" in one for image in self._coco.images.values() for one in image.annotations):
            raise SourceError("import_keypoints: no annotation of the file has keypoints")
        return self._coco.images

    def entry(self, name: str, sample: Sample) -> dict[str, Label | Null]:
        people = [_person(one) for one in self._coco.of(name, sample.shape) if any(one.get("keypoints", ())[2::3])]
        people.sort(key=lambda one: -float(np.prod(one["box"][2:] - one["box"][:2])))
        return {"keypoints": people}


def _person(one: dict[str, object]) -> Joints:
    try:
        flat = np.asarray(one["keypoints"], np.float32).reshape(len(NAMES), 3).copy()
        flat[:, 2] = [_CONFIDENCE[int(v)] for v in flat[:, 2]]
        seen = flat[flat[:, 2] > 0, :2]
        low_high = np.concatenate([seen.min(axis=0), seen.max(axis=0)])
        if "bbox" in one:
            x, y, width, height = np.asarray(one["bbox"], np.float32)
            low_high = np.array([x, y, x + width, y + height])
        score = float(one.get("score", 1.0))  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError) as error:
        raise SourceError(f"a person's keypoints are not {len(NAMES)} times x, y, v of 0, 1 or 2 ({error})") from error
    return {"box": low_high.astype(np.float32), "score": score, "keypoints": flat}
