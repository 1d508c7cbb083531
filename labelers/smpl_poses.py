"""smpl_poses: people as SMPL bodies, by a model you bring. A plug, because SMPL's licence must be accepted by each user.

SMPL's body files (smpl.is.tue.mpg.de) and the networks that predict them (4D-Humans, TokenHMR, ...) may not be passed on,
and most forbid commercial use. Install what you may use, write one class in a package of your own,

    class MyBodies:
        def __init__(self, folder: Path, device: str) -> None: ...        # your weights, named in the configuration
        def people(self, image, boxes) -> list[dict]: ...                 # uint8 (H, W, 3), float32 (n, 4) -> n records

whose records hold global_orient (3, 3), body_pose (23, 3, 3), betas (10,), camera (3,) as arrays (None for a box without
a body; camera: scale, x, y, by which a body point X is seen at scale (X + x, y), in units of half the longer side of the
box, from its middle), and enable it:

    labelers:
      smpl_poses: {enabled: true, params: {model: "my_package:MyBodies"}, weights: {model: "file:/where/they/are"}}

Class, version of its package and digest of the weights become the recipe.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from labelers.core.boxes import Box
from labelers.core.compare import box_iou, pairs
from labelers.core.labeler import Labeler, Licence, Params, Resources, Sample
from labelers.core.modality import Label, LabelError, Modality, Null, require
from labelers.core.networks import device
from labelers.core.overlays import class_colour, draw_box, small_copy
from labelers.core.show import Cell, Picture

BODY: Mapping[str, tuple[int, ...]] = {
    "global_orient": (3, 3), "body_pose": (23, 3, 3), "betas": (10,), "camera": (3,),
}  # fmt: skip
SHAPES = {"box": (4,), **BODY}


def _check(label: Label) -> None:
    require(isinstance(label, list), f"smpl_poses: expected a list of people, got {type(label).__name__}")
    for i, one in enumerate(label):
        require(isinstance(one, dict) and set(one) == {*SHAPES, "score"}, f"smpl_poses: person {i} has wrong fields")
        for name, shape in SHAPES.items():
            value = one[name]
            good = isinstance(value, np.ndarray) and value.dtype == np.float32 and value.shape == shape
            require(
                good and bool(np.isfinite(value).all()),
                f"smpl_poses: person {i}: {name} is not float32 {shape}, finite",
            )
        turns = np.concatenate([one["global_orient"][None], one["body_pose"]])
        off = np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3, dtype=np.float32)).max()
        require(bool(off < 1e-2), f"smpl_poses: person {i}: a rotation is no rotation, by {off:.3f}")
        require(
            isinstance(one["score"], float) and 0 <= one["score"] <= 1, f"smpl_poses: person {i}: score is not in 0..1"
        )


def _encode(label: Label) -> list[dict[str, Any]]:
    return [{k: v.ravel().tolist() if isinstance(v, np.ndarray) else v for k, v in one.items()} for one in label]


def _decode(raw: Sequence[Mapping[str, Any]]) -> Label:
    return [
        {k: np.asarray(v, np.float32).reshape(SHAPES[k]) if k in SHAPES else float(v) for k, v in one.items()}
        for one in raw
    ]


def _compare(a: Label, b: Label) -> dict[str, float]:
    """Mean angle between the joint rotations of people whose boxes match, and how many more people one side has."""
    found = {"count_difference": float(abs(len(a) - len(b)))}
    if a and b:
        angles = []
        for i, j in pairs(box_iou(np.stack([one["box"] for one in a]), np.stack([one["box"] for one in b]))):
            turn = a[i]["body_pose"].transpose(0, 2, 1).astype(np.float64) @ b[j]["body_pose"]
            cosine = (np.trace(turn, axis1=1, axis2=2) - 1) / 2
            same = np.array_equal(a[i]["body_pose"], b[j]["body_pose"])  # rounding must not make equal bodies differ
            angles.append(0.0 if same else float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean()))
        if angles:
            found["angle_deg"] = float(np.mean(angles))
    return found


def _show(label: Label, image: NDArray[np.uint8] | None) -> Cell:
    """The people's boxes: drawing bodies needs SMPL's own files."""
    if image is None:
        image = np.full((64, 64, 3), 32, np.uint8)
    canvas, scale = small_copy(image)
    for i, one in enumerate(label):
        draw_box(canvas, one["box"] * scale, class_colour(i), f"body {one['score']:.2f}")
    return Picture(canvas, f"{len(label)} {'body' if len(label) == 1 else 'bodies'}")


SMPL_POSES = Modality(
    name="smpl_poses", kind="record", container="parquet",
    arrow=pa.list_(pa.struct([
        *((name, pa.list_(pa.float32(), int(np.prod(shape)))) for name, shape in SHAPES.items()), ("score", pa.float32()),
    ])),
    encode=_encode, decode=_decode, check=_check, compare=_compare, show=_show,
    about="list of people, in the order of det: box float32 (4,) pixel edges; score 0..1; SMPL's global_orient (3, 3) and "
    "body_pose (23, 3, 3) as rotation matrices, betas (10,), camera (3,) as the model gives it",
)  # fmt: skip


class SmplParams(Params):
    """model: "package.module:Class" of the model, see the module. score: least score of a person's box."""

    model: str = ""
    score: float = Field(0.6, ge=0, le=1)


class SmplPoses(Labeler):
    """Bodies for the people that `det` found, by the model that the configuration names."""

    name = "smpl_poses"
    version = 1
    backend = "an SMPL model of the user's"
    produces = (SMPL_POSES,)
    reads = ("det",)
    resources = Resources(cpu=1.0, gpu=0.5, batch=8)
    sources = ("model",)
    licence = Licence("the user's", "SMPL: to be accepted by the user, non-commercial", commercial=False)
    default_on = False
    Params = SmplParams

    def code(self) -> Mapping[str, str]:
        name = self.params.model.partition(":")[0].partition(".")[0]
        found = {}
        for package in packages_distributions().get(name, []) if name else []:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
        return found

    def setup(self) -> None:
        module, _, name = self.params.model.partition(":")
        if not module or not name:
            raise ValueError('labelers.smpl_poses.params.model: name a class of yours as "package.module:Class"')
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ImportError(
                f"labelers.smpl_poses.params.model: {self.params.model} cannot be imported ({error})"
            ) from error
        self._model = found(self.files["model"], str(device()))

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        rows: list[dict[str, Label | Null]] = []
        for sample in samples:
            det = sample.labels.get("det", Null("not labelled"))
            if isinstance(det, Null):
                rows.append({"smpl_poses": Null(f"no det: {det.reason}")})
            else:
                rows.append({"smpl_poses": self._bodies(sample.image, det)})
        return rows

    def _bodies(self, image: NDArray[np.uint8], det: Sequence[Box]) -> Label:
        people = [one for one in det if one["label"] == "person" and one["score"] >= self.params.score]
        if not people:
            return []
        found = self._model.people(image, np.stack([one["box"] for one in people]))
        if len(found) != len(people):
            raise LabelError(
                f"{self.params.model} gave {len(found)} bodies for {len(people)} boxes; give None for no body"
            )
        return [
            {"box": one["box"], "score": one["score"], **{k: np.asarray(body[k], np.float32) for k in BODY}}
            for one, body in zip(people, found, strict=True) if body is not None
        ]  # fmt: skip
