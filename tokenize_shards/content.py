"""What a ViT-VQ tokenizer looks at: how each content becomes a tensor and back, what is minimised, and the held-out
figure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CPU = torch.device("cpu")
_EDGE_THRESHOLDS = np.arange(0.1, 0.75, 0.05)


class Content(ABC):
    """Labels of one encoding (n, ...) <-> float32 tensors (n, channels, H, W) of about unit scale.

    flips: may a mirrored or shifted label be trained on? settings: numbers learned from the training data, kept in the
    file.
    """

    flips = True
    channels: int

    def __init__(self, **settings: float) -> None:
        self.settings = settings

    def learn(self, train: np.ndarray) -> None:
        """Settings that depend on the training labels."""

    def calibrate(self, train: np.ndarray, output: np.ndarray) -> None:
        """Settings that depend on what the fitted network gives for training labels; output (n, channels, H, W)."""

    @abstractmethod
    def check(self, batch: np.ndarray) -> None:
        """Raises ValueError for a wrong dtype or number of axes."""

    @abstractmethod
    def to_tensor(self, batch: np.ndarray, device: torch.device = CPU) -> Tensor:
        """The tensor, on a device; bytes travel there as they are, which takes a quarter of the time."""

    @abstractmethod
    def from_tensor(self, output: Tensor) -> np.ndarray: ...

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target)

    def mirror(self, x: Tensor) -> Tensor:
        """The tensor of the mirrored label, left to right."""
        return x.flip(-1)

    def resize(self, x: Tensor, side: int) -> Tensor:
        """The tensor of the same label with `side` cells a side."""
        return F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)

    @abstractmethod
    def measure(self, truth: np.ndarray, decoded: np.ndarray) -> dict[str, float]: ...


def require(ok: bool, what: str, batch: np.ndarray) -> None:
    if not ok:
        raise ValueError(f"expected {what}, got {batch.dtype} {batch.shape}")


def tensor_of(batch: np.ndarray) -> Tensor:
    """A copy as a tensor; torch takes no mirrored arrays, and a part of one may pass for contiguous."""
    return torch.from_numpy(np.array(batch, order="C"))


class Pixels(Content):
    """uint8 RGB (n, H, W, 3). Figure: psnr_db, the mean over pictures."""

    channels = 3

    def check(self, batch: np.ndarray) -> None:
        require(batch.dtype == np.uint8 and batch.ndim == 4 and batch.shape[-1] == 3, "uint8 (n, H, W, 3)", batch)

    def to_tensor(self, batch: np.ndarray, device: torch.device = CPU) -> Tensor:
        return tensor_of(batch).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1

    def from_tensor(self, output: Tensor) -> np.ndarray:
        return ((output + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def measure(self, truth: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        error = np.square(truth.astype(np.float32) - decoded).mean((1, 2, 3))
        return {"psnr_db": float((10 * np.log10(255**2 / np.maximum(error, 1e-3))).mean())}


class Edges(Content):
    """uint8 {0, 255} (n, H, W). Squared error estimates how likely a pixel is an edge; the threshold that makes edges
    of it is the one with the best F1 on training maps. Figure: f1 of edge pixels, 1 pixel of tolerance, 0..1.
    """

    channels = 1

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__(threshold=threshold)

    def check(self, batch: np.ndarray) -> None:
        require(batch.dtype == np.uint8 and batch.ndim == 3, "uint8 (n, H, W)", batch)

    def to_tensor(self, batch: np.ndarray, device: torch.device = CPU) -> Tensor:
        return tensor_of(batch).to(device)[:, None].float() / 127.5 - 1

    def from_tensor(self, output: Tensor) -> np.ndarray:
        edge = (output[:, 0] + 1) / 2 > self.settings["threshold"]
        return (edge.to(torch.uint8) * 255).cpu().numpy()

    def calibrate(self, train: np.ndarray, output: np.ndarray) -> None:
        likely = (output[:, 0] + 1) / 2
        scores = [edge_f1(train > 0, likely > t) for t in _EDGE_THRESHOLDS]
        self.settings["threshold"] = round(float(_EDGE_THRESHOLDS[int(np.argmax(scores))]), 4)

    def measure(self, truth: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        return {"f1": edge_f1(truth > 0, decoded > 0)}


def edge_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    """F1 of edge pixels, bool (n, H, W) each: a pixel counts where the other map has an edge in its 3x3 neighbourhood."""
    from scipy.ndimage import binary_dilation

    around = np.ones((1, 3, 3), bool)
    precision = (guess & binary_dilation(truth, around)).sum() / max(1, guess.sum())
    recall = (truth & binary_dilation(guess, around)).sum() / max(1, truth.sum())
    return float(2 * precision * recall / max(1e-9, precision + recall))


class Features(Content):
    """float16 or float32 (n, rows, cols, channels); decodes to float16. Figure: cosine, the mean over positions."""

    flips = False  # a mirrored feature map is not the feature map of the mirrored image

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__(scale=scale)
        self.channels = channels

    def learn(self, train: np.ndarray) -> None:
        self.settings["scale"] = float(train.astype(np.float32).std()) or 1.0

    def check(self, batch: np.ndarray) -> None:
        good = batch.dtype in (np.float16, np.float32) and batch.ndim == 4 and batch.shape[-1] == self.channels
        require(good, f"float16 (n, rows, cols, {self.channels})", batch)
        if not np.isfinite(batch).all():
            raise ValueError("a feature map has numbers that are not finite")

    def to_tensor(self, batch: np.ndarray, device: torch.device = CPU) -> Tensor:
        values = tensor_of(batch).to(device).float()
        return values.permute(0, 3, 1, 2) / self.settings["scale"]

    def from_tensor(self, output: Tensor) -> np.ndarray:
        return (output * self.settings["scale"]).permute(0, 2, 3, 1).to(torch.float16).cpu().numpy()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(output, target) + 0.5 * (1 - F.cosine_similarity(output, target, dim=1)).mean()

    def measure(self, truth: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        a, b = truth.astype(np.float32), decoded.astype(np.float32)
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        return {"cosine": float(((a * b).sum(-1) / np.maximum(norms, 1e-9)).mean())}
