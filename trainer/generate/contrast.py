"""Palettes of a data set's photos that are clearly unlike each other, found by a rule: what a generation is steered by is
then colours that some photo has together, and nobody's choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labelers.color_palette import COLOR_PALETTE, to_lab
from labelers.core.modality import Null
from pipeline.dataset import Dataset
from tokenize_shards.holdout import held_out

Colours = npt.NDArray[np.uint8]  # (n, 3) sRGB
HUES = {"reddest": 40.0, "greenest": 135.0, "bluest": 290.0}  # degrees in the plane a, b of CIE Lab
SIZE = 5  # colours: enough to say a photo's colours, and not which photo
MOST = 2000  # photos that are looked at


def contrasts(palettes: Sequence[Colours]) -> dict[str, int]:
    """By name, the number of the palette whose mean colour is the reddest, greenest, bluest, darkest, brightest, in this
    order and each another one. A hue counts as far as it goes in its direction of the plane a, b of CIE Lab, less how
    far it goes aside.
    """
    if not palettes:
        return {}
    mean = np.array([to_lab(palette).mean(axis=0) for palette in palettes])
    scores = {}
    for name, degrees in HUES.items():
        along, aside = (np.array([np.cos(t), np.sin(t)]) for t in np.radians([degrees, degrees + 90]))
        scores[name] = mean[:, 1:] @ along - np.abs(mean[:, 1:] @ aside)
    found: dict[str, int] = {}
    for name, score in (scores | {"darkest": -mean[:, 0], "brightest": mean[:, 0]}).items():
        left = [i for i in np.argsort(-score, kind="stable") if i not in found.values()]
        if left:
            found[name] = int(left[0])
    return found


def contrasting(ds: Dataset, holdout: float) -> dict[str, Colours]:
    """The contrasts among the photos that are trained on: colours that a model can have seen together."""
    learned: list[Colours] = []
    for k in ds.shards():
        if len(learned) >= MOST:
            break
        for label, held in zip(ds.labels(COLOR_PALETTE, k), held_out(ds.ids(k), holdout), strict=True):
            if not held and not isinstance(label, Null) and len(label) >= SIZE:
                learned.append(label[SIZE - 1])
    return {name: learned[i] for name, i in contrasts(learned).items()}


def as_text(colours: Colours) -> str:
    """As it is written on the command line: "#ff8800 #002244"."""
    return " ".join(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colours.tolist())
