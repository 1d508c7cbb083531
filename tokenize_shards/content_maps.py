"""Contents that are not pictures: class maps, depth, surface normals, instance masks. See content.py for the contract."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenize_shards.content import CPU, Content, require, tensor_of

CLASS_BITS = 16  # numbers a class is told apart by
TRIM = 0.1  # share of a view's lowest and of its highest depths that its mean and spread leave out
_SHARPNESS = 8.0  # of class logits: how far a whole unit of distance moves them
_ROUND = 255  # normals stored as bytes: (n + 1) / 2 * 255


class Classes(Content):
    """Class ids, integers (n, H, W) of 0..classes-1. Figure: miou over the classes that occur, 0..1.

    A class is a fixed point of CLASS_BITS numbers, so that 134 classes do not make 134 channels. The network draws
    points; how near each class's is makes the logits, and cross-entropy is minimised.
    """

    channels = CLASS_BITS

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.codes = torch.from_numpy(class_codes(classes))  # (classes, CLASS_BITS), each of unit length

    def check(self, batch: np.ndarray) -> None:
        require(batch.dtype.kind in "ui" and batch.ndim == 3, "integers (n, H, W)", batch)
        wrong = batch[(batch < 0) | (batch >= len(self.codes))]
        if wrong.size:
            raise ValueError(
                f"class {int(wrong[0])} is not one of the {len(self.codes)} the tokenizer has been made for"
            )

    def to_tensor(self, batch: np.ndarray, device: torch.device = CPU) -> Tensor:
        return self.codes.to(device)[torch.from_numpy(batch.astype(np.int64)).to(device)].permute(0, 3, 1, 2)

    def from_tensor(self, output: Tensor) -> np.ndarray:
        found = self._logits(output).argmax(1)
        return found.to(torch.uint8 if len(self.codes) <= 256 else torch.int32).cpu().numpy()

    def _logits(self, output: Tensor) -> Tensor:
        """Points (n, CLASS_BITS, H, W) -> (n, classes, H, W), from squared distances up to what all classes share."""
        return 2 * _SHARPNESS * torch.einsum("nbhw,cb->nchw", output, self.codes.to(output))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self._logits(output), self._logits(target).argmax(1))

    def resize(self, x: Tensor, side: int) -> Tensor:
        return F.interpolate(x, (side, side), mode="nearest-exact")

    def measure(self, truth: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        ious = []
        for one in np.unique(truth):
            a, b = truth == one, decoded == one
            ious.append((a & b).sum() / max(1, (a | b).sum()))
        return {"miou": float(np.mean(ious))} if ious else {}


def class_codes(classes: int) -> np.ndarray:
    """A point of CLASS_BITS numbers for each class, float32 (classes, CLASS_BITS) of unit length, far from each other.

    The first words of the greedy binary code with the largest distance that still has enough of them; 0 and 1 as signs.
    """
    if not 2 <= classes <= 1 << (CLASS_BITS - 1):
        raise ValueError(f"class maps need 2..{1 << (CLASS_BITS - 1)} classes, got {classes} channels")
    words = np.arange(1 << CLASS_BITS, dtype=np.uint16)
    chosen: list[int] = []
    for distance in range(CLASS_BITS // 2, 0, -1):
        free, chosen = np.ones(len(words), bool), []
        while len(chosen) < classes and free.any():
            chosen.append(int(free.argmax()))
            free &= np.bitwise_count(words ^ words[chosen[-1]]) >= distance
        if len(chosen) == classes:
            break
    bits = (np.array(chosen)[:, None] >> np.arange(CLASS_BITS)) & 1
    return ((2 * bits - 1) / np.sqrt(CLASS_BITS)).astype(np.float32)


class Depth(Content):
    """Depth of any unit, (n, H, W): integers, or floats of which those that are not finite are unknown.

    Only its order and proportions within a view are in the tokens: each view is standardised by the mean and the
    spread of its middle 80 % (truncated, as in 4M-21). It decodes to the mean and spread of training views, in the
    type and range of the labels. Figure: abs_rel, |found - true| / true after the best scale and shift.
    """

    channels = 1

    def __init__(
        self, mean: float = 0.0, spread: float = 1.0, low: float = -np.inf, high: float = np.inf, bits: float = 0
    ) -> None:
        """bits: of the unsigned integers that labels are; 0 for float32."""
        super().__init__(mean=mean, spread=spread, low=low, high=high, bits=bits)

    def learn(self, train: np.ndarray) -> None:
        means, spreads = _middle(train)
        known = train[np.isfinite(train)] if train.dtype.kind == "f" else train
        whole = train.dtype.kind == "u"
        self.settings = {
            "mean": float(np.mean(means)), "spread": float(np.mean(spreads)),
            "low": float(known.min()) if known.size else 0.0, "high": float(known.max()) if known.size else 0.0,
            "bits": 8.0 * train.dtype.itemsize if whole else 0.0,
        }  # fmt: skip

    def check(self, batch: np.ndarray) -> None:
        require(batch.dtype.kind in "uf" and batch.ndim == 3, "unsigned integers or floats (n, H, W)", batch)

    def to_tensor(self, batch: np.ndarray, device: torch.device = CPU) -> Tensor:
        means, spreads = _middle(batch)
        values = (batch.astype(np.float32) - means[:, None, None]) / spreads[:, None, None]
        return tensor_of(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0))[:, None].to(device)

    def from_tensor(self, output: Tensor) -> np.ndarray:
        s = self.settings
        values = np.clip(output[:, 0].cpu().numpy() * s["spread"] + s["mean"], s["low"], s["high"])
        if s["bits"]:
            return values.round().astype({8: np.uint8, 16: np.uint16, 32: np.uint32}[int(s["bits"])])
        return values.astype(np.float32)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(output, target)

    def measure(self, truth: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        errors = [abs_rel(a, b) for a, b in zip(truth, decoded, strict=True)]
        known = [e for e in errors if np.isfinite(e)]
        return {"abs_rel": float(np.mean(known))} if known else {}


def _middle(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread, float32 (n,) each, of every view without its TRIM lowest and highest known depths."""
    means, spreads = np.zeros(len(batch), np.float32), np.ones(len(batch), np.float32)
    for i, view in enumerate(batch):
        known = np.sort(view[np.isfinite(view)] if view.dtype.kind == "f" else view.ravel()).astype(np.float64)
        cut = int(TRIM * len(known))
        middle = known[cut : len(known) - cut] if len(known) > 2 * cut else known
        if len(middle):
            # 1e-6 is for depths of 0..1; relative to the view's own size it holds for millimetres and 16-bit too.
            means[i], floor = middle.mean(), 1e-3 * max(1e-9, float(np.abs(middle).max()))
            spreads[i] = np.sqrt(middle.var() + floor**2)
    return means, spreads


