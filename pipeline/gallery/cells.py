"""From a Cell to HTML that is safe to show: pictures as data URIs, every text escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import assert_never

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from labelers.core.show import Cell, Chips, Picture, Swatches, Words

TILE = 160  # pixels, the longer side of a tile
PHOTO = 320  # pixels, the longer side of the photo that heads a row
CHART = 1800  # pixels, the longer side of a plot that is a picture
ONE_COLUMN_CHIPS = 8  # more named values than this are set in two columns


def count(value: float) -> str:
    """1234567 -> '1,234,567', 3.25 -> '3.2'."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def duration(seconds: float) -> str:
    """0.42 -> '0.4 s', 75 -> '1 min 15 s'."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def render_cell(cell: Cell | None, alt: str = "", missing: str = "not made") -> Markup:
    """One tile. alt: what a picture shows, for those who cannot see it. missing: what stands where there is no cell."""
    match cell:
        case None:
            return Markup('<div class="tile empty"><span>{}</span></div>').format(missing)
        case Picture():
            return _picture(cell, alt, TILE)
        case Swatches():
            return _swatches(cell, alt)
        case Chips():
            return _chips(cell)
        case Words(muted=True):
            return Markup('<div class="tile empty"><span dir="auto">{}</span></div>').format(cell.text)
        case Words():
            return Markup('<div class="tile words"><p dir="auto">{}</p></div>').format(cell.text)
        case _:
            assert_never(cell)


def render_photo(photo: Picture, alt: str = "") -> Markup:
    """The photo that heads a row."""
    return _picture(photo, alt, PHOTO)


def render_chart(chart: Picture, alt: str = "") -> Markup:
    """A plot that is a picture, at its own size."""
    return _picture(chart, alt, CHART)


def column_kind(cells: Sequence[Cell]) -> str:
    """How wide a column must be: 'wide' (many named values), 'text' or 'tile'."""
    if any(isinstance(c, Chips) and len(c.items) > ONE_COLUMN_CHIPS for c in cells):
        return "wide"
    # Muted words explain an empty tile; they do not make a text column.
    return "text" if any(isinstance(c, Chips) or (isinstance(c, Words) and not c.muted) for c in cells) else "tile"


def data_uri(pixels: NDArray[np.uint8], side: int) -> tuple[str, int, int]:
    """A data URI of the picture, shrunk to at most `side` pixels a side, with its width and height.

    pixels: uint8 RGB (H, W, 3). Few colours (maps, drawings): PNG, exact. Many (photos): JPEG quality 85.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) > side:
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    few = image.getcolors(256)
    if few is not None:
        image.quantize(len(few), dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=85, optimize=True)
    kind = "jpeg" if few is None else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", image.width, image.height


def _picture(picture: Picture, alt: str, side: int) -> Markup:
    uri, width, height = data_uri(picture.pixels, side)
    # A small map is enlarged to the tile, and its own pixels stay visible as squares.
    small = " small" if max(width, height) < side // 2 else ""
    caption = Markup('<figcaption dir="auto">{}</figcaption>').format(picture.caption) if picture.caption else ""
    return Markup('<figure class="tile picture{}"><img src="{}" width="{}" height="{}" alt="{}">{}</figure>').format(
        small, uri, width, height, alt, caption
    )


def _swatches(swatches: Swatches, alt: str) -> Markup:
    """Palettes as rows of colour; each row spans the tile, so larger palettes have narrower fields."""
    rows = Markup("").join(
        Markup("<i>{}</i>").format(
            Markup("").join(
                Markup('<b style="background:#{:02x}{:02x}{:02x}"></b>').format(*map(int, rgb)) for rgb in row
            )
        )
        for row in swatches.rows
    )
    return Markup('<div class="tile swatches" role="img" aria-label="{}">{}</div>').format(alt, rows)


def _chips(chips: Chips) -> Markup:
    items = Markup("").join(
        Markup('<div><dt dir="auto">{}</dt><dd dir="auto">{}</dd></div>').format(name, value)
        for name, value in chips.items
    )
    two = " two" if len(chips.items) > ONE_COLUMN_CHIPS else ""
    return Markup('<dl class="tile chips{}">{}</dl>').format(two, items)
