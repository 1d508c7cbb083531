"""Bytes of an image file -> upright 8-bit RGB, or one short reason why not.

Only Pillow decodes, so that the same bytes give the same pixels everywhere; only formats of a short list are
tried, chosen by the first bytes and never by a name. Sizes are judged before a pixel is decoded. What becomes of it:

    EXIF orientation   applied, the mirrored ones too                              note "exif_oriented"
    alpha, colour key  laid over white                                             note "alpha_over_white"
    palette, CMYK, ..  converted by Pillow; ICC profiles are not applied           note "palette", "cmyk", "grey", ...
    16 bits            grey: divided by 257 and rounded (65535 -> 255), never      note "16_bit"
                       clipped; colour: Pillow takes the high byte
    32-bit integers    read as 8-bit where all fit 0..255, else as 16-bit; beyond  note "32_bit"
                       0..65535 refused as "integer_range": white is unknown
    floats             0..1 is scaled by 255, else 0..255 is rounded; NaN, infinite note "float"
                       or other ranges are refused as "float_range"
    several frames     the first one                                               note "first_frame"
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

ORIENTATION = 0x0112  # the EXIF tag
BITS = 0x0102  # the TIFF tag
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALLOWED = (
    (b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"), (b"BM", "BMP"),
    (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"),
)  # fmt: skip
_FOREIGN = (
    (b"8BPS", "Photoshop"), (b"%PDF", "PDF"), (b"%!PS", "PostScript"), (b"\0\0\0\x0cjP", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"), (b"\0\0\x01\0", "icon"), (b"qoif", "QOI"), (b"DDS ", "DDS"),
)  # fmt: skip
_MODE_NOTES = {"1": "grey", "L": "grey", "P": "palette", "CMYK": "cmyk", "YCbCr": "ycbcr", "HSV": "hsv"}


@dataclass(frozen=True)
class Limits:
    """What is refused before decoding: bytes of the file, pixels (64 Mi are 192 MiB of RGB), pixels of a side."""

    max_bytes: int = 128 * 2**20
    max_pixels: int = 64 * 2**20
    max_side: int = 32_768


DEFAULT_LIMITS = Limits()


class BadImage(ValueError):
    """An input that cannot become an image. reason: a stable slug, one of REASONS; detail: a sentence for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return BadImage, (self.reason, self.detail)  # survives the way back from a worker process


REASONS = frozenset({
    "empty", "not_an_image", "unsupported_format", "unsupported_mode", "truncated", "damaged", "too_many_bytes",
    "too_many_pixels", "side_too_long", "decompression_bomb", "integer_range", "float_range",
})  # fmt: skip


