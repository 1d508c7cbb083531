"""How far two labels of one image are apart: one function a kind of label, each metric by the name the field uses.

A function takes two labels of one modality and returns {metric: value}. METRICS says of each metric whether more or
less is better, and the value two equal labels have. A metric that these two labels do not define is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Compare = Callable[[Any, Any], dict[str, float]]


class Metric(NamedTuple):
    """equal: the value for equal labels. more_is_better: which way it points. unit: for tables."""

    equal: float
    more_is_better: bool
    unit: str = ""


METRICS: Mapping[str, Metric] = {
    "cosine": Metric(1.0, True),
    "psnr_db": Metric(100.0, True, "dB"),
    "edge_f1": Metric(1.0, True),
    "f1": Metric(1.0, True),
    "precision": Metric(1.0, True),
    "recall": Metric(1.0, True),
    "oks": Metric(1.0, True),
    "depth_order": Metric(1.0, True),
    "class_agreement": Metric(1.0, True),
    "mask_iou": Metric(1.0, True),
    "box_iou": Metric(1.0, True),
    "word_f1": Metric(1.0, True),
    "field_agreement": Metric(1.0, True),
    "token_agreement": Metric(1.0, True),
    "abs_rel": Metric(0.0, False),
    "angle_deg": Metric(0.0, False, "degrees"),
    "keypoint_px": Metric(0.0, False, "pixels"),
    "keypoint_mm": Metric(0.0, False, "mm"),
    "colour_distance": Metric(0.0, False, "of 255"),
    "count_difference": Metric(0.0, False),
}


def cosine(a: NDArray[Any], b: NDArray[Any]) -> dict[str, float]:
    """Cosine of two vectors; the mean over positions of two feature maps (..., channels). 1 where both are zero."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    if x.shape != y.shape:
        return {"cosine": -1.0}
    scale = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    products = np.sum(x * y, axis=-1)
    both_zero = (np.abs(x).max(initial=0) == 0) & (np.abs(y).max(initial=0) == 0)
    if both_zero:
        return {"cosine": 1.0}
    # Rounding must not make equal vectors look different.
    return {"cosine": 1.0 if np.array_equal(x, y) else float(np.mean(products / np.maximum(scale, 1e-12)))}


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> dict[str, float]:
    """Peak signal-to-noise ratio of two pictures of 8 bits, 100 at most, which equal ones have."""
    if a.shape != b.shape:
        return {"psnr_db": 0.0}
    error = float(np.square(a.astype(np.float64) - b).mean())
    return {"psnr_db": min(100.0, 10 * float(np.log10(255**2 / max(error, 1e-12))))}


