"""What an encoder is transferred to: labels of samples, the head that predicts them, its loss, and its scores."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelers.core.class_map import NAMES
from labelers.core.modality import Null
from labelers.core.registry import all_modalities
from labelers.core.scores import ClassScores, DepthScores, average_precision
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.records import IndexRow
from pipeline.storage.places import here
from tokenize_shards.inputs import ShardViews
from tokenize_shards.table import image_row
from trainer.generate.job import Spot

Truth = Mapping[tuple[int, int, int], npt.NDArray[Any]]  # (shard, row, view) -> what is to be predicted


class Task(ABC):
    """name, outputs: numbers the head gives, a sample or a place. dense: a number a place, from the tokens of a grid."""

    name: str
    outputs: int
    dense = False

    @abstractmethod
    def truth(self, ds: Dataset, views: int, seed: int) -> Truth:
        """The labels of all samples that have one, by view."""

    @abstractmethod
    def loss(self, out: Tensor, truth: Tensor) -> Tensor: ...

    @abstractmethod
    def scores(self, out: npt.NDArray[np.float32], truth: npt.NDArray[Any]) -> dict[str, float]:
        """The first is what runs are compared by; more is better unless its name says loss or abs_rel."""


def class_of(by_name: Mapping[str, str], sample: IndexRow) -> str | None:
    """The class of a sample by its id, its file name, or that without the ending; in a tar, those of the member."""
    name = PurePosixPath(unquote(sample.uri.rpartition("#")[2])).name
    return by_name.get(sample.id, by_name.get(name, by_name.get(PurePosixPath(name).stem)))


class Classify(Task):
    """One class a sample, from a file of lines `file name or id,class`, on this machine or at s3://."""

    name = "classify"

    def __init__(self, path: str, option: str = "--labels") -> None:
        """option: what the file was given with. ConfigError where it cannot be read, or says two things of one photo."""
        try:
            with here(path).open(newline="", encoding="utf-8-sig") as handle:  # spreadsheets begin with a mark
                rows = [row for row in csv.reader(handle) if len(row) >= 2]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"{option} {path}: cannot be read ({why})") from None
        self.by_name: dict[str, str] = {}
        for name, label in ((row[0].strip(), row[1].strip()) for row in rows):
            if self.by_name.setdefault(name, label) != label:
                raise ConfigError(
                    f"{option} {path}: {name} is {self.by_name[name]} and {label}; where photos of several folders share a "
                    "name, give their ids"
                )
        self.classes = sorted(set(self.by_name.values()))
        if len(self.classes) < 2:
            raise ConfigError(f"{option} {path}: names {len(self.classes)} classes; lines are `file name or id,class`")
        self.outputs = len(self.classes)

    def truth(self, ds: Dataset, views: int, seed: int) -> Truth:
        found: dict[tuple[int, int, int], npt.NDArray[Any]] = {}
        for k in ds.shards():
            for row, sample in enumerate(ds.index(k)):
                label = class_of(self.by_name, sample)
                if label is not None:
                    number = np.array(self.classes.index(label), np.int64)
                    found |= {(k, row, view): number for view in range(views)}
        return found

    def loss(self, out: Tensor, truth: Tensor) -> Tensor:
        return F.cross_entropy(out, truth)

    def scores(self, out: npt.NDArray[np.float32], truth: npt.NDArray[Any]) -> dict[str, float]:
        rank = np.argsort(-out, axis=1, kind="stable")
        hits = rank == truth[:, None]
        found = {"top1": float(hits[:, 0].mean())}
        if self.outputs > 5:
            found["top5"] = float(hits[:, :5].any(axis=1).mean())
        return found | {"majority": float(np.bincount(truth).max() / len(truth))}


