"""SAM on a tiny network of random weights (a 64 pixel input, two blocks, no training), saved and loaded as a checkpoint.

Its masks mean nothing; what is tested is all that lies around them: loading, batches, alignment, order, encoding,
edges, and the import of segment_anything without torchvision. Real weights cannot be fetched here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from labelers.core.labeler import Sample
from labelers.core.masks import Instance, edges_of, instance_map
from labelers.core.modality import Null
from labelers.core.rle import decode_rle
from labelers.core.sam_import import batched_nms, box_area, resize, segment_anything, to_pil_image
from labelers.core.sam_network import build_network, load_network
from labelers.core.weights import parse
from labelers.sam import SAM_EDGE, SAM_INSTANCE, Sam, SamParams
from tests.labelers.corpus import scene
from tests.labelers.tiny_sam import tiny_network

ANYTHING = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "nms": 1.0, "min_area": 0.0, "points_per_side": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "tiny.pth"
    torch.save(tiny_network().state_dict(), path)
    return path


def labeler_of(checkpoint: Path, **params: Any) -> Sam:
    sam = Sam(SamParams(**{**ANYTHING, **params}), {"checkpoint": checkpoint})
    sam.setup()
    return sam


@pytest.fixture(scope="module")
def sam(checkpoint: Path) -> Sam:
    return labeler_of(checkpoint)


def sample(image: NDArray[np.uint8]) -> Sample:
    return Sample("0" * 32, image)


def masks_of(labeler: Sam, image: NDArray[np.uint8]) -> list[Instance]:
    return labeler.label([sample(image)])[0]["sam_instance"]  # type: ignore[no-any-return,index,return-value]


# The labeler ----------------------------------------------------------------------------------------------------------


def test_masks_and_edges_of_each_image(sam: Sam) -> None:
    images = [scene(48, 32), scene(20, 70, seed=1), scene(1, 1), scene(200, 150, seed=2)]
    labels = sam.label([sample(image) for image in images])
    assert len(labels) == len(images)
    for image, label in zip(images, labels, strict=True):
        assert set(label) == {m.name for m in Sam.produces}
        masks, edges = label["sam_instance"], label["sam_edge"]
        SAM_INSTANCE.check(masks)
        SAM_EDGE.check(edges)
        assert edges.shape == image.shape[:2]
        assert all(one["mask"]["size"] == list(image.shape[:2]) for one in masks)
        assert all(one["point"] is not None for one in masks)
        assert np.array_equal(edges, edges_of(masks, image.shape[:2]))
        front = instance_map(masks, image.shape[:2])
        assert (front[edges > 0] > 0).all()
    assert len(labels[0]["sam_instance"]) > 3
    assert labels[0]["sam_edge"].any()


def test_the_same_labels_again_and_in_other_company(sam: Sam, checkpoint: Path) -> None:
    one, other = sample(scene(48, 32)), sample(scene(40, 40, seed=3))
    stored = SAM_INSTANCE.encode(sam.label([one])[0]["sam_instance"])
    assert SAM_INSTANCE.encode(sam.label([other, one])[1]["sam_instance"]) == stored
    again = labeler_of(checkpoint).label([one])[0]["sam_instance"]
    assert SAM_INSTANCE.encode(again) == stored


def test_masks_are_those_of_the_generator(sam: Sam) -> None:
    """Against segment_anything's generator in its plainest mode: arrays, on the network that was never saved."""
    image = scene(48, 32)
    generator = segment_anything().SamAutomaticMaskGenerator(
        tiny_network().to(sam.generator.device),
        points_per_side=4,
        pred_iou_thresh=0,
        stability_score_thresh=0,
        box_nms_thresh=1,
    )
    expected = sorted((one["segmentation"] for one in generator.generate(image) if one["area"] > 0), key=np.sum)
    found = [decode_rle(one["mask"]) for one in reversed(masks_of(sam, image))]
    assert len(found) == len(expected)
    assert np.abs([mask.sum() for mask in found] - np.array([mask.sum() for mask in expected])).max() <= 2
    best = [max((mask & other).sum() / (mask | other).sum() for other in expected) for mask in found]
    assert min(best) > 0.99  # the last bits of a sum depend on its order; exactly in test_sam_masks


