"""A small photo and sources of labels for it, as workers see them: files whose names say nothing."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from labelers.core.importing import ImportLabeler
from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from tests.labelers.corpus import to_bytes

H, W = 8, 10
NOTHING = np.zeros((0, 0, 3), np.uint8)


def photo(uri: str = "file:///photos/a/1.jpg", sample_id: str = "f" * 32) -> Sample:
    return Sample(sample_id, NOTHING, uri=uri, size=(H, W))


def png(pixels: np.ndarray) -> bytes:
    return to_bytes(Image.fromarray(pixels), "PNG")


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def made(cls: type[ImportLabeler], files: Mapping[str, bytes] | bytes, folder: Path, **params: Any) -> ImportLabeler:
    """The labeler over a single file (bytes) or a zip of files, under a name that says nothing, as workers see it."""
    path = folder / "0123abcd"
    if isinstance(files, bytes):
        path.write_bytes(files)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    labeler = cls(cls.Params(**params), {"source": path})
    labeler.setup()
    return labeler


def one(labeler: ImportLabeler, sample: Sample | None = None) -> Label | Null:
    (row,) = labeler.label([sample or photo()])
    for modality in labeler.produces:
        if not isinstance(row[modality.name], Null):
            modality.check(row[modality.name])
    return row[labeler.produces[0].name]


def coco(annotations: list[dict[str, Any]], **image: Any) -> bytes:
    categories = [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}, {"id": 500, "name": "forklift"}]
    images = [{"id": 7, "file_name": "a/1.jpg", "height": H, "width": W, **image}, {"id": 8, "file_name": "a/2.jpg"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode()
