"""SAM's automatic masks: a grid of points over an image, and over crops of it, each answered with a few masks.

The masks are those of segment_anything's SamAutomaticMaskGenerator, from another order of work. Images and crops go
through the encoder together. The network's own estimate of a mask decides before a pixel of it is drawn; what a mask is
measured by (how little it changes with the threshold) is counted on the device, and all that leaves the device of a mask
is where it changes, column by column, in one transfer a crop. Areas, boxes, duplicates and run lengths come from those
places, on threads of the processor, while the device works on the next image; images are resized ahead the same way.

The device is waited for once a crop, twice a batch of points (how many masks are sure, and of how many points) and twice
where those are brought to the image's size (how many are stable, how often they change).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelers.core.ahead import ahead, helpers
from labelers.core.rle import Runs
from labelers.core.sam_crops import Crop, crops_of, cut_by, fits, point_grid, scaled
from labelers.core.sam_decoder import Decoder, Grid, Seen
from labelers.core.suppression import suppress

if TYPE_CHECKING:
    import torch

OFFSET = 1.0  # by how much the threshold is moved, in logits, to see how stable a mask is
GRIDS = 8  # prompts kept, of the shapes of images met last
THREADS = 2  # of the processor, for what comes before the device, and as many for what comes after
ENLARGED_GPU, ENLARGED_CPU = 2**27, 2**22  # pixels of full-size masks at once; few of them stay in a processor's cache
POINTS_CPU = 8  # points at once at most, for the same reason
DRAWN = 64  # points whose masks are drawn at once: each takes 8 to 24 MB meanwhile
LAST = np.array([0, 0, 1, 1])  # from the edges of pixels to the last pixel, with which the package compares boxes
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """points_per_side, points_per_batch: of the grid. pred_iou_thresh, stability_score_thresh, nms: as of the labeler.
    crop_layers: 0 for the image alone; layer i has 4**i crops. crop_points_downscale_factor: a layer's grid has so many
    times fewer points a side than the one before. images: through the encoder at once.
    """

    points_per_side: int = 32
    points_per_batch: int = 256
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    nms: float = 0.7
    crop_layers: int = 0
    crop_points_downscale_factor: int = 1
    images: int = 1


@dataclass(frozen=True)
class Masks:
    """The masks of an image. quality: float (n,), the network's estimate. points: float64 (n, 2), x, y in pixels."""

    runs: Runs
    quality: NDArray[Any]
    points: NDArray[np.float64]


@dataclass(frozen=True)
class _Part:
    """Masks of some points of a crop. changes, numbers: see `Runs.of`, on the whole image; quality (n,); point: (n,), of the
    crop's grid. Tensors on the device, arrays once they have left it.
    """

    changes: Any
    numbers: Any
    quality: Any
    point: Any


