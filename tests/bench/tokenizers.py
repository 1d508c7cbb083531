"""What fitting a tokenizer gains on real photos: ViT-VQ against a k-means codebook of patches at equal bits, the mask
tokenizer on polygons it has not seen, and on a GPU the rate of a ViT-B encoder.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from labelers.core.images import decode
from tokenize_shards.content import Pixels
from tokenize_shards.holdout import held_out
from tokenize_shards.mask_vq import MaskVQ, MaskVQConfig, crop_mask
from tokenize_shards.patches import kmeans, nearest, patchify, pca, unpatchify
from tokenize_shards.views import cut_image, view_of
from tokenize_shards.vit_vq import ViTVQ
from tokenize_shards.vit_vq_network import Network, ViTVQConfig

ASSETS = Path(os.environ.get("MANYMODAL_ASSETS", Path(__file__).resolve().parents[2].parent / "shared" / "assets"))
SIDE, PATCH, CODES = 224, 14, 12_800
VIEWS, HELD_VIEWS, SECONDS = 8, 2, 240.0
ROWS = 102_400  # patches the k-means baseline is made of: eight a code
MIN_BOX = 0.0005  # of the image; smaller instances are dropped, as in tokenization
_MISSING = f"no photos at {ASSETS} (set MANYMODAL_ASSETS)"

Row = tuple[str, tuple[Any, ...]]


def photos() -> dict[str, np.ndarray]:
    """The photos by name, uint8 (H, W, 3), none longer than twice the side of a view along its short side."""
    found = {}
    for path in sorted((ASSETS / "images").rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            image = decode(path.read_bytes()).image
            scale = 2 * SIDE / min(image.shape[:2])
            if scale < 1:
                image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
            found[path.name] = image
    return found


def views(images: dict[str, np.ndarray], names: list[str], count: int) -> np.ndarray:
    """Views 0..count-1 of each photo, uint8 (n, SIDE, SIDE, 3)."""
    return np.stack(
        [
            cut_image(images[name], view_of(name, 0, v, images[name].shape[1], images[name].shape[0]), SIDE)
            for name in names
            for v in range(count)
        ]
    )


def kmeans_psnr(train: np.ndarray, heldout: np.ndarray) -> tuple[float, float]:
    """(PSNR on held-out views, seconds) of a codebook of CODES patches, found among their first 64 principal components."""
    start, content = time.perf_counter(), Pixels()
    rng = np.random.default_rng(0)
    rows = []
    while sum(map(len, rows)) < ROWS:
        dy, dx = rng.integers(0, PATCH, 2)
        some = content.to_tensor(train[rng.choice(len(train), 32, replace=False)])
        shifted = torch.nn.functional.pad(some, (0, int(dx), 0, int(dy)), mode="reflect")[..., dy:, dx:]
        rows.append(patchify(shifted, PATCH).flatten(0, 1))
    patches = torch.cat(rows)[:ROWS]
    parts = pca(patches, 64)
    short = (patches - parts.mean) @ parts.basis.T
    centres, _ = kmeans(short, CODES, torch.Generator().manual_seed(0))
    index = nearest(short, centres)
    sums = torch.zeros(CODES, patches.shape[1]).index_add_(0, index, patches)
    means = sums / torch.bincount(index, minlength=CODES).clamp(min=1)[:, None]
    spent = time.perf_counter() - start
    cells = patchify(content.to_tensor(heldout), PATCH)
    found = nearest((cells.flatten(0, 1) - parts.mean) @ parts.basis.T, centres)
    grid = SIDE // PATCH
    drawn = unpatchify(means[found].view(len(heldout), grid**2, -1), PATCH, 3, grid, grid)
    return content.measure(heldout, content.from_tensor(drawn))["psnr_db"], spent


def rgb(folder: Path) -> Iterator[Row]:
    """PSNR on held-out photos of a fitted ViT-VQ and of k-means, 256 tokens of 12,800 codes each."""
    if not (ASSETS / "images").is_dir():
        for name in ("rgb_vit_vq_over_kmeans", "rgb_codebook_used"):
            yield name, (None, "", "-", None, _MISSING)
        return
    images = photos()
    held = held_out(list(images), 0.15)
    names = np.array(list(images))
    train, heldout = views(images, names[~held].tolist(), VIEWS), views(images, names[held].tolist(), HELD_VIEWS)
    baseline, seconds = kmeans_psnr(train, heldout)
    tokenizer = ViTVQ(ViTVQConfig("rgb", "pixels", SIDE, 3, PATCH, CODES, "micro", lr=LR))
    report = tokenizer.fit(train, heldout, seconds=SECONDS)
    found = report.metrics["psnr_db"]
    bits = (
        f"{held.sum()} photos held out of {len(images)}, {(SIDE // PATCH) ** 2} tokens of {CODES:,} codes at {SIDE} px"
    )
    yield "rgb_kmeans_psnr", (baseline, "dB", "-", None, f"{bits}; {ROWS:,} patches, {seconds:.0f} s")
    how = f"{bits}; {report.steps} steps, {report.seconds:.0f} s with start values, {torch.get_num_threads()} threads"
    yield "rgb_vit_vq_psnr", (found, "dB", "-", None, how)
    yield "rgb_vit_vq_over_kmeans", (found - baseline, "dB", "> 0", found > baseline, how)
    used = report.codebook_used
    yield (
        "rgb_codebook_used",
        (used, "share of codes", "> 0.5", used > 0.5, f"in 256 views learned from, {len(heldout)} held out"),
    )


LR = 5e-4


def polygons() -> dict[int, list[np.ndarray]]:
    """Cropped masks, bool (64, 64), of COCO's instances by image; crowds and tiny boxes left out."""
    raw = json.loads((ASSETS / "gt" / "coco_instances_train128.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in raw["images"]}
    found: dict[int, list[np.ndarray]] = {}
    for one in raw["annotations"]:
        height, width = sizes[one["image_id"]]
        x, y, w, h = one["bbox"]
        if one["iscrowd"] or w * h < MIN_BOX * width * height:
            continue
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.array(p).reshape(-1, 2).round().astype(np.int32) for p in one["segmentation"]], 1)
        found.setdefault(one["image_id"], []).append(crop_mask(mask > 0, np.array([x, y, x + w, y + h])))
    return found