def abs_rel(truth: np.ndarray, found: np.ndarray) -> float:
    """Mean of |s * found + t - truth| / truth over known depths above 0, s and t by least squares; NaN without any."""
    a, b = truth.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    known = np.isfinite(a) & np.isfinite(b) & (a > 0)
    a, b = a[known], b[known]
    if not a.size:
        return float("nan")
    design = np.stack([b, np.ones_like(b)], 1)
    scale, shift = np.linalg.lstsq(design, a, rcond=None)[0]
    return float((np.abs(scale * b + shift - a) / a).mean())


class Normals(Content):
    """Unit vectors (n, H, W, 3): floats, or uint8 with (n + 1) / 2 * 255. Figure: angle_deg, the mean over pixels.

    A vector of length 0 is unknown: it costs nothing in the figure. Mirrored views have X negated.
    """

    channels = 3

    def __init__(self, bytes: float = 0) -> None:
        super().__init__(bytes=bytes)

    def learn(self, train: np.ndarray) -> None:
        self.settings["bytes"] = float(train.dtype == np.uint8)

    def check(self, batch: np.ndarray) -> None:
        good = batch.dtype in (np.uint8, np.float16, np.float32) and batch.ndim == 4 and batch.shape[-1] == 3
        require(good, "uint8, float16 or float32 (n, H, W, 3)", batch)

    def to_tensor(self, batch: np.ndarray, device: torch.device = CPU) -> Tensor:
        return tensor_of(_vectors(batch)).to(device).permute(0, 3, 1, 2)

    def from_tensor(self, output: Tensor) -> np.ndarray:
        vectors = F.normalize(output.float(), dim=1).permute(0, 2, 3, 1).cpu().numpy()
        return ((vectors + 1) / 2 * _ROUND).round().astype(np.uint8) if self.settings["bytes"] else vectors

    def mirror(self, x: Tensor) -> Tensor:
        return x.flip(-1) * x.new_tensor([-1.0, 1.0, 1.0])[:, None, None]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target) + 0.5 * (1 - F.cosine_similarity(output, target, dim=1)).mean()

    def measure(self, truth: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        a, b = _vectors(truth), _vectors(decoded)
        known = (np.linalg.norm(a, axis=-1) > 0.5) & (np.linalg.norm(b, axis=-1) > 0)
        if not known.any():
            return {}
        return {"angle_deg": float(np.degrees(np.arccos(np.clip((a[known] * b[known]).sum(-1), -1, 1))).mean())}


def _vectors(batch: np.ndarray) -> np.ndarray:
    """Either encoding of normals -> float32 (n, H, W, 3) of unit length, 0 where unknown."""
    raw = batch.astype(np.float32)
    if batch.dtype == np.uint8:
        raw = (raw / _ROUND * 2 - 1).astype(np.float32)
    length = np.linalg.norm(np.nan_to_num(raw), axis=-1, keepdims=True)
    return np.where(length > 0.1, np.nan_to_num(raw) / np.maximum(length, 1e-6), 0).astype(np.float32)


class Masks(Content):
    """Instance masks cropped to their boxes, bool (n, H, W). Binary cross-entropy. Figure: mask_iou, the mean over masks."""

    channels = 1

    def check(self, batch: np.ndarray) -> None:
        require(batch.dtype == np.bool_ and batch.ndim == 3, "bool (n, H, W)", batch)

    def to_tensor(self, batch: np.ndarray, device: torch.device = CPU) -> Tensor:
        return tensor_of(batch).to(device)[:, None].float() * 2 - 1

    def from_tensor(self, output: Tensor) -> np.ndarray:
        return (output[:, 0] > 0).cpu().numpy()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        # Outputs begin near -1 and 1, where the start values put them; as logits those are too timid by a few times.
        return F.binary_cross_entropy_with_logits(4 * output, (target > 0).to(output.dtype))

    def resize(self, x: Tensor, side: int) -> Tensor:
        return F.interpolate(x, (side, side), mode="nearest-exact")

    def measure(self, truth: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        both, either = (truth & decoded).sum((1, 2)), (truth | decoded).sum((1, 2))
        return {"mask_iou": float((both / np.maximum(either, 1)).mean())}