def test_batches_of_points_change_nothing_but_last_bits(sam: Sam, checkpoint: Path) -> None:
    image = scene(48, 32)
    few = labeler_of(checkpoint, points_per_batch=2)
    areas, others = (np.array([one["area"] for one in masks_of(labeler, image)]) for labeler in (sam, few))
    assert len(areas) == len(others)
    assert np.abs(areas - others).max() <= 2


def test_the_encoder_in_half_precision_and_compiled(
    sam: Sam, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly the same masks; what thresholds are held against keeps its numbers."""
    compile_, traced = torch.compile, list[Any]()

    def trace(work: Any, **options: Any) -> Any:
        traced.append(work)
        return compile_(work, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", trace)
    half = labeler_of(checkpoint, precision="bfloat16", compile=True)
    network = half.generator.network
    assert next(network.image_encoder.parameters()).dtype == torch.bfloat16
    assert next(network.mask_decoder.parameters()).dtype == torch.float32
    assert [work.__name__ for work in traced] == ["forward", "ask", "draw"]
    image = scene(64, 48)
    mine, theirs = half.label([sample(image)])[0]["sam_instance"], sam.label([sample(image)])[0]["sam_instance"]
    SAM_INSTANCE.check(mine)
    assert SAM_INSTANCE.compare(mine, theirs)["mask_iou"] > 0.9


def test_parameters_choose(sam: Sam, checkpoint: Path) -> None:
    image = scene(48, 32)
    everything = masks_of(sam, image)
    areas = [one["area"] for one in everything]
    share = areas[len(areas) // 2] / (48 * 32)
    large = masks_of(labeler_of(checkpoint, min_area=share), image)
    assert [one["area"] for one in large] == [area for area in areas if area >= share * 48 * 32]
    assert 0 < len(large) < len(everything)
    two = masks_of(labeler_of(checkpoint, max_masks=2), image)
    assert len(two) == 2
    assert min(one["score"] for one in two) == sorted(one["score"] for one in everything)[-2]
    assert len(masks_of(labeler_of(checkpoint, nms=0.5), image)) < len(everything)


def test_nothing_found_is_an_empty_label(checkpoint: Path) -> None:
    label = labeler_of(checkpoint, pred_iou_thresh=1.0).label([sample(scene(48, 32))])[0]
    assert label["sam_instance"] == []
    assert np.array_equal(label["sam_edge"], np.zeros((32, 48), np.uint8))


def test_an_image_too_narrow_costs_only_itself(sam: Sam) -> None:
    labels = sam.label([sample(scene(2000, 1)), sample(scene(48, 32)), sample(scene(3, 2000))])
    for label in (labels[0], labels[2]):
        assert all(isinstance(value, Null) for value in label.values())
    assert "2000 x 1 pixels" in labels[0]["sam_edge"].reason
    SAM_INSTANCE.check(labels[1]["sam_instance"])


# The checkpoint -------------------------------------------------------------------------------------------------------


def numbers_of(network: Any) -> list[Any]:
    """What neither the shapes nor the printed form of a network tell."""
    blocks = [(block.window_size, block.attn.num_heads) for block in network.image_encoder.blocks]
    head = network.mask_decoder.transformer.final_attn_token_to_image
    return [blocks, head.num_heads, network.image_encoder.img_size, network.prompt_encoder.mask_input_size]


def test_published_networks_are_built_from_their_shapes() -> None:
    """On no device, so that nothing is filled: the names and shapes alone give what the package's registry gives."""
    package = segment_anything()
    with torch.device("meta"):
        for name in ("vit_b", "vit_l", "vit_h"):
            wanted = package.sam_model_registry[name]()
            built = build_network(wanted.state_dict(), package.modeling)
            shapes, others = ({k: v.shape for k, v in net.state_dict().items()} for net in (built, wanted))
            assert repr(built) == repr(wanted)
            assert shapes == others
            assert numbers_of(built) == numbers_of(wanted)


def test_files_that_are_no_checkpoint_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    tensors = torch.load(checkpoint, weights_only=True)
    bad, token = tmp_path / "bad.pth", "mask_decoder.iou_token.weight"
    torch.save({"code": Path}, bad)  # needs unpickling of more than tensors
    for data in (b"no tensors", bad.read_bytes()):
        bad.write_bytes(data)
        with pytest.raises(ValueError, match=r"bad\.pth is no file of tensors"):
            load_network(bad)
    for wrong in ({}, {"model": tensors}, [1, 2], {**tensors, "more": torch.zeros(1)}):
        torch.save(wrong, bad)
        with pytest.raises(ValueError, match=r"bad\.pth is no SAM checkpoint"):
            load_network(bad)
    damaged = {**tensors, token: tensors.pop(token) * torch.nan}
    for wrong, words in ((tensors, "iou_token"), (damaged, "not finite")):
        torch.save(wrong, bad)
        with pytest.raises(ValueError, match=words):
            load_network(bad)


def test_the_default_weights_have_a_name_and_a_digest() -> None:
    url = parse(Sam.weights["checkpoint"])
    assert (url.scheme, url.member) == ("hf", "checkpoints/sam_vit_b_01ec64.pth")
    assert url.sha256
    assert not Sam.default_on


# The stand-in for torchvision -----------------------------------------------------------------------------------------


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0, width) * max(0, height)
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
    return float(common / union) if union > 0 else 0.0


