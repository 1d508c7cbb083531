"""Masks by normalised cuts: trees and refinement on features made by hand, the labeler on real photos with real weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelers.core.cuts import affinity, all_segments, bisect, centred, cut_tree, leaves
from labelers.core.images import decode
from labelers.core.labeler import Sample
from labelers.core.masks import SAM_EDGE, SAM_INSTANCE
from labelers.core.modality import Null
from labelers.core.refine import to_pixels
from labelers.core.rle import decode_rle
from labelers.core.weights import resolve_all
from labelers.maskcut import Maskcut, MaskcutParams

GRID = 12


def scene(noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Features (12, 12, 8) of a floor, a thing with two parts, and a small thing; and which patch is which, 0..3."""
    kinds = np.zeros((GRID, GRID), np.int64)
    kinds[2:8, 2:5], kinds[2:8, 5:8], kinds[9:11, 9:11] = 1, 2, 3
    directions = np.eye(8)[:4]
    directions[2] = 0.6 * directions[1] + 0.8 * directions[2]  # the parts are more alike than anything else
    return directions[kinds] + np.random.default_rng(0).normal(0, noise, (GRID, GRID, 8)), kinds


def test_a_graph_is_cut_at_its_weakest_joints() -> None:
    joints = np.full((6, 6), 0.01)
    joints[:2, :2] = joints[2:, 2:] = 1
    side, cost = bisect(joints)
    assert set(map(tuple, (np.flatnonzero(side), np.flatnonzero(~side)))) == {(0, 1), (2, 3, 4, 5)}
    crossing = 8 * 0.01
    assert cost == pytest.approx(crossing / (4 + crossing) + crossing / (16 + crossing))


def test_things_become_segments_and_their_parts_segments_below() -> None:
    features, kinds = scene()
    tree = cut_tree(features, threshold=0.0, reach=0.5, most_cost=0.9, most_alike=0.75, least=2)
    found = {one.patches.tobytes() for one in all_segments(tree)}
    for wanted in (kinds == 3, np.isin(kinds, (1, 2)), kinds == 1, kinds == 2):
        assert wanted.tobytes() in found
    ends = leaves(tree)
    assert sum(end.patches.astype(int) for end in ends).max() == 1, "ends overlap"  # type: ignore[union-attr]
    for segment in all_segments(tree):
        for part in segment.parts:
            assert (part.patches <= segment.patches).all() and 0 <= part.cost <= 0.9


def test_what_is_all_alike_stays_whole() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (GRID, GRID, 8))
    wall = np.eye(8)[np.where(np.arange(GRID) < 6, 0, 1)][None].repeat(GRID, axis=0) + noise
    tree = cut_tree(wall, threshold=0.0, reach=0.2, most_cost=1.5, most_alike=0.75, least=2)
    assert sorted(int(end.patches.sum()) for end in leaves(tree)) == [72, 72]
    joints = affinity(centred(wall), (GRID, GRID), 0.0, 0.2)
    assert np.array_equal(joints, joints.T) and joints.max() <= 1.001


def test_borders_of_patches_move_to_the_edges_of_the_photo() -> None:
    image = np.full((60, 80, 3), 30, np.uint8)
    image[:, 36:] = 220  # the patches change at column 40
    segments = np.zeros((6, 8), np.int32)
    segments[:, 4:] = 1
    found = to_pixels(segments, image, side=320, radius=1.0, smooth=1e-3)
    assert found.shape == (60, 80)
    right = image[..., 0] == 220
    assert (found == right).mean() > 0.99 > (np.repeat(np.repeat(segments, 10, 0), 10, 1) == right).mean()
    assert to_pixels(segments, np.zeros((3, 5000, 3), np.uint8), 320, 1.0, 1e-3).shape == (1, 320)


@pytest.fixture(scope="module")
def maskcut() -> Maskcut:
    labeler = Maskcut(MaskcutParams(patches=16), {s: w.path for s, w in resolve_all(Maskcut.weights).items()})
    labeler.setup()
    return labeler


def test_a_photo_of_a_thing_gives_its_mask(maskcut: Maskcut, assets: Path) -> None:
    import json

    from labelers.core.annotations import mask_of

    truth = json.loads((assets / "gt" / "coco_instances_train128.json").read_text())
    image = decode((assets / "images" / "coco_000000000073.jpg").read_bytes()).image
    bike = max((a for a in truth["annotations"] if a["image_id"] == 73), key=lambda a: a["area"])
    wanted = mask_of(bike["segmentation"], image.shape[:2])
    row, again = maskcut.label([Sample("a", image), Sample("b", image)])
    SAM_INSTANCE.check(row["sam_instance"])
    SAM_EDGE.check(row["sam_edge"])
    assert SAM_INSTANCE.encode(row["sam_instance"]) == SAM_INSTANCE.encode(again["sam_instance"])
    masks = [decode_rle(one["mask"]) for one in row["sam_instance"]]  # type: ignore[union-attr]
    assert max((m & wanted).sum() / (m | wanted).sum() for m in masks) > 0.5
    assert row["sam_edge"].shape == image.shape[:2]  # type: ignore[union-attr]


def test_nothing_is_cut_out_of_one_colour_and_narrow_photos_say_why(maskcut: Maskcut) -> None:
    shapes = [(40, 30), (1, 1), (3, 900)]
    rows = maskcut.label([Sample(str(s), np.full((*s, 3), 255, np.uint8)) for s in shapes])
    assert rows[0]["sam_instance"] == [] and not np.any(rows[0]["sam_edge"])  # type: ignore[arg-type]
    for row in rows[1:]:
        assert isinstance(row["sam_instance"], Null) and row["sam_instance"].reason.startswith("image too small")