@dataclass(frozen=True)
class Decoded:
    """image: uint8 RGB (H, W, 3), upright, C-contiguous. format: "JPEG", "PNG", "WEBP", "BMP", "GIF" or "TIFF".

    canonical: the bytes are an 8-bit RGB JPEG, PNG or WebP that any reader decodes to this very array (no rotation,
    alpha, palette or animation), so they may be stored as they came. notes: what was normalised, see the module.
    """

    image: NDArray[np.uint8]
    format: str
    canonical: bool
    notes: tuple[str, ...]


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Decoded:
    """Decode the bytes of one image file. Raises BadImage, and nothing else, for what is wrong with the bytes.

    What is wrong with the system (MemoryError, ImportError, an OSError with an errno) is raised as it is.
    """
    if not data:
        raise BadImage("empty", "the file has 0 bytes")
    if len(data) > limits.max_bytes:
        raise BadImage("too_many_bytes", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    fmt = _sniff(data)
    if fmt == "WEBP":  # its decoder allocates two canvases as soon as it is opened
        _check_size(_webp_size(data), limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=(fmt,))
        except Exception as error:
            raise _verdict(error, fmt, data) from error
        with image:
            _check_size(image.size, limits)
            if image.mode == "LAB":
                raise BadImage("unsupported_mode", "CIE Lab pixels; save the picture as RGB")
            try:
                notes, upright = _load_upright(image)
                pixels = _to_rgb(upright, notes)
            except BadImage:
                raise
            except Exception as error:
                raise _verdict(error, fmt, data) from error
    bits = getattr(image, "tag_v2", {}).get(BITS, ())  # of each channel of a TIFF
    if "16_bit" not in notes and (bits[:2] == (16, 16) or (fmt == "PNG" and data[24] == 16)):
        notes.append("16_bit")  # Pillow already took the high byte of 16-bit colour
    canonical = fmt in ("JPEG", "PNG", "WEBP") and not set(notes) - {"bad_exif"}
    return Decoded(pixels, fmt, canonical, tuple(notes))


def decode_stored(data: bytes) -> NDArray[np.uint8]:
    """The pixels of an image this project stored, which `decode` found canonical before: uint8 RGB (H, W, 3).

    The same array as `decode` gives, without its judgements and its changes to the warning filters, so threads may
    call it. Raises what Pillow raises for bytes that are damaged.
    """
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"), np.uint8, order="C")


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """uint8 RGB (H, W, 3), or grey (H, W), to PNG, with fixed settings so that the same pixels give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """The inverse of encode_png, for files this project wrote: uint8 (H, W, 3) or (H, W). Foreign ones go to decode."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return np.array(image, np.uint8)


def _sniff(data: bytes) -> str:
    """Format by the first bytes, one of the allow-list. Raises BadImage that names what they are instead."""
    for magic, fmt in _ALLOWED:
        if data.startswith(magic):
            return fmt
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    allowed = "known are JPEG, PNG, WebP, BMP, GIF, TIFF"
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("ascii", "replace")
        raise BadImage("unsupported_format", f"an ISO media file of brand {brand!r} (HEIC, AVIF, video); {allowed}")
    for magic, name in _FOREIGN:
        if data.startswith(magic):
            raise BadImage("unsupported_format", f"a {name} file; {allowed}")
    head = data[:512].lstrip().lower()
    kind = "an HTML page" if head.startswith((b"<!doctype html", b"<html")) else f"bytes beginning {data[:12]!r}"
    raise BadImage("not_an_image", f"{kind}; {allowed}")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas width and height from the WebP header. Raises BadImage where the header is not there or not WebP's."""
    if len(data) < 30:
        raise BadImage("truncated", f"a WebP header of {len(data)} bytes")
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    raise BadImage("damaged", f"a WebP file whose first chunk is {chunk!r}")


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    """Raise BadImage where width x height, as the header tells them, are beyond the limits or empty."""
    width, height = size
    if width < 1 or height < 1:
        raise BadImage("damaged", f"the header says {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise BadImage("too_many_pixels", f"{width} x {height} pixels, the limit is {limits.max_pixels} in all")
    if max(width, height) > limits.max_side:
        raise BadImage("side_too_long", f"{width} x {height} pixels, the limit of a side is {limits.max_side}")


def _verdict(error: Exception, fmt: str, data: bytes) -> BadImage:
    """What a Pillow error says about the bytes. Re-raises the error where it is the system's and not theirs."""
    if isinstance(error, MemoryError | ImportError) or (isinstance(error, OSError) and error.errno is not None):
        raise error
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return BadImage("decompression_bomb", str(error))
    cut = {
        "JPEG": b"\xff\xda" not in data,  # no scan begins
        "PNG": b"IEND" not in data,
        "WEBP": int.from_bytes(data[4:8], "little") + 8 > len(data),
    }.get(fmt, False)
    # Pillow's own words for "no plugin can open it" carry a memory address; a reason must be the same in every run.
    words = "unknown variant or broken header" if isinstance(error, UnidentifiedImageError) else str(error)[:200]
    if cut or "truncated" in words.lower():
        return BadImage("truncated", f"{len(data)} bytes of {fmt} end too early ({words})")
    return BadImage("damaged", f"begins as {fmt}, but cannot be read ({words})")


def _load_upright(image: Image.Image) -> tuple[list[str], Image.Image]:
    """Decode the first frame and turn it upright. Returns (notes so far, the image)."""
    notes: list[str] = []
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a JPEG with a second picture behind it
        notes.append("first_frame")
    stored = _orientation(image, notes)
    image.load()
    left = _orientation(image, notes)  # Pillow turns TIFF itself while loading, and says so by 1
    if stored != 1 or left != 1:
        notes.append("exif_oriented")
    return notes, image.transpose(_TRANSPOSE[left]) if left != 1 else image


def _orientation(image: Image.Image, notes: list[str]) -> int:
    """EXIF orientation, 1..8; anything unreadable is 1 and noted: a broken tag must not cost a good picture."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except (MemoryError, ImportError):
        raise
    except Exception:
        image.load()  # damage of the pixels themselves, met on the way to the tag, shows here again
        value = None
    if value == 1 or value in _TRANSPOSE:
        return int(value)
    if "bad_exif" not in notes:
        notes.append("bad_exif")
    return 1


def _to_rgb(image: Image.Image, notes: list[str]) -> NDArray[np.uint8]:
    """A loaded image of any mode to uint8 RGB (H, W, 3); appends what was done to notes."""
    mode = image.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        grey = _deep_to_grey(np.asarray(image), mode, notes)
        key = image.info.get("transparency")
        if isinstance(key, int):
            grey[np.asarray(image) == key] = 255
            notes.append("alpha_over_white")
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    if mode in _MODE_NOTES:
        notes.append(_MODE_NOTES[mode])
    if "a" in mode.lower() or "transparency" in image.info:
        notes.append("alpha_over_white")
        rgba = image.convert("LA").convert("RGBA") if mode == "La" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return np.array(image.convert("RGB"), np.uint8, order="C")


def _deep_to_grey(values: NDArray[np.generic], mode: str, notes: list[str]) -> NDArray[np.uint8]:
    """One channel of more than 8 bits (H, W) to uint8, by the rules at the top. Raises BadImage beyond their ranges."""
    low, high = values.min(), values.max()
    if mode == "F":
        notes.append("float")
        if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high <= 255):
            raise BadImage("float_range", f"float pixels from {low} to {high}; 0..1 or 0..255 is understood")
        scale = 255.0 if high <= 1 else 1.0
        return np.asarray(np.rint(np.asarray(values, np.float64) * scale), np.uint8)
    notes.append("32_bit" if mode == "I" else "16_bit")
    if not (low >= 0 and high <= 65535):
        raise BadImage("integer_range", f"integer pixels from {low} to {high}; 0..65535 is understood")
    if mode == "I" and high <= 255:
        return np.asarray(values, np.uint8)
    return np.asarray((np.asarray(values, np.uint32) + 128) // 257, np.uint8)
