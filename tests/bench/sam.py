"""Images a second of SAM's automatic masks on a GPU, against segment_anything's own generator as it comes.

Random weights are sure of nothing, and their masks are noise over the whole image. So that both sides have the work that
trained weights make them do, the masks of the random network are smoothed, and thresholds are taken from its own answers:
a fifth of the masks are sure, two fifths of those stable, as many as a trained network keeps of a photo.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.core.labeler import Sample
from labelers.core.networks import device
from labelers.core.sam_import import segment_anything
from labelers.sam import Sam

Figures = Iterator[tuple[str, tuple[float | None, str, str, bool | None, str]]]
SIZES, GOAL, IMAGES = ("vit_b", "vit_h"), 4.0, 16
PHOTO = (480, 640)
SPREAD = 4.0  # deviation of the logits, about that of trained networks
COVERED, SURE, STABLE = 0.1, 0.2, 0.4  # shares: of the pixels that are in a mask, of the masks that are sure, of those
LABELLED = (
    100  # masks of a label; all those of a random network have about the same box, so that suppression would leave one
)
POINTS = 16  # a side, to find the thresholds


@dataclass(frozen=True)
class Chosen:
    """What makes a random network's masks few. mask: threshold of its logits; the others as of the generator."""

    mask: float
    pred_iou_thresh: float
    stability_score_thresh: float

    @property
    def settings(self) -> dict[str, float]:
        """What the generator and the labeler are both given."""
        return {"pred_iou_thresh": self.pred_iou_thresh, "stability_score_thresh": self.stability_score_thresh}


def pictures(count: int) -> list[NDArray[np.uint8]]:
    """Soft patches of colour, each image its own, uint8 (H, W, 3)."""
    from PIL import Image

    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)) for _ in range(count)]
    return [np.asarray(one.resize(PHOTO[::-1], Image.Resampling.BICUBIC)) for one in small]


def soften(network: Any) -> None:
    """Masks without the pattern of a random upscaling, whose qualities lie inside 0..1."""
    import torch

    decoder = network.mask_decoder
    with torch.no_grad():
        for layer in (network.image_encoder.neck[2], decoder.output_upscaling[0], decoder.output_upscaling[3]):
            layer.weight.copy_(layer.weight.mean(dim=(2, 3), keepdim=True).expand_as(layer.weight))
        decoder.iou_prediction_head.layers[-1].bias.fill_(0.5)


def choose(network: Any, image: NDArray[np.uint8]) -> Chosen:
    """Spread the network's logits, and find thresholds by which the masks are few, from its answers on an image."""
    import torch

    package = segment_anything()
    predictor = package.SamPredictor(network)
    predictor.set_image(image)
    points = package.utils.amg.build_point_grid(POINTS) * np.array(image.shape[1::-1])
    points = torch.from_numpy(predictor.transform.apply_coords(points, image.shape[:2])).to(network.device)[:, None]
    score = package.utils.amg.calculate_stability_score
    quality, stability, mask, times = [], [], None, 1.0
    for some in points.split(64):
        asked = torch.ones(len(some), 1, dtype=torch.int, device=some.device)
        full, sure, small = predictor.predict_torch(some, asked, return_logits=True)
        if mask is None:
            times = SPREAD / float(small.std())
            mask = times * float(np.quantile(small.cpu().numpy(), 1 - COVERED))
        quality.append(sure.flatten())
        stability.append(score(full.flatten(0, 1) * times, mask, 1.0))
    for head in network.mask_decoder.output_hypernetworks_mlps:
        for values in (head.layers[-1].weight, head.layers[-1].bias):
            values.data.mul_(times)
    network.mask_threshold = mask
    qualities, steady = (torch.cat(parts).cpu().numpy() for parts in (quality, stability))
    least = float(np.quantile(qualities[steady >= 0], 1 - SURE))  # not of empty masks, whose stability is no number
    return Chosen(float(mask or 0), least, float(np.quantile(steady[(qualities > least) & (steady >= 0)], 1 - STABLE)))


def timed(work: Callable[[], Any]) -> float:
    """Seconds of wall clock, a GPU's work included."""
    import torch

    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def against_generator(
    network: Any, folder: Path, count: int, points_per_side: int = 32, compiled: bool = False
) -> tuple[float, float, list[int]]:
    """Images a second of the labeler, how many times that is the generator's, in float32 and over the same network; masks
    of the first image, labelled by ours and kept by theirs.
    """
    import torch

    images = pictures(count)
    network = network.eval().to(device())
    soften(network)
    chosen = choose(network, images[0])
    path = folder / "random.pth"
    torch.save(network.state_dict(), path)
    both = {"points_per_side": points_per_side, **chosen.settings}
    package = segment_anything()
    theirs = package.SamAutomaticMaskGenerator(network, output_mode="uncompressed_rle", box_nms_thresh=1, **both)
    labeler = Sam(
        Sam.Params(precision="bfloat16", compile=compiled, nms=1, max_masks=LABELLED, **both), {"checkpoint": path}
    )
    labeler.setup()
    labeler.generator.network.mask_threshold = chosen.mask
    samples = [Sample(str(i), image) for i, image in enumerate(images)]
    mine = labeler.label(samples[: labeler.resources.batch])  # warm, as is the next line
    kept = [len(mine[0]["sam_instance"]), len(theirs.generate(images[0]))]  # type: ignore[arg-type]
    ours = count / timed(lambda: labeler.label(samples))
    return ours, ours / (count / timed(lambda: [theirs.generate(image) for image in images])), kept


def measured(size: str, folder: Path, compiled: bool) -> tuple[float | None, float | None, str]:
    """Images a second, times the generator, and how that was measured; None where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        return None, None, "needs a GPU"
    network = segment_anything().sam_model_registry[size]()
    try:
        rate, times, (labelled, kept) = against_generator(network, folder, IMAGES, compiled=compiled)
    except RuntimeError as error:  # a machine without what compiles code for a GPU
        if not compiled:
            raise
        return None, None, f"torch.compile fails here: {str(error)[:200]}"
    how = (
        f"{torch.cuda.get_device_name()}, random weights, smoothed; thresholds from its answers, the same for both: {kept} of "
        f"3072 masks of the first image kept, suppression off, of which {labelled} labelled; bfloat16 but for what thresholds "
        f"are held against{', compiled' if compiled else ''}, labels and edges included, {IMAGES} images; theirs float32, run "
        "lengths alone"
    )
    return rate, times, how


def on_gpu(folder: Path) -> Figures:
    """SAM ViT-B and ViT-H, as they are and compiled."""
    for compiled, size in itertools.product((False, True), SIZES):
        rate, times, how = measured(size, folder, compiled)
        name, goal = f"sam_{size}_gpu{'_compiled' if compiled else ''}", "-" if compiled else f">= {GOAL:g}"
        yield f"{name}_images_a_second", (rate, "images/s", "-", None, how)
        met = None if times is None or compiled else times >= GOAL
        yield f"{name}_against_generator", (times, "times the package's generator", goal, met, how)
