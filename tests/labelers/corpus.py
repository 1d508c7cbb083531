"""Odd and bad inputs, made by code: one folder with every case of fault F14, and what must become of each file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Expected:
    """What must become of one entry of the corpus.

    reason: the slug of BadImage, "" where it decodes. notes: what decode reports. canonical: stored as it came.
    size: (width, height) of the upright image. twin: an entry with the same bytes. is_file: False for a folder or a
    link that leads nowhere, which a walk must step over. Names that are not UTF-8 are keyed as os.fsdecode gives them.
    """

    reason: str = ""
    notes: tuple[str, ...] = ()
    canonical: bool = False
    size: tuple[int, int] = (0, 0)
    twin: str = ""
    is_file: bool = True


def scene(width: int = 48, height: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth picture, white-ish top left, red top right, blue bottom left, so that any turn shows; (H, W, 3)."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height, 2)
    noise = np.random.default_rng(seed).integers(0, 12, (height, width, 3))
    base = np.stack([220 * (1 - x) * (1 - y), 220 * x * (1 - y), 220 * (1 - x) * y], axis=-1)
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def to_bytes(image: Image.Image, fmt: str, **options: object) -> bytes:
    """The image as the bytes of one file."""
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def jpeg(pixels: NDArray[np.uint8], **options: object) -> bytes:
    """uint8 RGB to JPEG bytes, with hardly any loss unless options say otherwise."""
    return to_bytes(Image.fromarray(pixels), "JPEG", **{"quality": 95, "subsampling": 0, **options})


def oriented_jpeg(pixels: NDArray[np.uint8], orientation: int) -> bytes:
    """A JPEG that stores `pixels` and asks to be shown by EXIF orientation 1..8."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(pixels, exif=exif)


