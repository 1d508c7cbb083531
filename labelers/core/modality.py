"""A modality: a kind of data about an image, with the one encoding in which it is stored.

An encoding fixes dtype, range, unit, coordinate frame and missing value once; every writer, reader, tokenizer and page
goes through it, and a property test takes each one round trip. Image-like labels are members of WebDataset tars;
vectors and structures are values of one Parquet column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from labelers.core.compare import Compare, cosine
from labelers.core.show import Cell, Words

if TYPE_CHECKING:
    from labelers.core.scores import Scores

Label = Any  # np.ndarray, str, list or dict, as the modality's docstring says


@dataclass(frozen=True)
class Null:
    """A label that could not be made, and why. Takes the label's place in the shard; never a hole, never a shift."""

    reason: str


class LabelError(ValueError):
    """A label does not have the dtype, shape or range its modality promises; refused before commit."""


def _show_plain(label: Label, image: np.ndarray | None) -> Cell:
    return Words(str(label))


@dataclass(frozen=True)
class Modality:
    """One kind of data about an image.

    name: e.g. "canny_edge". kind: what a tokenizer sees ("map", "features", "vector", "text", "record"), or
    "embeddings", a vector a word, which models read and none predicts. container: "tar" (member `<id>.<ext>`, `encode`
    gives bytes) or "parquet" (column `value` of type `arrow`, `encode` gives a value pyarrow accepts). encode/decode:
    label <-> stored form, exact round trip unless `about` says otherwise. check: raises LabelError for a wrong dtype,
    shape, range or NaN. compare: two labels -> {metric: value}, see labelers.core.compare. scores: makes what pools
    many pairs of labels, see labelers.core.scores; None where the mean of `compare` says it all. show: label -> Cell
    for a person. about: one line for documentation: shape, dtype, unit, frame, source. on_view: computed on each view
    at tokenization (network features); the rest is labelled on the whole image and cut. stored: False keeps the
    modality out of label shards by default (dense features); `store: true` in the config keeps it.
    """

    name: str
    kind: Literal["map", "features", "vector", "text", "record", "embeddings"]
    container: Literal["tar", "parquet"]
    encode: Callable[[Label], Any]
    decode: Callable[[Any], Label]
    check: Callable[[Label], None]
    show: Callable[[Label, np.ndarray | None], Cell] = _show_plain
    compare: Compare = lambda a, b: {}
    scores: Callable[[], Scores] | None = None
    ext: str = ""
    arrow: pa.DataType | None = None
    about: str = ""
    on_view: bool = False
    stored: bool = True


def require(ok: bool, what: str) -> None:
    """Raise LabelError(what) unless ok; the one-line form every `check` is written in."""
    if not ok:
        raise LabelError(what)


def vector_modality(name: str, dim: int | Sequence[int], about: str, on_view: bool = False) -> Modality:
    """A float32 vector of `dim` finite numbers, (dim,), stored as a list of fixed size; of any size in `dim` where its
    backends differ.
    """
    from labelers.core.show import Picture

    sizes = (dim,) if isinstance(dim, int) else tuple(dim)

    def check(label: Label) -> None:
        require(isinstance(label, np.ndarray) and label.dtype == np.float32, f"{name}: expected float32 array")
        fits = label.ndim == 1 and label.size in sizes
        require(fits, f"{name}: expected shape ({' or '.join(map(str, sizes))},), got {label.shape}")
        require(bool(np.isfinite(label).all()), f"{name}: not finite")

    def show(label: Label, image: np.ndarray | None) -> Cell:
        """The vector as a strip of coloured bars, blue negative, red positive, scaled to its largest magnitude."""
        side = int(np.ceil(np.sqrt(label.size)))
        grid = np.zeros(side * side, np.float32)
        grid[: label.size] = label / (np.abs(label).max() + 1e-9)
        grid = np.kron(grid.reshape(side, side), np.ones((max(1, 112 // side),) * 2, np.float32))
        up, down = np.clip(grid, 0, 1), np.clip(-grid, 0, 1)
        rgb = np.stack([1 - down, 1 - up - down, 1 - up], axis=-1)
        return Picture((np.clip(rgb, 0, 1) * 255).astype(np.uint8))

    return Modality(
        name=name, kind="vector", container="parquet",
        arrow=pa.list_(pa.float32(), sizes[0]) if len(sizes) == 1 else pa.list_(pa.float32()),
        encode=lambda label: label.tolist(), decode=lambda raw: np.asarray(raw, np.float32),
        check=check, show=show, compare=cosine, about=about, on_view=on_view,
    )  # fmt: skip
