"""What all network labelers share: loading that refuses half a network, input as a checkpoint says, batches by size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labelers.core.networks import load
from labelers.core.pixels import Preparation, in_batches, square
from labelers.depth import DepthAnything
from tests.labelers import tiny


def test_weights_that_do_not_fill_the_network_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny.dpt(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    gone = max(tensors)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"does not fill DPTForDepthEstimation: 1 missing keys, first {gone}"):
        load("DPTForDepthEstimation", folder)


def test_tables_that_are_computed_may_be_missing(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny.rt_detr(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    left = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    assert len(left) < len(tensors)
    save_file(left, path, {"format": "pt"})
    load("RTDetrForObjectDetection", tmp_path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load("DPTForDepthEstimation", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "dpt"}')
    with pytest.raises(ValueError, match="is no checkpoint of DPTForDepthEstimation"):
        load("DPTForDepthEstimation", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(ValueError, match="is no checkpoint"):
        load("DPTForDepthEstimation", tmp_path)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    import pickle

    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (marker,)

    folder = tiny.dpt(tmp_path / "net")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    with pytest.raises(ValueError, match="is no checkpoint"):
        load("DPTForDepthEstimation", folder)
    assert not marker.exists()


def test_the_checkpoint_says_how_its_input_is_made(tmp_path: Path) -> None:
    default = Preparation(518, 518, "nearest", multiple=14)
    assert Preparation.read(tmp_path, default) == default
    values = {"size": {"height": 384, "width": 512}, "keep_aspect_ratio": False, "image_mean": [0.5, 0.5, 0.5],
              "image_std": [1, 1, 1], "resample": 2, "rescale_factor": 0.5, "ensure_multiple_of": 1}  # fmt: skip
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    found = Preparation.read(tmp_path, default)
    assert found == Preparation(384, 512, "squash", 0, 1, 2, 0.5, (0.5, 0.5, 0.5), (1, 1, 1))
    (tmp_path / "preprocessor_config.json").write_text(
        '{"size": {"shortest_edge": 80, "longest_edge": 99}, "do_normalize": false}'
    )
    found = Preparation.read(tmp_path, default)
    assert (found.height, found.fit, found.longest, found.mean) == (80, "short", 99, (0, 0, 0))
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        Preparation.read(tmp_path, default)


@pytest.mark.parametrize(
    ("preparation", "shape", "wanted"),
    [
        (Preparation(518, 518, "nearest", multiple=14), (480, 640), (518, 686)),
        (Preparation(518, 518, "nearest", multiple=14), (200, 300), (350, 518)),
        (Preparation(518, 518, "nearest", multiple=14), (1, 1), (518, 518)),
        (Preparation(518, 518, "nearest", multiple=14), (1, 30000), (14, 518)),
        (Preparation(800, 800, "short", 1333), (480, 640), (800, 1067)),
        (Preparation(800, 800, "short", 1333), (100, 1000), (133, 1333)),
        (Preparation(800, 800, "short"), (1, 4000), (1, 3200)),
        (Preparation(64, 32), (1, 4000), (64, 32)),
    ],
)
def test_sizes(preparation: Preparation, shape: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert preparation.target(*shape) == wanted
    assert preparation.resized(np.zeros((*shape, 3), np.uint8)).shape == (*wanted, 3)


def test_pixels_are_those_of_the_published_processor(tmp_path: Path) -> None:
    import torch
    from transformers import DPTImageProcessorPil

    folder, image = tiny.depth_anything(tmp_path), tiny.photo((60, 90))
    theirs = DPTImageProcessorPil.from_pretrained(folder)(images=image, return_tensors="pt")["pixel_values"]
    ours = Preparation.read(folder, Preparation())
    made = ours.tensor(ours.resized(image)[None], torch.device("cpu"), torch.float32)
    torch.testing.assert_close(made, theirs, atol=1e-4, rtol=0)


def test_batches_by_size_keep_the_order() -> None:
    images = [
        np.full(shape, i, np.uint8) for i, shape in enumerate([(2, 3, 3), (4, 3, 3), (2, 3, 3), (2, 3, 3), (4, 3, 3)])
    ]
    seen: list[tuple[int, ...]] = []

    def forward(batch: np.ndarray) -> list[int]:
        seen.append(batch.shape)
        return [int(one.max()) for one in batch]

    assert in_batches(images, forward, 4) == [0, 1, 2, 3, 4]
    assert sorted(seen) == [(2, 4, 3, 3), (4, 2, 3, 3)]  # three images are filled up to four
    seen.clear()
    assert in_batches(images, forward, 8, full=True) == [0, 1, 2, 3, 4]
    assert sorted(seen) == [(8, 2, 3, 3), (8, 4, 3, 3)]
    assert in_batches([], forward, 4) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (224, 224), (3, 500)])
def test_any_image_becomes_a_square(shape: tuple[int, int]) -> None:
    assert square(np.zeros((*shape, 3), np.uint8), 224).shape == (224, 224, 3)


def test_resizing_is_pillows() -> None:
    image = tiny.photo((40, 50))
    wanted = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(Preparation(32, 32, resample=2).resized(image), np.asarray(wanted))


def test_threads_beside_a_gpu_keep_the_order(tmp_path: Path) -> None:
    import torch

    labeler = tiny.ready(DepthAnything, tiny.depth_anything(tmp_path))
    plain = labeler.each(lambda i: i * 2, range(9))
    labeler.device = torch.device("cuda")  # only its name is looked at
    assert labeler.each(lambda i: i * 2, range(9)) == plain == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert labeler.step == labeler.resources.batch