def png_of_header(width: int, height: int, body: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header says what it is told to and whose pixel data are zlib(body): for lies and bombs."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def png16(pixels: NDArray[np.uint16]) -> bytes:
    """uint16 RGB (H, W, 3) to a PNG of 16 bits a channel, which Pillow cannot write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png_of_header(width, height, rows, depth=16)


def _good(photo: NDArray[np.uint8]) -> Iterator[tuple[str, bytes, Expected]]:
    """Inputs that must become samples: (name, bytes, expected)."""
    rgb, size = Image.fromarray(photo), (photo.shape[1], photo.shape[0])
    plain = jpeg(photo)
    yield "plain.jpg", plain, Expected(canonical=True, size=size)
    yield "plain.png", to_bytes(rgb, "PNG"), Expected(canonical=True, size=size)
    yield "plain.webp", to_bytes(rgb, "WEBP", lossless=True), Expected(canonical=True, size=size)
    yield "plain.bmp", to_bytes(rgb, "BMP"), Expected(size=size)
    yield "plain.tif", to_bytes(rgb, "TIFF"), Expected(size=size)
    yield "deflate.tif", to_bytes(rgb, "TIFF", compression="tiff_adobe_deflate"), Expected(size=size)
    yield "really_a_png.jpg", to_bytes(Image.fromarray(scene(seed=1)), "PNG"), Expected(canonical=True, size=size)
    yield "progressive.jpg", jpeg(photo, progressive=True), Expected(canonical=True, size=size)
    yield "grey.jpg", to_bytes(rgb.convert("L"), "JPEG"), Expected(notes=("grey",), size=size)
    yield "bilevel.png", to_bytes(rgb.convert("1"), "PNG"), Expected(notes=("grey",), size=size)
    yield "cmyk.jpg", to_bytes(rgb.convert("CMYK"), "JPEG"), Expected(notes=("cmyk",), size=size)
    yield "cmyk.tif", to_bytes(rgb.convert("CMYK"), "TIFF"), Expected(notes=("cmyk",), size=size)
    yield "palette.png", to_bytes(rgb.quantize(16), "PNG"), Expected(notes=("palette",), size=size)
    yield "palette.gif", to_bytes(rgb.quantize(16), "GIF"), Expected(notes=("palette",), size=size)
    grey = np.asarray(rgb.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    yield "grey16.png", to_bytes(deep, "PNG"), Expected(notes=("16_bit",), size=size)
    yield "grey16.tif", to_bytes(deep, "TIFF"), Expected(notes=("16_bit",), size=size)
    yield "rgb16.png", png16(photo.astype(np.uint16) * 257), Expected(notes=("16_bit",), size=size)
    yield "int32.tif", to_bytes(Image.fromarray(grey.astype(np.int32)), "TIFF"), Expected(notes=("32_bit",), size=size)
    unit = Image.fromarray(grey.astype(np.float32) / 255)
    yield "float.tif", to_bytes(unit, "TIFF"), Expected(notes=("float",), size=size)
    clear = rgb.convert("RGBA")
    stripes = np.where(np.arange(size[0]) % 2 == 0, 255, 0).astype(np.uint8)
    clear.putalpha(Image.fromarray(np.tile(stripes, (size[1], 1))))
    yield "alpha.png", to_bytes(clear, "PNG"), Expected(notes=("alpha_over_white",), size=size)
    yield "alpha.webp", to_bytes(clear, "WEBP", lossless=True), Expected(notes=("alpha_over_white",), size=size)
    yield "grey_alpha.png", to_bytes(clear.convert("LA"), "PNG"), Expected(notes=("alpha_over_white",), size=size)
    keyed = Expected(notes=("palette", "alpha_over_white"), size=size)
    yield "palette_alpha.png", to_bytes(rgb.quantize(16), "PNG", transparency=0), keyed
    for code in range(2, 9):
        turned = Expected(notes=("exif_oriented",), size=size if code < 5 else size[::-1])
        yield f"exif{code}.jpg", oriented_jpeg(photo, code), turned
    yield "bad_exif.jpg", oriented_jpeg(scene(seed=2), 9), Expected(notes=("bad_exif",), canonical=True, size=size)
    frames = [Image.fromarray(scene(seed=s)).quantize(16) for s in (3, 4)]
    moving = {"save_all": True, "append_images": frames[1:], "duration": 50}
    yield "moving.gif", to_bytes(frames[0], "GIF", **moving), Expected(notes=("first_frame", "palette"), size=size)
    moving["append_images"] = [Image.fromarray(scene(seed=5))]
    first = Expected(notes=("first_frame",), size=size)
    yield "moving.webp", to_bytes(rgb, "WEBP", lossless=True, **moving), first
    yield "moving.png", to_bytes(rgb, "PNG", **moving), first
    yield "pages.tif", to_bytes(rgb, "TIFF", **moving), first
    shapes = {"one_pixel": (1, 1), "very_wide": (4000, 1), "very_tall": (2, 3000), "black": (16, 16), "white": (16, 16)}
    for name, (width, height) in shapes.items():
        pixels = np.full((height, width, 3), 255 * (name == "white"), np.uint8) if width == 16 else scene(width, height)
        yield f"{name}.png", to_bytes(Image.fromarray(pixels), "PNG"), Expected(canonical=True, size=(width, height))


def _odd_names(photo: NDArray[np.uint8]) -> Iterator[tuple[str, bytes, Expected]]:
    """Good bytes under names that break careless code, and two names for the same bytes."""
    size = (photo.shape[1], photo.shape[0])
    names = [
        "with space.jpg", "dots.in.the.name.jpg", ".hidden.jpg", "-leading-dash.jpg", "ünïcode 图片.jpg",
        "n" * 236 + ".jpg", "quote'\"<b>&.jpg", "percent%20.jpg", "UPPER.JPEG", "new\nline.jpg",
        os.fsdecode(b"not-utf8-\xff.jpg"),
    ]  # fmt: skip
    for seed, name in enumerate(names):
        yield name, jpeg(scene(seed=100 + seed)), Expected(canonical=True, size=size)
    yield "twin.jpg", jpeg(photo), Expected(canonical=True, size=size, twin="plain.jpg")


def _bad(photo: NDArray[np.uint8]) -> Iterator[tuple[str, bytes, Expected]]:
    """Inputs that must be refused: (name, bytes, expected)."""
    rgb, plain = Image.fromarray(photo), jpeg(photo)
    yield "empty.jpg", b"", Expected("empty")
    yield "text.jpg", b"this is no picture\n", Expected("not_an_image")
    yield "page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", Expected("not_an_image")
    yield "zeros.png", bytes(4096), Expected("not_an_image")
    yield "drawing.svg.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", Expected("not_an_image")
    yield "apple.heic.jpg", b"\0\0\0\x18ftypheic" + bytes(64), Expected("unsupported_format")
    yield "document.jpg", b"%PDF-1.7\n" + bytes(64), Expected("unsupported_format")
    for fmt in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        whole = to_bytes(Image.fromarray(scene(120, 80)), fmt)
        yield f"half.{fmt.lower()}", whole[: len(whole) // 2], Expected("truncated")
    yield "header_only.jpg", plain[:20], Expected("truncated")
    yield "header_only.png", to_bytes(rgb, "PNG")[:20], Expected("truncated")
    yield "lying_header.png", png_of_header(2000, 2000, b"\0" * 100), Expected("truncated")
    yield "no_pixels.png", png_of_header(0, 10), Expected("damaged")
    yield "bomb.png", png_of_header(60_000, 60_000), Expected("decompression_bomb")
    yield "too_many.png", png_of_header(9000, 9000), Expected("too_many_pixels")
    yield "too_long.png", png_of_header(100_000, 2), Expected("side_too_long")
    canvas = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\0" * 2
    yield "huge_canvas.webp", canvas, Expected("too_many_pixels")
    yield "bad_chunk.png", to_bytes(rgb, "PNG").replace(b"IHDR", b"IHDX"), Expected("damaged")
    hot = np.asarray(rgb.convert("L"), np.float32) * 40
    yield "hot_float.tif", to_bytes(Image.fromarray(hot), "TIFF"), Expected("float_range")
    yield (
        "nan_float.tif",
        to_bytes(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"),
        Expected("float_range"),
    )
    yield "big_int.tif", to_bytes(Image.fromarray(np.full((8, 8), 70_000, np.int32)), "TIFF"), Expected("integer_range")


def corpus() -> dict[str, tuple[bytes, Expected]]:
    """Every file of the corpus by name: its bytes and what must become of it. No folders and links."""
    photo = scene()
    return {name: (data, want) for part in (_good, _odd_names, _bad) for name, data, want in part(photo)}


def write_corpus(folder: Path) -> dict[str, Expected]:
    """Write the corpus into the folder (made if absent); returns what must become of each entry, by file name.

    Names the file system refuses (some take UTF-8 only) are left out of the answer too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted: dict[str, Expected] = {}
    for name, (data, want) in corpus().items():
        try:
            (folder / name).write_bytes(data)
        except (OSError, UnicodeEncodeError):
            continue
        wanted[name] = want
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "loop_a.jpg").symlink_to("loop_b.jpg")
    (folder / "loop_b.jpg").symlink_to("loop_a.jpg")
    (folder / "loop_folder").symlink_to(".")
    nothing = ("folder.jpg", "dangling.jpg", "loop_a.jpg", "loop_b.jpg", "loop_folder")
    return wanted | {name: Expected(is_file=False) for name in nothing}