@settings(max_examples=60)
@given(st.integers(0, 30), st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_suppression_against_a_plain_loop(count: int, seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 12, (count, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.integers(0, 12, (count, 2))], axis=1).astype(np.float32)
    scores = rng.choice([0.1, 0.5, 0.7, 0.9], count).astype(np.float32)  # ties, of which the first must win
    groups, exact = rng.integers(0, 2, count), boxes.astype(np.float64)
    expected: list[int] = []
    for i in sorted(range(count), key=lambda i: -scores[i]):
        if all(groups[i] != groups[k] or iou(exact[i], exact[k]) <= threshold for k in expected):
            expected.append(i)
    kept = batched_nms(*(torch.from_numpy(part) for part in (boxes, scores, groups)), iou_threshold=threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == expected


def test_area_and_resize() -> None:
    boxes = torch.tensor([[0.0, 1.0, 4.0, 3.0], [2.0, 2.0, 2.0, 9.0]])
    assert box_area(boxes).tolist() == [8, 0]
    image = scene(64, 32)
    assert np.array_equal(np.asarray(to_pil_image(image)), image)
    half = np.asarray(resize(to_pil_image(image), (16, 32))).astype(float)
    assert half.shape == (16, 32, 3)
    chosen = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].double(), (16, 32), mode="bilinear", antialias=True
    )
    assert np.abs(half - chosen[0].permute(1, 2, 0).numpy()).max() <= 1


def left_behind() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "torchvision"]


@pytest.fixture
def unimported() -> Iterator[None]:
    """As if neither segment_anything nor torchvision had been imported; what was imported before is put back."""

    def take() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.partition(".")[0] in ("segment_anything", "torchvision")]
        return {name: sys.modules.pop(name) for name in names}

    held = take()
    yield
    take()
    sys.modules.update(held)


def fake_torchvision(folder: Path, first_line: str) -> None:
    parts = {"ops/boxes": ("batched_nms", "box_area"), "transforms/functional": ("resize", "to_pil_image")}
    for name, functions in parts.items():
        (folder / "torchvision" / name).parent.mkdir(parents=True)
        text = "".join(f"def {function}(*args): return 'real'\n" for function in functions)
        (folder / "torchvision" / f"{name}.py").write_text(text)
    (folder / "torchvision" / "extension.py").write_text("")
    (folder / "torchvision" / "__init__.py").write_text(first_line)


@pytest.mark.usefixtures("unimported")
def test_a_torchvision_that_works_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_torchvision(tmp_path, "")
    monkeypatch.syspath_prepend(tmp_path)
    assert segment_anything().automatic_mask_generator.batched_nms() == "real"
    assert "torchvision.ops.boxes" in left_behind()


@pytest.mark.usefixtures("unimported")
def test_a_torchvision_that_breaks_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_torchvision(tmp_path, "import torchvision.extension\nraise RuntimeError('no operator torchvision::nms')")
    monkeypatch.syspath_prepend(tmp_path)
    package = segment_anything()
    assert package.automatic_mask_generator.batched_nms is batched_nms
    assert package.utils.transforms.resize is resize
    assert left_behind() == []
    assert segment_anything() is package