class AutomaticMasks:
    """Finds masks with a Sam of segment_anything; see `Settings`."""

    def __init__(
        self, network: Any, settings: Settings, work: torch.dtype | None = None, compiled: bool = False
    ) -> None:
        """work: the number format of the decoder's large tensors; None: the weights'. compiled: the decoder, by torch.compile."""
        import torch

        self.network, self._settings = network, settings
        self._decoder = Decoder(network, work)
        self._ask, self._draw = self._decoder.ask, self._decoder.draw
        if compiled:
            self._ask, self._draw = torch.compile(self._ask), torch.compile(self._draw, dynamic=True)
        self._side: int = network.image_encoder.img_size
        on_cpu = self.device.type == "cpu"
        self._points = min(settings.points_per_batch, POINTS_CPU) if on_cpu else settings.points_per_batch
        self._enlarged = ENLARGED_CPU if on_cpu else ENLARGED_GPU
        self._grid = functools.lru_cache(GRIDS)(self._new_grid)

    @property
    def device(self) -> torch.device:
        """Where the network is, and all that is made from it."""
        found: torch.device = self.network.device
        return found

    def fits(self, image: NDArray[np.uint8]) -> bool:
        """Whether a pixel is left of both sides at the network's input size."""
        return fits(image.shape[:2], self._side)

    def find(self, images: Sequence[NDArray[np.uint8]], finish: Callable[[int, Masks], T]) -> list[T]:
        """What `finish` makes of the number and the masks of each image, uint8 RGB (H, W, 3); it runs on a thread."""
        import torch

        crops = [crop for i, one in enumerate(images) for crop in self._crops(i, one.shape[:2])]
        last = {crop.image: at for at, crop in enumerate(crops)}
        found: dict[int, list[_Part]] = {i: [] for i in range(len(images))}
        results: dict[int, Future[T]] = {}
        with helpers(THREADS, "sam") as pool, torch.inference_mode():
            pixels = ahead(
                lambda crop: self._resized(images[crop.image], crop), crops, THREADS, 2 * self._settings.images
            )
            for at, (crop, embedding) in enumerate(zip(crops, self._embedded(pixels), strict=True)):
                found[crop.image].append(self._answered(embedding, crop))
                if at == last[crop.image]:
                    own = [one for one in crops if one.image == crop.image]
                    parts = found.pop(crop.image)
                    results[crop.image] = pool.submit(self._finished, finish, own, parts)
            return [results[i].result() for i in range(len(images))]

    def _crops(self, number: int, shape: tuple[int, int]) -> list[Crop]:
        return [crop for crop in crops_of(number, shape, self._settings.crop_layers) if fits(crop.shape, self._side)]

    # Encoding ---------------------------------------------------------------------------------------------------------

    def _resized(self, image: NDArray[np.uint8], crop: Crop) -> NDArray[np.uint8]:
        """The crop at the network's input size, before what pads it to a square."""
        x0, y0, x1, y1 = crop.box
        height, width = scaled(crop.shape, self._side)
        part = Image.fromarray(np.ascontiguousarray(image[y0:y1, x0:x1]))
        return np.array(part.resize((width, height), Image.Resampling.BILINEAR))

    def _embedded(self, pixels: Iterator[NDArray[np.uint8]]) -> Iterator[torch.Tensor]:
        """Embeddings (c, h, w) of resized images, several at once: the last ones with blank images beside them, because the
        last bits of an embedding depend on how many there are.
        """
        import torch

        number = self._settings.images
        while group := list(itertools.islice(pixels, number)):
            batch = torch.zeros(
                number, 3, self._side, self._side, dtype=self.network.pixel_mean.dtype, device=self.device
            )
            for one, place in zip(group, batch, strict=False):
                values = torch.from_numpy(one).to(self.device).permute(2, 0, 1)
                place[:, : one.shape[0], : one.shape[1]] = (values - self.network.pixel_mean) / self.network.pixel_std
            yield from self.network.image_encoder(batch)[: len(group)]

    # Points -----------------------------------------------------------------------------------------------------------

    def _new_grid(self, layer: int, shape: tuple[int, int]) -> list[Grid]:
        """The prompts of a layer's grid on a crop of that shape, in batches."""
        import torch

        height, width = scaled(shape, self._side)
        points = self._placed(layer, shape) * np.array([width / shape[1], height / shape[0]])
        return self._decoder.grid(torch.from_numpy(points).to(self.device)).split(self._points)

    def _placed(self, layer: int, shape: tuple[int, int]) -> NDArray[np.float64]:
        """The points of a layer's grid in pixels of a crop: (n, 2) x, y."""
        side = max(1, self._settings.points_per_side // self._settings.crop_points_downscale_factor**layer)
        return point_grid(side) * np.array([shape[1], shape[0]], np.float64)

    def _answered(self, embedding: torch.Tensor, crop: Crop) -> _Part:
        """All good masks of a crop; the only place where anything large leaves the device."""
        import torch

        seen, parts, before = self._decoder.see(embedding), [], 0
        for grid in self._grid(crop.layer, crop.shape):
            parts += self._sure(seen, grid, crop, before)
            before += len(grid.tokens)
        if not parts:
            return _Part(*(np.zeros(0, np.int64) for _ in range(4)))
        columns = zip(*((one.changes, one.numbers, one.quality, one.point) for one in parts), strict=True)
        return _Part(*(torch.cat(column).cpu().numpy() for column in columns))

    def _sure(self, seen: Seen, grid: Grid, crop: Crop, before: int) -> list[_Part]:
        """The good masks of one batch of points, `before` points of the crop having been asked already."""
        import torch

        answers, least = self._ask(seen, grid), self._settings.pred_iou_thresh
        good = answers.quality > least if least > 0 else torch.ones_like(answers.quality, dtype=torch.bool)
        point, answer = good.nonzero(as_tuple=True)
        if not len(point):
            return []
        rows, place = torch.unique_consecutive(point, return_inverse=True)
        drawn = [self._draw(answers.hyper[some], answers.features[some]) for some in rows.split(DRAWN)]
        logits = torch.cat(drawn)[place, answer]
        quality = answers.quality[point, answer]
        step = max(1, self._enlarged // max(self._side**2, crop.frame[0] * crop.frame[1]))
        parts = []
        for some in range(0, len(logits), step):
            stays, changes, numbers = self._stable(logits[some : some + step], crop)
            parts.append(
                _Part(changes, numbers, quality[some : some + step][stays], before + point[some : some + step][stays])
            )
        return parts

    # Pixels -----------------------------------------------------------------------------------------------------------

    def _stable(self, logits: torch.Tensor, crop: Crop) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which of the masks, logits (n, w, h), hardly change with the threshold, int64 (m,); where those change and how
        often, see `Runs.of`.
        """
        import torch

        full, least = self._drawn(logits, crop), self._settings.stability_score_thresh
        stays = torch.arange(len(full), device=full.device)
        if least > 0:
            inner, outer = (
                (full > self.network.mask_threshold + off).flatten(1).sum(dim=1, dtype=torch.int32)
                for off in (OFFSET, -OFFSET)
            )
            stays = (inner / outer >= least).nonzero()[:, 0]
        return stays, *_changes(full[stays] > self.network.mask_threshold, crop)

    def _drawn(self, logits: torch.Tensor, crop: Crop) -> torch.Tensor:
        """Logits (n, w, h) at the pixels of a crop, (n, W, H): to the input's size, without what was padded, to the crop's."""
        from torch.nn.functional import interpolate

        height, width = scaled(crop.shape, self._side)
        times = self._side // logits.shape[-1]
        needed = logits[:, None, : width // times + 2, : height // times + 2]  # a row more than the padding's edge
        large = interpolate(needed, scale_factor=float(times), mode="bilinear", align_corners=False)
        large = large[..., :width, :height]
        if (height, width) == crop.shape:
            return large[:, 0]
        return interpolate(large, crop.shape[::-1], mode="bilinear", align_corners=False)[:, 0]

    # Beside the device ------------------------------------------------------------------------------------------------

    def _finished(self, finish: Callable[[int, Masks], T], crops: Sequence[Crop], parts: Sequence[_Part]) -> T:
        """`finish` with the masks of an image, from those of its crops: of several of one thing, one."""
        found = [self._distinct(crop, part) for crop, part in zip(crops, parts, strict=True)]
        if len(found) == 1:
            return finish(crops[0].image, found[0])
        shape = crops[0].frame
        ends, lengths = (np.concatenate([getattr(one.runs, name) for one in found]) for name in ("ends", "lengths"))
        runs = Runs(shape, ends, lengths)
        small_first = np.repeat(
            [np.float32(1) / np.float32(c.area) for c in crops], [len(one.quality) for one in found]
        )
        kept = suppress(runs.areas_and_boxes()[1] - LAST, small_first, self._settings.nms)
        quality, points = (
            np.concatenate([getattr(one, name) for one in found])[kept] for name in ("quality", "points")
        )
        return finish(crops[0].image, Masks(runs.take(kept), quality, points))

    def _distinct(self, crop: Crop, part: _Part) -> Masks:
        """The masks of a crop that have a pixel and that it does not cut: of those whose boxes overlap much, the best."""
        runs = Runs.of(crop.frame, part.changes, part.numbers)
        areas, boxes = runs.areas_and_boxes()
        boxes = boxes - LAST
        whole = np.flatnonzero((areas > 0) & ~cut_by(crop, boxes))
        kept = whole[suppress(boxes[whole], part.quality[whole], self._settings.nms)]
        points = self._placed(crop.layer, crop.shape)[part.point[kept]] + np.array(crop.box[:2])
        return Masks(runs.take(kept), part.quality[kept], points)


def _changes(masks: torch.Tensor, crop: Crop) -> tuple[torch.Tensor, torch.Tensor]:
    """Where masks of a crop, bool (n, W, H), change on the whole image, one after the other, and how often each does."""
    import torch

    height, width = crop.frame
    x0, y0, x1, y1 = crop.box
    if crop.shape != crop.frame:
        masks = torch.nn.functional.pad(masks, (y0, height - y1, x0, width - x1))
    flat = masks.flatten(1)
    turns = flat.clone()
    turns[:, 1:] ^= flat[:, :-1]
    return turns.flatten().nonzero()[:, 0] % (height * width), turns.sum(dim=1)
