"""The contract of a labeler: what it produces, reads and needs, and one method that maps a batch of samples to labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from labelers.core.modality import Label, Modality, Null


@dataclass(frozen=True)
class Sample:
    """What a labeler sees of one image.

    image: uint8 RGB (H, W, 3), EXIF-upright. sidecars: files that came with it, by extension ("txt", "json").
    labels: the modalities named in `reads` that the run has, each a label or a Null. uri: where the image came from, as
    the index has it. size: (height, width) as the index has it, for those who do not look at pixels.
    """

    id: str
    image: NDArray[np.uint8]
    sidecars: Mapping[str, bytes] = field(default_factory=dict)
    labels: Mapping[str, Label | Null] = field(default_factory=dict)
    uri: str = ""
    size: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the upright image, whether or not its pixels are here."""
        height, width = self.image.shape[:2]
        return (height, width) if height * width else self.size


@dataclass(frozen=True)
class Resources:
    """What one worker of the labeler takes: CPU cores, GPU share (0..1 or more), images a batch.

    custom: further resources that nodes declare, by name, such as {"licence": 1}.
    """

    cpu: float = 1.0
    gpu: float = 0.0
    batch: int = 16
    custom: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Licence:
    """Licences of a backend as SPDX names where one exists; commercial: may a company use the labels?"""

    code: str
    weights: str = "none"
    commercial: bool = True


class Params(BaseModel):
    """Base of every labeler's parameters: typed, frozen, unknown keys refused. All of them go into the recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Labeler(ABC):
    """Produces one or more modalities from an image and from other modalities.

    Several labelers may produce one modality (two detectors, an import): each lists the same `Modality` object, and the
    configuration enables one of them at a time. Recipes that others made before stay beside, for `diff` and `promote`.
    `reads` names modalities, whoever makes them; one that nothing enabled makes is absent from `Sample.labels`.
    Subclasses set the class variables, may define their own `Params(labeler.Params)`, and implement `label`.
    `weights` names a default URL for each weight slot (see labelers.core.weights); `files` in __init__ are the
    resolved local paths of those slots. `sources` names slots without a default, which the configuration must fill.
    Heavy imports and model loading belong in `setup`, called once a worker.
    `uses_pixels = False` for labelers that need only side-cars or other labels: their samples come with an empty image.
    `by_resolution = True` for networks that keep an image's own size: every batch then holds images of one size.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    backend: ClassVar[str]  # what made the labels, in words a report shows: "opencv", "BlazePose full (mediapipe)"
    produces: ClassVar[tuple[Modality, ...]]
    reads: ClassVar[tuple[str, ...]] = ()
    resources: ClassVar[Resources] = Resources()
    weights: ClassVar[Mapping[str, str]] = {}
    sources: ClassVar[tuple[str, ...]] = ()
    licence: ClassVar[Licence] = Licence("Apache-2.0")
    uses_pixels: ClassVar[bool] = True
    by_resolution: ClassVar[bool] = False
    default_on: ClassVar[bool] = True  # False: off until the configuration enables it (weights that need a model hub)
    Params: ClassVar[type[Params]] = Params

    def __init__(self, params: BaseModel | None = None, files: Mapping[str, Path] | None = None) -> None:
        self.params: Any = params if params is not None else self.Params()
        self.files: Mapping[str, Path] = files or {}

    def setup(self) -> None:
        """Load networks. Called once, before the first `label`, in the process that labels."""

    def code(self) -> Mapping[str, str]:
        """Name and version of code outside this project and its dependencies that makes the labels; part of the recipe."""
        return {}

    @abstractmethod
    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        """One dict a sample, in order, with an entry for every modality in `produces`: a label, or Null(reason).

        Raise only for what is wrong with the whole batch; what is wrong with one sample is its Null.
        """
