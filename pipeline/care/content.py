"""Do the labels of a shard belong to its images? Two checks that ids and digests cannot replace.

Edges: where an image-like label (edges, depth, normals, segments) changes, the photo tends to change too. The label of
sample i is compared with photos i - 1, i and i + 1; a shard whose labels clearly fit a neighbour better than their own
photos is shifted. Relabel: a few samples of the shard are labelled again by the labeler its recipe names, and
must agree with what is stored as two runs of one network do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from labelers.core.compare import same
from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, Modality, Null
from labelers.core.registry import all_modalities
from pipeline.batches import Batches
from pipeline.care.rebuild import target_of
from pipeline.dataset import Dataset
from pipeline.plan import Ref

SIDE = 64  # pixels a side at which edges are compared
FITS = 0.1  # correlation of gradients from which a label fits a photo at all
MARGIN = 0.05  # by how much the neighbours must fit better, on the mean
SURE = 3.0  # and by how many standard errors


def gradient(image: NDArray[np.generic]) -> NDArray[np.float64]:
    """Gradient magnitude of a map (H, W[, C]) at SIDE x SIDE, standardised and flat; zeros for a flat map."""
    small = cv2.resize(np.nan_to_num(image.astype(np.float32)), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    flat = small.mean(axis=2) if small.ndim == 3 else small
    dx, dy = cv2.Sobel(flat, cv2.CV_32F, 1, 0), cv2.Sobel(flat, cv2.CV_32F, 0, 1)
    size = np.hypot(dx, dy).reshape(-1).astype(np.float64)
    size -= size.mean()
    length = np.linalg.norm(size)
    return np.asarray(size / length if length > 1e-9 else size)


def shift_of(images: Sequence[NDArray[np.generic] | None], labels: Sequence[NDArray[np.generic] | None]) -> int:
    """By how many places the labels seem shifted against the images: -1, 0 or 1. None where either is missing.

    Labels that have nothing to do with any photo fit all of them equally badly, and say nothing.
    """
    photo = [None if image is None else gradient(image) for image in images]
    made = [None if label is None else gradient(label) for label in labels]
    for shift in (-1, 1):
        fits = [
            (float(a @ b), float(a @ own))
            for i, a in enumerate(made)
            if a is not None and (own := photo[i]) is not None
            if 0 <= i + shift < len(photo) and (b := photo[i + shift]) is not None
        ]
        if len(fits) < 3:
            continue
        theirs, gain = np.array(fits)[:, 0], np.array(fits) @ (1, -1)
        if theirs.mean() > FITS and gain.mean() > max(MARGIN, SURE * gain.std() / np.sqrt(len(gain))):
            return shift
    return 0


def edge_maps(label: Label | Null) -> NDArray[np.generic] | None:
    return label if isinstance(label, np.ndarray) and label.ndim >= 2 else None


class ContentChecks:
    """Callable (ds, ref, shard) -> '' or what is wrong. relabel: samples a shard that are labelled again; 0 for none.

    others: checks for modalities this room knows nothing of (tokens), by the beginning of their name.
    """

    def __init__(
        self, relabel: int = 2, others: Mapping[str, Callable[[Dataset, Ref, int], str]] | None = None
    ) -> None:
        self.relabel, self.others = relabel, dict(others or {})
        self._labelers: dict[Ref, Labeler | None] = {}
        self._decoded: tuple[int, list[Sample | Null]] | None = None

    def __call__(self, ds: Dataset, ref: Ref, k: int) -> str:
        for prefix, check in self.others.items():
            if ref[0].startswith(prefix):
                return check(ds, ref, k)
        modality = all_modalities().get(ref[0])
        if modality is None:
            return ""
        labels = ds.labels(modality, k, ref[1])
        return self._edges(ds, modality, labels, k) or self._again(ds, ref, modality, labels, k)

    def _samples(self, ds: Dataset, k: int) -> list[Sample | Null]:
        if self._decoded is None or self._decoded[0] != k:
            self._decoded = k, ds.samples(k)
        return self._decoded[1]

    def _edges(self, ds: Dataset, modality: Modality, labels: Sequence[Label | Null], k: int) -> str:
        if modality.kind != "map":
            return ""
        images = [None if isinstance(s, Null) else s.image for s in self._samples(ds, k)]
        shift = shift_of(images, [edge_maps(label) for label in labels])
        return f"its labels fit the photos {abs(shift)} place {'later' if shift > 0 else 'earlier'}" if shift else ""

    def _again(self, ds: Dataset, ref: Ref, modality: Modality, labels: Sequence[Label | Null], k: int) -> str:
        if not self.relabel:
            return ""
        if ref not in self._labelers:
            target = target_of(ds, [ref])
            try:
                self._labelers[ref] = target.build(ds) if target else None
            except FileNotFoundError:  # what it imported from is not kept any more, see forget
                self._labelers[ref] = None
        labeler = self._labelers[ref]
        if labeler is None:
            return ""
        samples = self._with_reads(ds, ref, labeler, k)
        real = [i for i, s in enumerate(samples) if not isinstance(s, Null) and not _failed(labels[i])]
        chosen = [real[int(j * len(real) / self.relabel)] for j in range(min(self.relabel, len(real)))]
        if not chosen:
            return ""
        rows = Batches(labeler, len(chosen)).label([samples[i] for i in chosen])
        wrong = [i for i, row in zip(chosen, rows, strict=True) if not _agree(modality, labels[i], row[modality.name])]
        if not wrong:
            return ""
        return (
            f"{len(wrong)} of {len(chosen)} samples labelled again differ (the first: sample {wrong[0]} of the shard)"
        )

    def _with_reads(self, ds: Dataset, ref: Ref, labeler: Labeler, k: int) -> list[Sample | Null]:
        reads = {name: recipe for name, recipe in ds.recipe(ref[1])["reads"].items() if name != "rgb"}
        if not reads:
            return self._samples(ds, k)
        known = all_modalities()
        return ds.samples(k, {name: (known[name], recipe) for name, recipe in reads.items()}, labeler.uses_pixels)


def _failed(label: Label | Null) -> bool:
    """Nulls for what went wrong once need not go wrong again."""
    return isinstance(label, Null) and label.reason.startswith("labeler failed")


def _agree(modality: Modality, stored: Label | Null, again: Label | Null) -> bool:
    if isinstance(stored, Null) or isinstance(again, Null):
        return isinstance(stored, Null) and isinstance(again, Null)
    return same(modality.compare(stored, again))
