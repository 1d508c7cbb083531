"""Masks as run lengths: COCO's compressed encoding, of one mask or of many at once.

A mask is {"size": [H, W], "counts": text}: run lengths of the pixels taken column by column, starting with a run of zeros
(of length 0 where the first pixel is set); from the fourth on each is written as its difference to the one two before,
in groups of five bits, lowest first, each a character from "0" to "o". It is exact, takes one to two bytes a run, and
pycocotools reads it as it is.

A photo has a hundred masks of some hundred runs each, so what is done for every run is done for all masks of a photo in
one go.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from labelers.core.modality import require

_MOST_GROUPS = 8  # 40 bits: more than any number of pixels


class Rle(TypedDict):
    """A mask as the module describes it. size: [H, W]."""

    size: list[int]
    counts: str


def pack_counts(counts: NDArray[np.int64]) -> str:
    """Run lengths, int64 (n,), to COCO's text."""
    return _pack(counts.astype(np.int64), np.array([len(counts)]))[0]


def unpack_counts(text: str) -> NDArray[np.int64]:
    """The inverse of pack_counts. Raises LabelError for text that is no such encoding."""
    return _unpack([text])[0]


def _places(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... within each part of those lengths, one part after the other."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


def _pack(counts: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[str]:
    """Run lengths of masks one after the other, and how many each has, to a text a mask."""
    delta = counts.copy()
    delta[3:] -= np.where(_places(lengths) > 2, np.roll(counts, 2), 0)[3:]
    place = np.arange(_MOST_GROUPS)
    magnitude = np.where(delta < 0, ~delta, delta)
    most = 1 + int((magnitude.max(initial=0) >= (np.int64(16) << 5 * place)).sum())
    place = place[:most]
    groups = 1 + (magnitude[:, None] >= (np.int64(16) << 5 * place)).sum(axis=1)  # 5 k bits hold -2^(5k-1) and up
    values = (delta[:, None] >> 5 * place & 31) + np.where(place < groups[:, None] - 1, 32, 0) + 48
    text = values.astype(np.uint8)[place < groups[:, None]].tobytes().decode("ascii")
    stops = np.concatenate([[0], np.cumsum(groups)])[np.concatenate([[0], np.cumsum(lengths)])].tolist()
    return [text[start:stop] for start, stop in itertools.pairwise(stops)]


def _unpack(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The inverse of _pack, of at least one text. Raises LabelError for text that is no such encoding."""
    parts = [text.encode("utf-8") for text in texts]
    bounds = np.cumsum([len(part) for part in parts])
    raw = np.frombuffer(b"".join(parts), np.uint8).astype(np.int64) - 48
    whole = all(parts) and raw.min() >= 0 and raw.max() < 64
    require(bool(whole), "mask: counts hold a character outside '0'..'o'")
    last = raw & 32 == 0
    require(bool(last[bounds - 1].all()), "mask: counts end in the middle of a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(raw.size) - np.repeat(starts, ends - starts + 1)
    require(place.max() < _MOST_GROUPS, "mask: counts hold a number of more than 40 bits")
    counts = np.add.reduceat((raw & 31) << 5 * place, starts)
    counts -= np.where(raw[ends] & 16, np.int64(32) << 5 * place[ends], 0)  # two's complement of 5 k bits
    lengths = np.diff(np.searchsorted(ends, bounds - 1) + 1, prepend=0)
    return _undone(counts, lengths), lengths


def _undone(delta: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Run lengths from their differences to the one two before, which begin with the fourth of each mask."""
    place, counts = _places(lengths), delta.copy()
    first = np.cumsum(lengths) - lengths
    for parity in (0, 1):
        chosen = (place % 2 == parity) & (place > 0)
        sums = np.cumsum(np.where(chosen, delta, 0))
        before = np.repeat(sums[first] - np.where(chosen, delta, 0)[first], lengths)
        counts[chosen] = (sums - before)[chosen]
    return counts


@dataclass(frozen=True)
class Runs:
    """The runs of n masks of one size. ends: int64, where each run ends, in pixels column by column, one mask after the other;
    a mask's last is H W, and its first run is of zeros. lengths: int64 (n,), how many runs each mask has, at least one.
    """

    size: tuple[int, int]
    ends: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @staticmethod
    def of(size: tuple[int, int], changes: NDArray[np.int64], numbers: NDArray[np.int64]) -> Runs:
        """From where masks change, column by column and in order; a mask whose first pixel is set changes at 0.

        numbers: int64 (n,), how many changes each mask has.
        """
        return Runs(size, np.insert(changes, np.cumsum(numbers), size[0] * size[1]), numbers + 1)

    @staticmethod
    def read(rles: Sequence[Rle]) -> Runs:
        """Of at least one mask; all of one size. LabelError where the runs do not cover it exactly, or but the first is empty."""
        size = rles[0]["size"][0], rles[0]["size"][1]
        require(all(one["size"] == rles[0]["size"] for one in rles), "mask: masks of several sizes")
        counts, lengths = _unpack([one["counts"] for one in rles])
        first = np.cumsum(lengths) - lengths
        positive = counts > 0
        positive[first] |= counts[first] == 0
        require(bool(positive.all()), "mask: a run has no length")
        sums = np.add.reduceat(counts, first)
        pixels = size[0] * size[1]
        wrong = sums[sums != pixels]
        require(not wrong.size, f"mask: runs of {wrong[:1].sum()} pixels in a mask of {pixels}")
        return Runs(size, np.cumsum(counts) - np.repeat(np.arange(len(rles)) * pixels, lengths), lengths)

    @property
    def counts(self) -> NDArray[np.int64]:
        """How long each run is."""
        before = np.roll(self.ends, 1)
        before[self._first] = 0
        return self.ends - before

    @property
    def _first(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths) - self.lengths

    def take(self, rows: NDArray[np.int64]) -> Runs:
        """Some of the masks, in the order of `rows`."""
        lengths = self.lengths[rows]
        return Runs(self.size, self.ends[np.repeat(self._first[rows], lengths) + _places(lengths)], lengths)

    def each(self) -> list[NDArray[np.int64]]:
        """The ends of each mask's runs."""
        return np.split(self.ends, np.cumsum(self.lengths)[:-1])

    def ones(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
        """First pixel and the one after the last of each run of ones, and the number of its mask."""
        chosen = _places(self.lengths) % 2 == 1
        owner = np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths)
        return (self.ends - self.counts)[chosen], self.ends[chosen], owner[chosen]

    def areas_and_boxes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels of each mask, (n,), and the box round it, (n, 4) x0, y0, x1, y1 pixel edges; zeros for an empty mask."""
        height, width = self.size
        if not len(self.lengths):
            return np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
        counts, ones = self.counts, _places(self.lengths) % 2 == 1
        left, top = np.divmod(self.ends - counts, height)
        right, bottom = np.divmod(self.ends - 1, height)
        across = left != right  # such a run reaches the bottom of one column and the top of the next
        areas, x0, y0, x1, y1 = (
            how.reduceat(np.where(ones, values, neutral), self._first)
            for how, values, neutral in (
                (np.add, counts, 0),
                (np.minimum, left, width),
                (np.minimum, np.where(across, 0, top), height),
                (np.maximum, right, -1),
                (np.maximum, np.where(across, height - 1, bottom), -1),
            )
        )
        return areas, np.where(areas[:, None] > 0, np.stack([x0, y0, x1 + 1, y1 + 1], axis=1), 0)

    def rles(self) -> list[Rle]:
        """Each mask in COCO's compressed encoding."""
        size = [int(side) for side in self.size]
        return [{"size": list(size), "counts": text} for text in _pack(self.counts, self.lengths)]


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """A mask, bool (H, W) of at least one pixel, to its run-length encoding."""
    if mask.dtype != np.bool_ or mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"expected a bool mask (H, W), got {mask.dtype} {mask.shape}")
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        changes = np.concatenate([[0], changes])
    return Runs.of((mask.shape[0], mask.shape[1]), changes, np.array([len(changes)])).rles()[0]


def decode_rle(rle: Rle) -> NDArray[np.bool_]:
    """The inverse of encode_rle: bool (H, W). Raises LabelError where the runs do not fill the size."""
    height, width = rle["size"]
    counts = Runs.read([rle]).counts
    flat = np.repeat(np.arange(counts.size) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape(width, height).T)
