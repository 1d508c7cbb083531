"""Segments of an image as a tree of normalised cuts of its patch features: pure numpy and scipy.

Patches are the nodes of a graph. Two are joined as strongly as their features agree (cosine above a threshold) and as
they lie close together. The second eigenvector of the normalised Laplacian splits a set of patches where the joints are
weakest (Shi and Malik 2000; TokenCut and MaskCut do this to features of self-supervised transformers); what is split off
is split again, as long as the cut is cheap. A segment all of whose parts look the same is put together again. Every node
of the tree that is left is a mask candidate: whole things above, their parts below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ONLY_EDGES = 1e-4  # strength of the weakest joint; keeps the graph in one piece


@dataclass
class Segment:
    """A connected set of patches. cost: of the cut that made it, 0 (free) to 2. parts: what it is split into."""

    patches: NDArray[np.bool_]
    cost: float
    parts: list[Segment] = field(default_factory=list)


def centred(features: NDArray[Any]) -> NDArray[np.float64]:
    """Unit features of the patches of a map (h, w, c), after their mean is taken off: what all patches share says nothing.

    (h w, c), row by row.
    """
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    flat -= flat.mean(axis=0)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9))


def affinity(flat: NDArray[np.float64], shape: tuple[int, int], threshold: float, reach: float) -> NDArray[np.float64]:
    """Joints of the patches (h w, c) of a map of shape (h, w): (h w, h w), symmetric, in 0..1.

    threshold: cosine from which features agree. reach: distance at which a joint weakens to 1 / e, as a share of the
    map's longer side.
    """
    agree = np.clip((flat @ flat.T - threshold) / (1 - threshold), 0, 1)
    y, x = np.divmod(np.arange(len(flat)), shape[1])
    apart = np.hypot(y[:, None] - y, x[:, None] - x) / (reach * max(shape))
    return np.asarray(agree * np.exp(-(apart**2)) + _ONLY_EDGES)


def bisect(joints: NDArray[np.float64]) -> tuple[NDArray[np.bool_], float]:
    """The best normalised cut of a graph that a threshold on its second eigenvector gives: one side, and the cost."""
    from scipy.linalg import eigh  # takes a quarter of a second, which other labelers need not wait for

    degree = joints.sum(axis=1)
    root = 1 / np.sqrt(degree)
    vector = root * eigh(np.eye(len(joints)) - root[:, None] * joints * root, subset_by_index=[1, 1])[1][:, 0]
    order = np.argsort(vector, kind="stable")
    ranked = joints[np.ix_(order, order)]
    # Joints between the first k in order and the rest, for every k at once.
    within = np.cumsum(np.diag(ranked)) + 2 * np.cumsum(np.tril(ranked, -1).sum(axis=1))
    volume = np.cumsum(degree[order])
    crossing = (volume - within)[:-1]
    first, second = volume[:-1], volume[-1] - volume[:-1]
    cost = crossing * (1 / np.maximum(first, 1e-12) + 1 / np.maximum(second, 1e-12))
    k = int(cost.argmin())
    side = np.zeros(len(joints), np.bool_)
    side[order[: k + 1]] = True
    return side, float(cost[k])


def pieces(patches: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The connected parts of a set of patches, corners not counting as contact, largest first."""
    from scipy.ndimage import label as connected

    numbers, count = connected(patches)
    found = [numbers == i for i in range(1, count + 1)]
    return sorted(found, key=lambda one: -int(one.sum()))


def cut_tree(
    features: NDArray[Any], threshold: float, reach: float, most_cost: float, most_alike: float, least: int
) -> Segment:
    """The tree of segments of a map of features (h, w, c). threshold, reach: see `affinity`.

    A segment is split where the cut costs at most `most_cost`; pieces under `least` patches belong to no part. most_alike:
    see `join_alike`.
    """
    height, width = features.shape[:2]
    flat = centred(features)
    joints = affinity(flat, (height, width), threshold, reach)
    root = Segment(np.ones((height, width), np.bool_), 0.0)
    open_segments = [root]
    while open_segments:
        segment = open_segments.pop()
        places = np.flatnonzero(segment.patches)
        if len(places) < 2 * least:
            continue
        side, cost = bisect(joints[np.ix_(places, places)])
        if cost > most_cost:
            continue
        segment.parts = [Segment(patches, cost) for patches in _sides(segment.patches, places[side], least)]
        open_segments += segment.parts
    join_alike(root, flat, most_alike)
    return root


def join_alike(segment: Segment, flat: NDArray[np.float64], most_alike: float) -> NDArray[np.float64]:
    """Drop the parts of a segment whose ends all look alike: the cosine of any two of their mean features is above
    `most_alike`. A wall is cheap to cut anywhere, but its pieces are all wall; a switch on it is not.

    Done from the ends upwards, after all cuts: a small thing often shows only late. Returns the ends' mean features.
    """
    if segment.parts:
        means = np.concatenate([join_alike(part, flat, most_alike) for part in segment.parts])
        if float((means @ means.T).min()) <= most_alike:
            return means
        segment.parts = []
    mean = flat[segment.patches.reshape(-1)].mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))[None]


def _sides(whole: NDArray[np.bool_], chosen: NDArray[np.int64], least: int) -> list[NDArray[np.bool_]]:
    """Both sides of a cut as connected sets of at least `least` patches; empty where there are fewer than two such."""
    flat = np.zeros(whole.size, np.bool_)
    flat[chosen] = True
    one = flat.reshape(whole.shape)
    found = [piece for side in (one, whole & ~one) for piece in pieces(side) if piece.sum() >= least]
    return found if len(found) > 1 else []


def leaves(segment: Segment) -> list[Segment]:
    """The segments that are not split further, in a fixed order."""
    return [segment] if not segment.parts else [leaf for part in segment.parts for leaf in leaves(part)]


def all_segments(segment: Segment) -> list[Segment]:
    """Every segment below this one."""
    return [one for part in segment.parts for one in (part, *all_segments(part))]