def masks(folder: Path) -> Iterator[Row]:
    """Mean IoU of COCO polygons of photos that were not learned from, through 16 tokens of 1,024 codes."""
    if not (ASSETS / "gt").is_dir():
        yield "mask_iou", (None, "mean IoU", ">= 0.85", None, _MISSING)
        return
    by_image = polygons()
    held = dict(zip(by_image, held_out([str(i) for i in by_image], 0.25), strict=True))
    train = np.stack([m for i, found in by_image.items() if not held[i] for m in found])
    heldout = np.stack([m for i, found in by_image.items() if held[i] for m in found])
    report = MaskVQ(MaskVQConfig()).fit(train, heldout, seconds=60)
    iou = report.metrics["mask_iou"]
    how = f"{len(train)} polygons learned from, {len(heldout)} of other photos; {report.steps} steps, {report.seconds:.0f} s"
    yield "mask_iou", (iou, "mean IoU", ">= 0.85", iou >= 0.85, how)


def encoder(folder: Path) -> Iterator[Row]:
    """Images a second of a ViT-B encoder on a GPU, against one image at a time, and its share of the matrix throughput."""
    names = ("vit_b_images_a_second", "vit_b_over_plain_loop", "vit_b_matrix_share")
    if not torch.cuda.is_available():
        for name in names:
            yield name, (None, "", "-", None, "needs a GPU")
        return
    tokenizer = ViTVQ(ViTVQConfig("rgb", "pixels", 224, 3, 16, 16384, "B"))
    network = Network(tokenizer.spec, 3)
    torch.nn.init.normal_(network.codebook.embed)  # type: ignore[arg-type]
    tokenizer.network = network.cuda().eval()
    batch = np.random.default_rng(0).integers(0, 256, (2048, 224, 224, 3), dtype=np.uint8)
    tokenizer.encode(batch[:512])
    whole = _rate(lambda: tokenizer.encode(batch), len(batch))

    def one_by_one() -> None:
        with torch.inference_mode():
            for one in batch[:256]:
                x = tokenizer.content.to_tensor(one[None]).cuda()
                network.codebook.index(network.latents(x)).cpu()

    plain = _rate(one_by_one, 256)
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    peak = _rate(lambda: [square @ square for _ in range(20)], 20) * 2 * 8192**3
    weights = sum(p.numel() for n, p in network.named_parameters() if p.ndim == 2 and n.startswith("encoder"))
    flops = 196 * 2 * weights + 12 * 4 * 196**2 * 768 + 196 * 2 * 32 * 16384
    how = f"{torch.cuda.get_device_name()}, 2,048 images from memory, bf16; {flops / 1e9:.0f} GFLOP an image"
    yield names[0], (whole, "images/s", "-", None, how)
    yield names[1], (whole / plain, "times", ">= 1", whole >= plain, "the same network, one image at a time in float32")
    share = whole * flops / peak
    yield (
        names[2],
        (share, "of bf16 matmul", ">= 0.4", share >= 0.4, f"{how}; 8192^3 products reach {peak / 1e12:.0f} TFLOP/s"),
    )


def _rate(work: Any, items: int) -> float:
    """Items a second, the best of three runs."""
    best = 0.0
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        best = max(best, items / (time.perf_counter() - start))
    return best