def edges(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> dict[str, float]:
    """F1 of the edge pixels of two maps (H, W), nonzero on edges; one pixel of distance is forgiven."""
    if a.shape != b.shape:
        return {"edge_f1": 0.0}
    x, y = a > 0, b > 0
    if not x.any() and not y.any():
        return {"edge_f1": 1.0}
    precision = (x & _grown(y)).sum() / max(1, x.sum())
    recall = (y & _grown(x)).sum() / max(1, y.sum())
    return {"edge_f1": float(2 * precision * recall / max(1e-12, precision + recall))}


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and the pixels next to it."""
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])


def depths(a: NDArray[Any], b: NDArray[Any], unit_a: str = "metre", unit_b: str = "metre") -> dict[str, float]:
    """Depth maps (H, W), larger farther, of the units of labelers.core.depth_map; b is the reference.

    depth_order: share of pairs of pixels that b orders clearly (1 % of its range) which a orders the same way. abs_rel,
    where b is in metres: mean of |a - b| / b over known, positive distances; a of unknown scale and shift is fitted to
    b first, in the space in which it is linear, by least squares.
    """
    if a.shape != b.shape:
        return {}
    good = np.isfinite(a) & np.isfinite(b)
    for values, unit in ((a, unit_a), (b, unit_b)):
        good &= (values > 0) | (unit != "metre")
    if good.sum() < 2:
        return {}
    x, y = a[good].astype(np.float64), b[good].astype(np.float64)
    if unit_b != "metre":
        return _order(x, y)
    return {"abs_rel": float(np.mean(np.abs(aligned(x, y, unit_a) - y) / y)), **_order(x, y)}


def aligned(x: NDArray[np.float64], y: NDArray[np.float64], unit: str) -> NDArray[np.float64]:
    """Known depths x of a unit as metres, by the scale and shift that fit the distances y best; 1 mm at least."""
    if unit == "metre":
        return x
    target = y if unit == "relative" else -1 / y
    spread = x - x.mean()
    # A map that is upside down stays wrong: no fit may turn it.
    scale = max(0.0, float(spread @ (target - target.mean())) / max(float(spread @ spread), 1e-12))
    fitted = target.mean() + scale * spread
    # A line fitted to inverse distances may cross zero far away; 1 km stands for what lies behind.
    return np.asarray(np.maximum(fitted, 1e-3) if unit == "relative" else -1 / np.minimum(fitted, -1e-3))


def _order(x: NDArray[np.float64], y: NDArray[np.float64], pairs_tried: int = 20_000) -> dict[str, float]:
    first, second = np.random.default_rng(0).integers(0, x.size, (2, pairs_tried))
    apart = y[first] - y[second]
    clear = np.abs(apart) > 0.01 * float(np.ptp(y))
    if not clear.any():
        return {}
    return {"depth_order": float(np.mean(np.sign(x[first] - x[second])[clear] == np.sign(apart[clear])))}


def normals(a: NDArray[Any], b: NDArray[Any]) -> dict[str, float]:
    """Mean angle in degrees between two maps of unit vectors (H, W, 3), where both have one."""
    if a.shape != b.shape:
        return {}
    x, y = a.astype(np.float64), b.astype(np.float64)
    length = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    good = np.isfinite(length) & (length > 0)
    if not good.any():
        return {}
    dot = np.clip(np.sum(x * y, axis=-1)[good] / length[good], -1, 1)
    return {"angle_deg": float(np.degrees(np.arccos(dot)).mean())}


def classes(a: NDArray[Any], b: NDArray[Any]) -> dict[str, float]:
    """Share of pixels with the same class; maps of whole numbers (H, W)."""
    return {"class_agreement": float((a == b).mean()) if a.shape == b.shape and a.size else 0.0}


def texts(a: str, b: str) -> dict[str, float]:
    """F1 of the words of two texts, as multisets, case aside."""
    x, y = Counter(a.lower().split()), Counter(b.lower().split())
    common = sum((x & y).values())
    return {"word_f1": 1.0 if x == y else 2 * common / max(1, sum(x.values()) + sum(y.values()))}


def fields(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, float]:
    """Share of the keys either has whose values are equal, numbers up to a millionth of their size."""
    keys = sorted(set(a) | set(b))
    same = [k in a and k in b and _equal(a[k], b[k]) for k in keys]
    return {"field_agreement": float(np.mean(same)) if keys else 1.0}


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, int | float) and isinstance(y, int | float):
        return bool(np.isclose(x, y, rtol=1e-6, atol=1e-9))
    return bool(x == y)


def palettes(a: Sequence[NDArray[np.uint8]], b: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """Mean distance in RGB, 0..441, from each colour to the nearest of the other side, over palettes of one size."""
    distances = []
    for x, y in zip(a, b, strict=False):
        apart = np.linalg.norm(x.astype(np.float64)[:, None] - y.astype(np.float64)[None], axis=-1)
        distances += [*apart.min(0), *apart.min(1)]
    return {"colour_distance": float(np.mean(distances))} if distances else {}


def box_iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """(n, 4) and (m, 4) boxes x0, y0, x1, y1 -> (n, m) intersection over union."""
    x, y = np.asarray(a, np.float64).reshape(-1, 4).T[:, :, None], np.asarray(b, np.float64).reshape(-1, 4).T[:, None]
    low, high = np.maximum(x[:2], y[:2]), np.minimum(x[2:], y[2:])  # (2, n, m): an axis of two behind would be slow
    inside = np.clip(high - low, 0, None)
    common = inside[0] * inside[1]
    (w, h), (other_w, other_h) = x[2:] - x[:2], y[2:] - y[:2]
    return np.asarray(common / np.maximum(w * h + other_w * other_h - common, 1e-12))


def pairs(overlap: NDArray[np.float64], least: float = 0.3) -> list[tuple[int, int]]:
    """Greedy one-to-one matching of rows to columns, largest overlap first, none below `least`."""
    left, found = overlap.copy(), []
    while left.size and left.max() >= least:
        i, j = np.unravel_index(int(left.argmax()), left.shape)
        found.append((int(i), int(j)))
        left[i, :], left[:, j] = -1, -1
    return found


def match_boxes(
    found: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]], least: float
) -> NDArray[np.int64]:
    """For each found box, surest first, the place of the true box of its class that it hits, or -1: int64 (n,).

    COCO's rule: each takes, of the true boxes that are not taken yet, the one it overlaps most, if by `least` or more.
    """
    hits = np.full(len(found), -1, np.int64)
    if not found or not truth:
        return hits
    overlap = box_iou(np.stack([one["box"] for one in found]), np.stack([one["box"] for one in truth]))
    overlap[np.array([[a["label"] != b["label"] for b in truth] for a in found])] = -1
    for i in sorted(range(len(found)), key=lambda i: -found[i]["score"]):
        best = int(overlap[i].argmax())
        if overlap[i, best] >= least:
            hits[i] = best
            overlap[:, best] = -1
    return hits


def boxes(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Boxes of a that hit one of b of the same class at an IoU of 0.5: precision, recall and their F1; b is the reference."""
    if not a and not b:
        return {"f1": 1.0}
    hit = int((match_boxes(a, b, 0.5) >= 0).sum())
    found = {"f1": 2 * hit / (len(a) + len(b))}
    return found | ({"precision": hit / len(a)} if a else {}) | ({"recall": hit / len(b)} if b else {})


def overlaps(overlap: NDArray[np.float64]) -> dict[str, float]:
    """Masks by their IoU matrix (n of a, m of b): mean over b, the reference, of the best IoU; how many more one has."""
    n, m = overlap.shape
    best = float(overlap.max(axis=0).mean()) if n and m else float(n == m)
    return {"mask_iou": best, "count_difference": float(abs(n - m))} if m else {"count_difference": float(abs(n - m))}


# COCO's widths of its 17 joints, and the 2 it multiplies them by.
_JOINT_WIDTHS = 2 * np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000


def joint_similarity(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """COCO's object keypoint similarity of two people over the joints b knows; nan where b knows none."""
    known = b["keypoints"][:, 2] > 0
    if not known.any():
        return float("nan")
    size = b["box"][2:] - b["box"][:2]
    area = 0.53 * float(size[0]) * float(size[1])  # COCO takes the mask's area; of people it is about half of the box
    apart = np.sum((a["keypoints"][:, :2] - b["keypoints"][:, :2]).astype(np.float64) ** 2, axis=1)
    return float(np.exp(-apart / (2 * _JOINT_WIDTHS**2 * max(area, 1.0)))[known].mean())


def joints(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """People with COCO's joints: mean over those of b, the reference, of the similarity of the person of a it is paired
    with, 0 where there is none; and how many more people one side has.
    """
    found = {"count_difference": float(abs(len(a) - len(b)))}
    table = np.array([[joint_similarity(x, y) for y in b] for x in a], np.float64).reshape(len(a), len(b))
    judged = [j for j, y in enumerate(b) if (y["keypoints"][:, 2] > 0).any()]
    if judged:
        matched = pairs(np.nan_to_num(table[:, judged]), 0.05)
        found = {"oks": float(sum(table[i, judged[j]] for i, j in matched)) / len(judged), **found}
    return found


def people(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean distance of the keypoints of people whose boxes match, in pixels and, root-relative, in mm; and how many
    more people one side has.
    """
    found = {"count_difference": float(abs(len(a) - len(b)))}
    if not a or not b:
        return found
    matched = pairs(box_iou(np.stack([p["box"] for p in a]), np.stack([p["box"] for p in b])))
    if matched:
        flat = [np.linalg.norm(a[i]["keypoints"][:, :2] - b[j]["keypoints"][:, :2], axis=1).mean() for i, j in matched]
        deep = [np.linalg.norm(a[i]["keypoints_3d"] - b[j]["keypoints_3d"], axis=1).mean() for i, j in matched]
        found = {"keypoint_px": float(np.mean(flat)), "keypoint_mm": float(np.mean(deep)) * 1000, **found}
    return found


def tokens(a: NDArray[Any], b: NDArray[Any]) -> dict[str, float]:
    """Share of places with the same token; of the longer one where lengths differ."""
    longest = max(a.size, b.size)
    if a.shape == b.shape:
        return {"token_agreement": float((a == b).mean()) if a.size else 1.0}
    x, y = a.reshape(-1), b.reshape(-1)
    n = min(x.size, y.size)
    return {"token_agreement": float((x[:n] == y[:n]).sum() / max(1, longest))}


def same(metrics: Mapping[str, float], tolerance: float = 0.02) -> bool:
    """Whether metrics say the labels agree as well as two runs of one network on two machines do: shares and cosines
    within `tolerance`, pixels and millimetres within one.
    """
    return all(
        abs(value - METRICS[name].equal) <= (tolerance if METRICS[name].equal else 0.99)
        for name, value in metrics.items()
    )
