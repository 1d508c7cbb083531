"""Labels somebody already has: one file, a folder or a .zip of files, and which of its entries belongs to which photo.

The source is named like weights (`file:`, `hf:`, `pypi:`), so its digest is part of the recipe, and workers on other
machines take it from the data set. What it is shows in its bytes, not in its name, because there it has another name.
Nothing is unpacked to disk; a member is read whole, up to a limit, and never executed or unpickled.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import field_validator

from labelers.core.images import DEFAULT_LIMITS
from labelers.core.labeler import Params, Sample
from labelers.core.modality import Null

MAX_ENTRY = 256 * 2**20  # bytes of one file of a source
Shape = tuple[int, int]
Number = TypeVar("Number", bound=np.generic)


class SourceError(ValueError):
    """A source is not what the labeler can read. The message says what it is, and what was expected."""


class Source:
    """A folder, a zip, or a single file (one entry, named ""). names: entries as relative POSIX paths, sorted."""

    def __init__(self, path: Path) -> None:
        self.path, self._zip = path, None
        if path.is_dir():
            self.names = sorted(f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file())
        elif zipfile.is_zipfile(path):
            self._zip = zipfile.ZipFile(path)
            self.names = sorted(i.filename for i in self._zip.infolist() if not i.is_dir())
        else:
            self.names = [""]

    @property
    def single(self) -> bool:
        return self.names == [""]

    def of(self, *suffixes: str) -> list[str]:
        """Names with one of these endings, in any case; hidden files are left out."""
        hidden = [name for name in self.names if any(part.startswith((".", "__")) for part in name.split("/"))]
        return sorted({n for n in self.names if n.lower().endswith(suffixes)} - set(hidden))

    def read(self, name: str) -> bytes:
        """The bytes of an entry. SourceError where it is too large or damaged."""
        if self._zip is None:
            path = self.path / name if name else self.path
            if name and path.stat().st_size > MAX_ENTRY:
                raise SourceError(f"{name}: is larger than {MAX_ENTRY >> 20} MiB")
            return path.read_bytes()
        info = self._zip.getinfo(name)
        if info.file_size > MAX_ENTRY:
            raise SourceError(f"{name}: is larger than {MAX_ENTRY >> 20} MiB")
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            raise SourceError(f"{name}: cannot be read from the zip ({error})") from error


# Which entry belongs to a photo -----------------------------------------------------------------------------------------


class MatchParams(Params):
    """How entries find their photos. An entry whose name is a sample's id always belongs to it.

    match: "stem", by file names without folders and endings (of several with one name, the one whose folders agree
    most; a tie is a null); "path", the entry's whole path without its ending is the end of the photo's; "id", nothing
    else. photo, entry: regular expressions that the photo's and the entry's stem must match whole; their first group, if
    they have one, is what is compared: photo "coco_(.*)", entry "(.*)_mask". resize: take a map of another size than its
    photo and stretch it (nearest); otherwise that is a null, because most such pairs are no pairs.
    """

    match: Literal["stem", "path", "id"] = "stem"
    photo: str = ".+"
    entry: str = ".+"
    resize: bool = False

    @field_validator("photo", "entry")
    @classmethod
    def _is_pattern(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from None
        return text


def photo_path(uri: str) -> PurePosixPath:
    """Where a photo came from, as a path: of its URI, or of the member of a tar."""
    parts = urlsplit(uri)
    return PurePosixPath(unquote(parts.fragment or parts.path))


def _key(path: PurePosixPath, pattern: re.Pattern[str]) -> PurePosixPath | None:
    """The path without its ending, its last part as the pattern has it; None where that does not match."""
    found = pattern.fullmatch(path.stem)
    return None if found is None else path.with_name((found[1] if found.re.groups else found[0]) or "_")


def _common(a: PurePosixPath, b: PurePosixPath) -> int:
    """How many folders above the names agree, from the names upwards."""
    pairs = zip(a.parent.parts[::-1], b.parent.parts[::-1], strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a.parent.parts), len(b.parent.parts)))


class Matcher:
    """Finds the entry of each photo among names (paths, or file names in an annotation file)."""

    def __init__(self, names: Iterable[str], params: MatchParams) -> None:
        self.params, self._photo = params, re.compile(params.photo)
        entry = re.compile(params.entry)
        self._entries: dict[str, list[tuple[PurePosixPath, str]]] = defaultdict(list)
        for name in names:
            key = _key(PurePosixPath(name), entry) if PurePosixPath(name).name else None
            if key is not None:
                self._entries[key.name].append((key, name))

    def find(self, sample: Sample) -> str | Null:
        """The entry of a sample, or why there is none."""
        if len(own := self._entries.get(sample.id, [])) == 1:
            return own[0][1]
        if self.params.match == "id":
            return Null("unmatched: no entry of the source has this id")
        path = photo_path(sample.uri)
        key = _key(path, self._photo) if path.name else None
        if key is None:
            return Null(f"unmatched: the photo's name {path.stem!r} does not match {self.params.photo!r}")
        found = self._entries.get(key.name, [])
        if self.params.match == "path":
            found = [one for one in found if _common(key, one[0]) == len(one[0].parent.parts)]
        best = max((_common(key, one) for one, _ in found), default=0)
        nearest = [name for one, name in found if _common(key, one) == best]
        if len(nearest) > 1:
            return Null(f"ambiguous: {len(nearest)} entries of the source are named {key.name!r}; use match: path")
        return nearest[0] if nearest else Null(f"unmatched: no entry of the source is named {key.name!r}")


# Maps -----------------------------------------------------------------------------------------------------------------


def read_map(data: bytes, shape: Shape, resize: bool) -> NDArray[np.generic]:
    """A PNG or .npy of a photo of shape (H, W), as it is stored: (H, W) or (H, W, C), of any number type.

    A palette PNG gives its indices. Of another size, it is stretched where `resize` says so. SourceError for anything
    else, before a pixel is decoded where the header tells.
    """
    array = _npy(data) if data.startswith(b"\x93NUMPY") else _png(data, shape, resize)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise SourceError(f"expected an array (H, W) or (H, W, C), got {array.shape}")
    _same_size((array.shape[0], array.shape[1]), shape, resize)
    return resized(array, shape)


def resized(array: NDArray[Number], shape: Shape) -> NDArray[Number]:
    """(h, w, ...) -> (H, W, ...) of `shape`, each pixel from the row and column nearest to its centre."""
    if array.shape[:2] == shape:
        return array
    y = (np.arange(shape[0]) + 0.5) * array.shape[0] / shape[0]
    x = (np.arange(shape[1]) + 0.5) * array.shape[1] / shape[1]
    found: NDArray[Number] = array[np.ix_(y.astype(np.intp), x.astype(np.intp))]
    return found


def _same_size(found: Shape, shape: Shape, resize: bool) -> None:
    if found != shape and not resize:
        raise SourceError(
            f"size differs: {found[1]} x {found[0]} pixels, the upright photo has {shape[1]} x {shape[0]}; "
            "where they do belong together, set resize: true"
        )


def _npy(data: bytes) -> NDArray[np.generic]:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        dims, _, dtype = read(stream)
        if dtype.hasobject or dtype.kind not in "biuf":
            raise SourceError(f"holds {dtype}, not plain numbers")
        if int(np.prod(dims, dtype=object)) * dtype.itemsize != len(data) - stream.tell():
            raise SourceError(f"its header promises {dims} of {dtype}, which is not what follows")
        found: NDArray[np.generic] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OverflowError) as error:
        raise SourceError(f"is no .npy array of numbers ({error})") from error
    return found


def _png(data: bytes, shape: Shape, resize: bool) -> NDArray[np.generic]:
    import cv2

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            _same_size(image.size[::-1], shape, resize)
            if image.size[0] * image.size[1] > DEFAULT_LIMITS.max_pixels:
                raise SourceError(f"{image.size[0]} x {image.size[1]} pixels are too many")
            image.load()
            # Pillow takes 16-bit colour for 8-bit; OpenCV gives palettes their colours: each reads what it keeps whole.
            deep = image.mode in ("RGB", "RGBA") and len(data) > 24 and data[24] == 16
            array = np.array(image) if image.mode != "1" else np.array(image.convert("L"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise SourceError(f"is no whole PNG ({error})") from error
    if not deep:
        return array
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise SourceError("is no whole PNG")
    return np.asarray(found[:, :, 2::-1])
