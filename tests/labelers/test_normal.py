"""normal: TIPSv2's real code on a tiny checkpoint, and slopes of depth against planes whose normal is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelers.core.depth_map import DepthMap, Unit, stretched
from labelers.core.labeler import Sample
from labelers.core.modality import Null
from labelers.core.normal_map import NORMAL
from labelers.normal import FromDepthParams, NormalFromDepth, TipsNormal
from tests.labelers import tiny, tiny_more

HEIGHT, WIDTH, FOV = 60, 80, 60.0


def test_network(tmp_path: Path) -> None:
    folder, samples = tiny_more.tips(tmp_path), tiny.odd_samples()
    rows = tiny.ready(TipsNormal, folder).label(samples)
    for row, sample in zip(rows, samples, strict=True):
        NORMAL.check(row["normal"])
        assert row["normal"].shape == sample.image.shape
    turned = tiny.ready(TipsNormal, folder, signs=(1, -1, -1)).label(samples[:1])[0]["normal"]
    np.testing.assert_allclose(turned, rows[0]["normal"] * [1, -1, -1], atol=1e-6)


def test_normals_agree_with_transformers(tmp_path: Path) -> None:
    import torch
    from transformers.models.tipsv2_dpt.modeling_tipsv2_dpt import Tipsv2DptForDensePrediction

    folder, image = tiny_more.tips(tmp_path), tiny.photo((56, 56))
    labeler = tiny.ready(TipsNormal, folder)
    (row,) = labeler.label([Sample("a", image)])
    with torch.inference_mode():
        out = Tipsv2DptForDensePrediction.from_pretrained(folder).eval()(labeler.pixels(image[None])).normals
        unit = torch.nn.functional.normalize(out, dim=1)
        wanted = torch.nn.functional.interpolate(unit, size=(56, 56), mode="bilinear", align_corners=False)[0]
    wanted = wanted.permute(1, 2, 0).numpy()
    assert NORMAL.compare(row["normal"], wanted / np.linalg.norm(wanted, axis=-1, keepdims=True))["angle_deg"] < 0.1


def plane(normal: np.ndarray) -> np.ndarray:
    """Distances along the axis to the plane with that normal (right, down, towards us) whose middle is 5 m away."""
    focal = WIDTH / 2 / math.tan(math.radians(FOV) / 2)
    x = (np.arange(WIDTH) + 0.5 - WIDTH / 2) / focal
    y = (np.arange(HEIGHT) + 0.5 - HEIGHT / 2) / focal
    facing = normal * (1, 1, -1)  # the camera's z points away from us
    return (5 * facing[2] / (facing[0] * x + facing[1] * y[:, None] + facing[2])).astype(np.float32)


def of(depth: DepthMap, **params: float) -> np.ndarray:
    labeler = NormalFromDepth(FromDepthParams(fov=FOV, **params))
    (row,) = labeler.label([Sample("a", np.zeros((0, 0, 3), np.uint8), labels={"depth": depth})])
    NORMAL.check(row["normal"])
    return row["normal"]


@given(st.floats(-45, 45), st.floats(-45, 45))
@settings(max_examples=25)
def test_a_plane_has_its_normal(right: float, down: float) -> None:
    normal = np.array([math.tan(math.radians(right)), math.tan(math.radians(down)), 1.0])
    normal /= np.linalg.norm(normal)
    z = plane(normal)
    if z.min() > 0.5 and z.max() < 50:
        found = of(DepthMap(z, "metre"), smooth=0.0)
        np.testing.assert_allclose(found[2:-2, 2:-2], np.broadcast_to(normal, (HEIGHT - 4, WIDTH - 4, 3)), atol=0.02)


def test_a_floor_faces_up_and_a_wall_faces_us() -> None:
    floor = plane(np.array([0, -1, 0.3]) / math.hypot(1, 0.3))[HEIGHT // 2 :]
    assert of(DepthMap(np.ascontiguousarray(floor), "metre"))[10, WIDTH // 2, 1] < -0.8
    wall = of(DepthMap(np.full((HEIGHT, WIDTH), 3, np.float32), "metre"))
    np.testing.assert_allclose(wall, np.broadcast_to([0, 0, 1.0], wall.shape), atol=1e-4)


def test_inverse_depth_of_a_plane_gives_the_plane() -> None:
    """With the right range, a plane seen as stretched inverse depth comes back exactly."""
    normal = np.array([0.3, -0.4, 0.866])
    z = plane(normal)
    found = of(stretched(-1 / z, "inverse"), far=float(z.max() / z.min()), smooth=0.0)
    cosines = found[5:-5, 5:-5] @ normal / np.linalg.norm(normal)
    assert cosines.min() > 0.999


@pytest.mark.parametrize("unit", ["relative", "inverse"])
def test_a_map_without_a_scale_may_have_any_range(unit: Unit) -> None:
    values = 200 * plane(np.array([0.3, -0.4, 0.866])) - 7
    wanted = of(stretched(values, unit))
    np.testing.assert_allclose(of(DepthMap(values, unit)), wanted, atol=1e-4)
    assert np.array_equal(of(stretched(stretched(values, unit).values, unit)), wanted), "0..1 stays as it is"


@pytest.mark.parametrize("metres", [1.0, 0.001])
def test_a_near_wall_in_a_large_photo_faces_us(metres: float) -> None:
    wall = of(DepthMap(np.full((3, 6000), metres, np.float32), "metre"), smooth=0.0)
    np.testing.assert_allclose(wall, np.broadcast_to([0, 0, 1.0], wall.shape), atol=1e-4)


def test_unknown_pixels_and_missing_depth() -> None:
    z = np.full((20, 30), 2, np.float32)
    z[5:9, 5:9] = np.nan
    found = of(DepthMap(z, "metre"), smooth=0.0)
    assert not found[5:9, 5:9].any()
    assert found[15, 20].tolist() == [0, 0, 1]
    rows = NormalFromDepth().label([Sample("a", z, labels={"depth": Null("bad")}), Sample("b", z)])
    assert [row["normal"] for row in rows] == [Null("no depth: bad"), Null("no depth: not labelled")]


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2)])
def test_small_maps(shape: tuple[int, int]) -> None:
    assert of(DepthMap(np.full(shape, 2, np.float32), "metre")).shape == (*shape, 3)