class Present(Task):
    """Which classes a sample's view shows, many at once, from its boxes (det): those with at least `least` samples.

    groups: class -> the name it goes by here, such as that of a coarser class.
    """

    name = "present"

    def __init__(
        self, ds: Dataset, least: int = 8, only: Sequence[str] = (), groups: Mapping[str, str] | None = None
    ) -> None:
        self.groups = dict(groups or {})
        counts: dict[str, int] = {}
        for k in ds.shards():
            for label in ds.labels(all_modalities()["det"], k):
                for name in set() if isinstance(label, Null) else self._names(label):
                    counts[name] = counts.get(name, 0) + 1
        self.classes = sorted(n for n, c in counts.items() if (n in only if only else c >= least))
        if not self.classes:
            most = sorted(counts, key=lambda n: -counts[n])[:5]
            raise ConfigError(f"det: no class that was asked for is in {least} samples; the most frequent are {most}")
        self.outputs = len(self.classes)

    def _names(self, boxes: Sequence[Mapping[str, Any]]) -> set[str]:
        return {self.groups.get(box["label"], box["label"]) for box in boxes}

    def truth(self, ds: Dataset, views: int, seed: int) -> Truth:
        from tokenize_shards.grammar_boxes import cut_detections

        found: dict[tuple[int, int, int], npt.NDArray[Any]] = {}
        for k in ds.shards():
            shard = ShardViews(ds, k, range(views), seed)
            for row, label in enumerate(ds.labels(all_modalities()["det"], k)):
                if isinstance(label, Null):
                    continue
                for view, box in enumerate(shard.views[row]):
                    seen = self._names(cut_detections(label, box))
                    found[k, row, view] = np.array([name in seen for name in self.classes], np.float32)
        return found

    def loss(self, out: Tensor, truth: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(out, truth)

    def scores(self, out: npt.NDArray[np.float32], truth: npt.NDArray[Any]) -> dict[str, float]:
        curves = [
            average_precision(out[:, c].astype(np.float64), truth[:, c] > 0, int((truth[:, c] > 0).sum()))
            for c in range(self.outputs)
        ]
        known = [c for c in curves if np.isfinite(c)]
        return {
            "map": float(np.mean(known)) if known else float("nan"),
            "chance_map": float((truth > 0).mean(axis=0).mean()),
        }


class Dense(Task):
    """A number or a class at each place of a picture, from the maps of a modality cut by the view; side: of the map."""

    dense = True

    def __init__(self, modality: str, side: int) -> None:
        self.modality, self.side = modality, side

    def truth(self, ds: Dataset, views: int, seed: int) -> Truth:
        content = {"semseg": "classes", "depth": "depth"}[self.modality]
        spec = image_row(self.modality, self.side, 1, 1, 2, content)
        found: dict[tuple[int, int, int], npt.NDArray[Any]] = {}
        recipe = ds.current(self.modality)
        for k in ds.shards():
            shard = ShardViews(ds, k, range(views), seed)
            for row, cut in enumerate(shard.stream(spec, recipe)):
                if not isinstance(cut, Null):
                    found |= {(k, row, view): self.array(one) for view, one in enumerate(cut)}
        return found

    @abstractmethod
    def array(self, cut: Any) -> npt.NDArray[Any]:
        """One cut map as an array (side, side)."""


class Segment(Dense):
    """Classes of semseg; void counts for nothing."""

    name, outputs = "segment", len(NAMES)

    def __init__(self, side: int = 56) -> None:
        super().__init__("semseg", side)

    def array(self, cut: Any) -> npt.NDArray[Any]:
        return np.asarray(cut, np.int64).reshape(self.side, self.side)

    def loss(self, out: Tensor, truth: Tensor) -> Tensor:
        known = truth > 0
        return F.cross_entropy(out.movedim(1, -1)[known], truth[known]) if bool(known.any()) else out.sum() * 0.0

    def scores(self, out: npt.NDArray[np.float32], truth: npt.NDArray[Any]) -> dict[str, float]:
        found = ClassScores()
        found.add(out[:, 1:].argmax(axis=1) + 1, truth)
        return found.result()


class Depth(Dense):
    """Depth, larger is farther, NaN where unknown; scale and shift of a sample are fitted to the truth when it is scored."""

    name, outputs = "depth", 1

    def __init__(self, side: int = 56) -> None:
        super().__init__("depth", side)

    def array(self, cut: Any) -> npt.NDArray[Any]:
        values = np.asarray(getattr(cut, "values", cut), np.float32).reshape(self.side, self.side)
        middle, spread = np.nanmedian(values), np.nanstd(values)
        return (values - middle) / max(float(spread), 1e-6)

    def loss(self, out: Tensor, truth: Tensor) -> Tensor:
        known = torch.isfinite(truth)
        return F.l1_loss(out[:, 0][known], truth[known]) if bool(known.any()) else out.sum() * 0.0

    def scores(self, out: npt.NDArray[np.float32], truth: npt.NDArray[Any]) -> dict[str, float]:
        from labelers.core.depth_map import DepthMap

        found = DepthScores()
        errors = []
        for mine, real in zip(out[:, 0], truth, strict=True):
            known = np.isfinite(real)
            if known.any():
                errors.append(float(np.abs(mine[known] - real[known]).mean()))
                found.add(DepthMap(mine, "relative"), DepthMap(real, "relative"))
        return {"loss_l1": float(np.mean(errors)) if errors else float("nan"), **found.result()}


class Head(nn.Module):
    """Pooled features to `outputs` numbers; or the features of a grid's tokens to a map of side x side."""

    def __init__(self, task: Task, dim: int, grid: tuple[int, int] | None) -> None:
        super().__init__()
        self.grid, self.side = grid, getattr(task, "side", 0)
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, task.outputs)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, real: Tensor) -> Tensor:
        """features: (B, n, d), the grid's tokens first; real: (B, n). (B, outputs) or (B, outputs, side, side)."""
        if self.grid is None:
            weight = real[..., None].to(features.dtype)
            return self.out(self.norm((features * weight).sum(1) / weight.sum(1).clamp(min=1)))
        rows, columns = self.grid
        x = self.out(self.norm(features[:, : rows * columns])).transpose(1, 2).unflatten(2, (rows, columns))
        return F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False)


def task_of(name: str, labels: str, ds: Dataset) -> Task:
    """ConfigError for an unknown task, or labels the data set does not have."""
    if name == "classify":
        if labels == "det" or labels.startswith("det:"):
            ds.current("det")
            return Present(ds, only=[n for n in labels.removeprefix("det").removeprefix(":").split("+") if n])
        return Classify(labels)
    if name in ("segment", "depth"):
        ds.current("semseg" if name == "segment" else "depth")
        return Segment() if name == "segment" else Depth()
    raise ConfigError(f"--task {name}: is not one of classify, segment, depth")


def spots_of(truth: Truth) -> list[Spot]:
    return sorted({(k, row) for k, row, _ in truth})
