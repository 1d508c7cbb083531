"""Features of views: maps and vectors that a network computes on a square cut, and how they are stored and shown.

They are computed on each view at tokenization, and once on the whole image, squeezed into a square, for the stored vector
that serves search and duplicates.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from labelers.core.compare import cosine
from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, LabelError, Modality, Null, require
from labelers.core.pixels import in_batches, square
from labelers.core.show import Cell, Picture

if TYPE_CHECKING:
    import torch

SHOWN = 224  # about the side of a drawn map
GPU_BATCH = 32


def to_npy(label: NDArray[Any]) -> bytes:
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, label, allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes, name: str) -> NDArray[Any]:
    """The inverse of to_npy. LabelError, naming the modality, for what is no array of numbers."""
    try:
        array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise LabelError(f"{name}: the stored bytes are no .npy array ({error})") from error
    return array


def principal_colours(features: NDArray[Any]) -> NDArray[np.uint8]:
    """The first three principal components of a feature map as red, green, blue: (h, w, c) -> uint8 (h, w, 3).

    A component has no sign of its own: the one with a positive sum of cubes (its long tail up) is taken, so that one
    map always has one picture. Each channel runs from its 2nd to its 98th percentile.
    """
    height, width, dim = features.shape
    flat = features.reshape(-1, dim).astype(np.float64)
    flat -= flat.mean(axis=0)
    left, scale, _ = np.linalg.svd(flat, full_matrices=False)
    parts = np.zeros((height * width, 3))
    count = min(3, len(scale))
    parts[:, :count] = left[:, :count] * scale[:count]
    parts *= np.where((parts**3).sum(axis=0) < 0, -1.0, 1.0)
    low, high = np.percentile(parts, (2, 98), axis=0)
    spread = np.where(high > low, high - low, 1.0)
    shares = np.clip((parts - low) / spread, 0, 1)
    return np.asarray((shares * 255).round().astype(np.uint8).reshape(height, width, 3))


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    colours = principal_colours(label)
    times = max(1, SHOWN // max(colours.shape[:2]))
    return Picture(colours.repeat(times, axis=0).repeat(times, axis=1), "first three principal components")


def features_modality(name: str, widths: Sequence[int], about: str) -> Modality:
    """A map of features of a view, float16 (rows, columns, width), not stored by default. widths: those of its backends."""

    def check(label: Label) -> None:
        require(isinstance(label, np.ndarray) and label.dtype == np.float16, f"{name}: expected a float16 array")
        fits = label.ndim == 3 and label.shape[2] in widths and label.size > 0
        require(fits, f"{name}: expected (h, w, {' or '.join(map(str, widths))}), got {label.shape}")
        require(bool(np.isfinite(label).all()), f"{name}: not finite")

    shape = f"float16 (rows, columns, {' or '.join(map(str, widths))})"
    return Modality(
        name=name, kind="features", container="tar", ext="npy", encode=to_npy, decode=lambda data: from_npy(data, name),
        check=check, show=_show, compare=cosine, about=f"{shape}; {about}", on_view=True, stored=False,
    )  # fmt: skip


class ViewFeatures(Labeler):
    """Base of labelers that make a map and a vector of a view; `produces` names the two, the map first.

    patch: pixels of a side of one position of the map. sides: of the views it takes, in pixels; other images are squeezed
    into the first. Subclasses implement `embed`, and set `self.device` in `setup`.
    """

    patch: ClassVar[int]
    sides: ClassVar[tuple[int, ...]] = (224,)
    device: torch.device

    @abstractmethod
    def embed(self, views: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        """Views uint8 (n, s, s, 3) -> a vector each (n, d), and patches row by row (n, (s / patch) squared, c)."""

    def features(self, views: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
        """Maps float16 (n, s / patch, s / patch, c) and vectors float32 (n, d) of square views.

        views: uint8 RGB (n, s, s, 3), s a multiple of the patch. On a CPU the views go through one by one and on a GPU in
        batches of one size, because the sums of a matrix product depend in their last bits on the number of its rows: so a
        view has the same features whatever its neighbours are.
        """
        if views.ndim != 4 or views.shape[1] != views.shape[2] or views.shape[1] % self.patch or views.shape[3] != 3:
            raise ValueError(f"expected views (n, s, s, 3) with s a multiple of {self.patch}, got {views.shape}")
        if views.dtype != np.uint8:
            raise ValueError(f"expected uint8 views, got {views.dtype}")
        found = self._both(list(views) or [np.zeros(views.shape[1:], np.uint8)])
        maps, vectors = np.stack([one[0] for one in found]), np.stack([one[1] for one in found])
        return maps[: len(views)], vectors[: len(views)]

    def _both(self, views: Sequence[NDArray[np.uint8]]) -> list[tuple[NDArray[np.float16], NDArray[np.float32]]]:
        import torch

        def forward(batch: NDArray[np.uint8]) -> list[tuple[NDArray[np.float16], NDArray[np.float32]]]:
            grid = batch.shape[1] // self.patch
            with torch.inference_mode():
                vectors, patches = self.embed(batch)
            maps = patches.float().cpu().numpy().reshape(len(batch), grid, grid, -1)
            with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite, and then a Null
                return list(zip(maps.astype(np.float16), vectors.float().cpu().numpy(), strict=True))

        return in_batches(views, forward, GPU_BATCH if self.device.type == "cuda" else 1, full=True)

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        dense, vector = (modality.name for modality in self.produces)
        views = [s.image if s.image.shape[0] in self.sides else square(s.image, self.sides[0]) for s in samples]
        views = [view if view.shape[0] == view.shape[1] else square(view, self.sides[0]) for view in views]
        labels: list[dict[str, Label | Null]] = []
        for features, one in self._both(views):
            if np.isfinite(features).all() and np.isfinite(one).all():
                labels.append({dense: features, vector: one})
            else:
                bad = Null("the network gave values that are not finite")
                labels.append({dense: bad, vector: bad})
        return labels
