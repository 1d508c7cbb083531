"""The automatic masks against segment_anything's own generator, on a tiny network of random weights.

In float64, where the order of sums cannot move a pixel, so that masks must be equal to the last; in float32 and half
precision nearly so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from labelers.core.sam_crops import crops_of, point_grid
from labelers.core.sam_decoder import Decoder
from labelers.core.sam_encoder import hasten
from labelers.core.sam_import import segment_anything
from labelers.core.sam_masks import AutomaticMasks, Masks, Settings
from tests.labelers.corpus import scene
from tests.labelers.tiny_sam import tiny_network

SHAPES = {"portrait": (32, 48), "landscape": (70, 20), "tiny": (1, 1), "large": (150, 200), "as the input": (64, 64)}
SPREAD, THRESHOLD = 300.0, 16.0
OFF = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
MEASURES = (("pred_iou", "predicted_iou"), ("stability_score", "stability_score"))
Record = dict[str, Any]


def exact_network() -> Any:
    """In float64, but for the prompts, which the package casts to float32. Its logits are spread, and held against a high
    threshold, so that masks have boxes of their own and some are stable.
    """
    network = tiny_network().double().requires_grad_(False)
    network.prompt_encoder.float()
    for head in network.mask_decoder.output_hypernetworks_mlps:
        head.layers[-1].weight.mul_(SPREAD)
    network.mask_threshold = THRESHOLD
    return network


def theirs(network: Any, image: NDArray[np.uint8], **settings: Any) -> list[Record]:
    generator = segment_anything().SamAutomaticMaskGenerator(network, output_mode="uncompressed_rle", **settings)
    return [one for one in generator.generate(image) if one["area"] > 0]


def ours(network: Any, images: list[NDArray[np.uint8]], settings: Settings) -> list[Masks]:
    return AutomaticMasks(network, settings).find(images, lambda _, masks: masks)


def records(masks: Masks) -> list[Record]:
    """As the package writes them, in its order."""
    counts = [np.diff(ends, prepend=0).tolist() for ends in masks.runs.each()] if len(masks.quality) else []
    found = zip(counts, masks.quality.tolist(), masks.points.tolist(), strict=True)
    return [{"counts": runs, "predicted_iou": quality, "point": point} for runs, quality, point in found]


def same(found: list[Record], expected: list[Record]) -> None:
    assert [one["counts"] for one in found] == [one["segmentation"]["counts"] for one in expected]
    assert [one["predicted_iou"] for one in found] == pytest.approx(
        [one["predicted_iou"] for one in expected], abs=1e-9
    )
    assert np.array_equal([one["point"] for one in found], [one["point_coords"][0] for one in expected])


def halfway(network: Any, image: NDArray[np.uint8], side: int) -> dict[str, float]:
    """Thresholds each of which about a third of the masks of an image miss."""
    everything = theirs(network, image, points_per_side=side, **OFF, box_nms_thresh=1)
    return {f"{of}_thresh": float(np.quantile([one[name] for one in everything] or 0.5, 0.35)) for of, name in MEASURES}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("batch", [5, 64])
def test_masks_are_those_of_the_package(shape: tuple[int, int], batch: int) -> None:
    network, image = exact_network(), scene(*shape)
    least = halfway(network, image, 6)
    for nms, thresholds in ((0.6, least), (1.0, least), (0.6, OFF)):
        (found,) = ours(network, [image], Settings(points_per_side=6, points_per_batch=batch, nms=nms, **thresholds))
        expected = theirs(network, image, points_per_side=6, box_nms_thresh=nms, **thresholds)
        same(records(found), expected)
        assert 0 < len(expected) < 3 * 36 or shape == (1, 1)


def test_images_of_several_shapes_at_once() -> None:
    network = exact_network()
    images = [scene(*shape, seed=i) for i, shape in enumerate(SHAPES.values())]
    least = halfway(network, images[0], 6)
    for number in (1, 3):
        found = ours(network, images, Settings(points_per_side=6, nms=0.6, images=number, **least))
        for masks, image in zip(found, images, strict=True):
            same(records(masks), theirs(network, image, points_per_side=6, box_nms_thresh=0.6, **least))


@pytest.mark.parametrize(
    ("layers", "factor", "shape"), [(1, 1, (200, 150)), (2, 2, (90, 130)), (1, 2, (40, 30)), (2, 1, (3, 1))]
)
def test_masks_of_crops(layers: int, factor: int, shape: tuple[int, int]) -> None:
    network, image = exact_network(), scene(*shape)
    crops = {"crop_n_layers": layers, "crop_n_points_downscale_factor": factor}
    least = halfway(network, image, 6)
    for thresholds in (least, OFF):
        (found,) = ours(network, [image], Settings(points_per_side=6, nms=0.6, crop_layers=layers,
                        crop_points_downscale_factor=factor, **thresholds))  # fmt: skip
        if min(shape) > 2:  # the package cannot cut less
            expected = theirs(
                network, image, points_per_side=6, box_nms_thresh=0.6, crop_nms_thresh=0.6, **crops, **thresholds
            )
            same(records(found), expected)
            assert any(one["crop_box"][2] < shape[0] for one in expected)
        assert len(found.quality) > 0


def test_each_choice_removes_a_part() -> None:
    """So that the comparisons above mean something."""
    network, image = exact_network(), scene(48, 32)
    least = halfway(network, image, 6)
    sure = {**OFF, "pred_iou_thresh": least["pred_iou_thresh"]}
    counts = [
        len(ours(network, [image], Settings(points_per_side=6, nms=nms, **thresholds))[0].quality)
        for nms, thresholds in ((1, OFF), (1, sure), (1, least), (0.6, least))
    ]
    assert counts[0] <= 3 * 36
    assert counts == sorted(set(counts), reverse=True)


# The device -----------------------------------------------------------------------------------------------------------


def test_everything_is_made_where_the_network_is() -> None:
    """What names no device would be made on one that holds no values, and could not be used together with the rest."""
    network, image = exact_network(), scene(70, 50)
    hasten(network.image_encoder, "float64", compiled=False)
    for least in (halfway(network, image, 4), OFF):
        settings = Settings(points_per_side=4, nms=0.6, crop_layers=1, images=3, **least)
        (expected,) = ours(network, [image], settings)
        with torch.device("meta"):
            (found,) = ours(network, [image], settings)
        assert records(found) == records(expected)


class Waits(TorchDispatchMode):
    """Counts what a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        if name in ("nonzero", "unique_consecutive", "_local_scalar_dense", "masked_select", "equal"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_the_device_is_waited_for_a_few_times_a_batch() -> None:
    network, image = exact_network(), scene(48, 32)
    generator = AutomaticMasks(network, Settings(points_per_side=6, points_per_batch=6, **halfway(network, image, 6)))
    (expected,) = generator.find([image], lambda _, masks: masks)  # now the prompts are kept
    assert len(expected.quality) > 3
    with Waits() as waits:
        generator.find([image], lambda _, masks: masks)
    assert set(waits.seen) == {"nonzero", "unique_consecutive"}
    assert len(waits.seen) <= 4 * 6


def test_the_encoder_runs_once_a_group_and_prompts_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, sizes, grids = exact_network(), list[int](), list[int]()
    encode, grid = network.image_encoder.forward, Decoder.grid
    monkeypatch.setattr(network.image_encoder, "forward", lambda x: (sizes.append(len(x)), encode(x))[1])
    monkeypatch.setattr(Decoder, "grid", lambda self, x: (grids.append(len(x)), grid(self, x))[1])
    ours(network, [scene(48, 32, seed=i) for i in range(5)], Settings(points_per_side=3, images=2, nms=0.6, **OFF))
    assert sizes == [2, 2, 2]  # the last with a blank image beside it
    assert grids == [9]


def test_masks_are_drawn_only_for_points_with_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network, drawn, draw = exact_network(), list[int](), Decoder.draw
    monkeypatch.setattr(Decoder, "draw", lambda self, hyper, x: (drawn.append(len(x)), draw(self, hyper, x))[1])
    image = scene(48, 32)
    everything = theirs(network, image, points_per_side=6, **OFF, box_nms_thresh=1)
    best = float(np.mean(sorted(one["predicted_iou"] for one in everything)[-2:]))
    ours(network, [image], Settings(points_per_side=6, pred_iou_thresh=best, stability_score_thresh=0, nms=1))
    assert drawn == [1]


@pytest.mark.parametrize("work", [torch.bfloat16, torch.float16])
def test_half_precision_where_positions_are(work: torch.dtype) -> None:
    """Answers stay about the same; what thresholds are held against keeps its format."""
    network = tiny_network().requires_grad_(False)
    exact, half = Decoder(network), Decoder(network, work)
    embedding, points = torch.randn(32, 4, 4), torch.rand(20, 2, dtype=torch.float64) * 64
    found = []
    for decoder in (exact, half):
        answers = decoder.ask(decoder.see(embedding), decoder.grid(points))
        found.append((answers.quality, decoder.draw(answers.hyper, answers.features)))
    (quality, logits), (near_quality, near_logits) = found
    assert near_quality.dtype == near_logits.dtype == torch.float32
    assert (quality - near_quality).abs().max() < 0.05 * quality.std()
    assert ((logits > 0) != (near_logits > 0)).float().mean() < 0.02


# Crops and grids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [(480, 640), (1000, 31), (7, 7)])
def test_crops_and_grids_are_those_of_the_package(frame: tuple[int, int]) -> None:
    package = segment_anything().utils.amg
    boxes, layers = package.generate_crop_boxes(frame, 3, 512 / 1500)
    found = crops_of(0, frame, 3)
    assert [list(crop.box) for crop in found] == boxes
    assert [crop.layer for crop in found] == layers
    assert np.array_equal(point_grid(5), package.build_point_grid(5))
