"""What the tour shows: ways to steer a generation, beside the same generation without, and what is measured of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from labelers.core.modality import Label
from labelers.core.registry import all_modalities
from trainer.config import SAYS
from trainer.generate import effect
from trainer.generate.contrast import Colours, as_text
from trainer.generate.decoding import Part

BRIGHTNESS = (30, 220)
# Few rounds: what is revealed first soon says more than a palette does, and then goes its own way.
PALETTE_HOW = (("guidance", 2.0), ("steps", 4))
REGIONS = ("left", "border")
SHAPES = ("canny_edge", "sam_edge", "depth", "normal")
Numbers = dict[str, float]


@dataclass(frozen=True)
class Made:
    """One sample as one way made it. labels: by modality, what was made before the target among them; own: the sample's
    own of the target; part: what was given of the target, or put over it; grid: rows and columns of its tokens.
    """

    labels: Mapping[str, Label]
    own: Label | None
    part: Part | None
    grid: tuple[int, int] | None


@dataclass(frozen=True)
class Way:
    """One way to make the target. head: in words; sources, given, common, special: see make_order; before: made first;
    chain: whether the target sees it. pasted: a region of the sample's own tokens that is put over the result.
    """

    head: str
    sources: tuple[str, ...] = ()
    given: tuple[tuple[str, str], ...] = ()
    common: tuple[tuple[str, float], ...] = ()
    special: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    chain: bool = True
    pasted: str = ""

    def given_of(self, target: str) -> str:
        """What is given of the target itself; empty where nothing is."""
        return dict(self.given).get(target, "")


@dataclass(frozen=True)
class Stop:
    """One section of the page. measure: the numbers of what a way made. pairs: (number, the way without, the way with),
    what the page sums up. hits: a number that is 0 or 1, counted over all that was made.
    """

    title: str
    note: str
    target: str
    ways: tuple[Way, ...]
    measure: Callable[[Way, Made], Numbers]
    pairs: tuple[tuple[str, str, str], ...]
    hits: str = ""

    @property
    def of_photos(self) -> bool:
        """Whether any way is told something of the photo; else photos are names of the noise alone."""
        return any(way.sources or way.pasted or way.given_of(self.target) for way in self.ways)


def stops(have: set[str], palettes: Mapping[str, Colours]) -> Iterator[Stop]:
    """What can be shown with these modalities, all of them ones that the model predicts. palettes: to ask for, by name."""
    shape = next((n for n in SHAPES if n in have), None)
    says = next((n for name in SAYS if (n := name.removeprefix("tok_")) in have), None)
    if shape and "rgb" in have:
        yield _guidance(shape)
    if says and have >= {"rgb", "color_palette"}:
        yield _chaining(says)
    if palettes and have >= {"rgb", "color_palette"}:
        yield _palettes((), palettes)
        if shape:
            yield _palettes((shape,), palettes)
    if shape and have >= {"rgb", "metadata"}:
        yield _brightness(shape)
    if "rgb" in have:
        yield _inpainting()


def _guidance(target: str) -> Stop:
    def measure(way: Way, made: Made) -> Numbers:
        return {} if made.own is None else effect.agreement(all_modalities()[target], made.labels[target], made.own)

    ways = tuple(Way(f"weight {g:g}", ("rgb",), common=(("guidance", g),)) for g in (0.0, 1.0, 3.0))
    note = (
        f"0 sees nothing, 1 is the model as it is, 3 follows the photo further; compared with the photo's own {target}."
    )
    return Stop(f"Guidance: {target} from rgb", note, target, ways, measure, (("", "weight 0", "weight 3"),))


def _chaining(source: str) -> Stop:
    def measure(way: Way, made: Made) -> Numbers:
        palette = made.labels["color_palette"][0]
        return {"distance": effect.palette_distance(np.asarray(made.labels["rgb"]), palette)}

    # The likeliest palette is one of the usual ones; the colours of one that was drawn seldom belong together.
    likeliest = ("color_palette:temperature=0",)
    apart = Way("side by side", (source,), (), PALETTE_HOW, likeliest, ("color_palette",), chain=False)
    ways = (apart, replace(apart, head="one after the other", chain=True))
    note = (
        "With the same noise. Chained, the picture sees the palette that was just made; distance of the picture's own palette "
        "from that one, in CIE Lab, colours matched one to one. Guidance 2, in 4 rounds; the likeliest palette of 7 "
        "colours."
    )
    title = f"Chaining: color_palette, then rgb, from {source}"
    return Stop(title, note, "rgb", ways, measure, (("distance", ways[0].head, ways[1].head),))


def _palettes(sources: tuple[str, ...], palettes: Mapping[str, Colours]) -> Stop:
    free, hits = "no palette", "nearest"

    def measure(way: Way, made: Made) -> Numbers:
        picture = np.asarray(made.labels["rgb"])
        apart = {name: effect.palette_distance(picture, colours) for name, colours in palettes.items()}
        if way.head == free:
            return {f"to {name}": distance for name, distance in apart.items()}
        own = apart.pop(way.head)
        others = {"to the others": float(np.mean(list(apart.values())))} if apart else {}
        return {f"to {way.head}": own, **others, hits: float(own < min(apart.values(), default=np.inf))}

    asked = tuple(
        Way(name, sources, (("color_palette", as_text(colours)),), PALETTE_HOW) for name, colours in palettes.items()
    )
    note = (
        f"The same noise{' and the same ' + sources[0] if sources else ''}, another palette: of the photos trained on, the "
        "one whose mean goes furthest that way. Distance of the picture's own palette from it, in CIE Lab, colours matched "
        "one to one: 2 is hardly seen, 100 is black and white. Guidance 2, in 4 rounds, without a palette too."
    )
    title = f"Palettes with {sources[0]}: rgb from both" if sources else "Palettes: rgb from a palette alone"
    pairs = (
        () if sources else tuple((f"to {name}", free, name) for name in palettes)
    )  # else they are under the pictures
    ways = (Way(free, sources, common=PALETTE_HOW), *asked)
    return Stop(title, note, "rgb", ways, measure, pairs, hits)


def _brightness(shape: str) -> Stop:
    def measure(way: Way, made: Made) -> Numbers:
        return {"brightness": float(np.asarray(made.labels["rgb"]).mean())}

    asked = tuple(
        Way(f"brightness {b}", (shape,), (("metadata", f"brightness={b}"),), (("guidance", 3.0),)) for b in BRIGHTNESS
    )
    note = (
        "One field of the metadata is given, the rest is left open; mean brightness of the picture, 0..255. With a "
        "brightness, guidance 3."
    )
    low, high = (way.head for way in asked)
    ways = (Way("no brightness", (shape,)), *asked)
    return Stop(
        f"Metadata: rgb from {shape} and a brightness", note, "rgb", ways, measure, (("brightness", low, high),)
    )


def _inpainting() -> Stop:
    def measure(way: Way, made: Made) -> Numbers:
        assert made.part is not None and made.grid is not None, "a part of a grid was given"
        picture, known = np.asarray(made.labels["rgb"]), made.part.known.reshape(made.grid)
        return {"seam": effect.seam(picture, known)} | (
            {} if made.own is None else {"off inside": effect.off(picture, np.asarray(made.own), ~known)}
        )

    ways = tuple(
        way
        for region in REGIONS
        for way in (Way(f"{region}, pasted over", pasted=region), Way(f"{region} given", given=(("rgb", region),)))
    )
    note = (
        "Pasted over, what was given is put over a picture made without it. seam: steps between neighbouring pixels "
        "where given and made meet, over those elsewhere; off inside: mean difference (0..255) of what was made from the photo."
    )
    pairs = tuple((n, f"{r}, pasted over", f"{r} given") for r in REGIONS for n in ("seam", "off inside"))
    return Stop("Inpainting: rgb from a part of itself", note, "rgb", ways, measure, pairs)
