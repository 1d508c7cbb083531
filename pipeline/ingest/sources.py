"""Where candidate images come from: a folder, WebDataset tars, or a list of paths, told apart by what the spec names.

photos/                      a folder with all folders below it, in the order of names; tars in it are read as below
photo.jpg                    one image
laion-{00000..00041}.tar     WebDataset tars (one, or a brace pattern) in the img2dataset layout: image, .txt, .json
list.parquet, .csv, .tsv     a list with a column uri, path or url, and perhaps caption
list.txt                     a path or URI a line
s3://bucket/...              a folder, an image, tars or a list as above, in an object store; any list may name s3:// images

Sources only name and read; what is no image is found out by decoding, one candidate at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.ingest.candidate import IMAGE_EXTS, Candidate, extension
from pipeline.ingest.folder import file_candidate, walk
from pipeline.ingest.lists import LIST_EXTS, read_list, read_s3_list
from pipeline.ingest.s3 import open_s3
from pipeline.ingest.tars import read_tar


def open_source(spec: str, exclude: str | None = None) -> Iterator[Candidate]:
    """Candidates of one source, in an order that depends on names and contents alone.

    exclude: a folder or prefix not to walk into (the data set's own root). ConfigError, at once, where the spec names nothing
    usable.
    """
    if spec.startswith("s3://") and not spec.endswith("/") and extension(spec) in LIST_EXTS:
        return read_s3_list(spec)
    if spec.startswith("s3://"):
        return chain.from_iterable([open_s3(name, exclude) for name in _expand(spec)])
    path = Path(spec.removeprefix("file://")).expanduser()
    if "://" in str(spec.removeprefix("file://")) or spec.startswith("pipe:"):
        raise ConfigError(
            f"{spec}: sources are folders, .tar files and lists on this machine, or s3://. Copy it here, or mount it."
        )
    if path.is_dir():
        return walk(path, Path(exclude) if exclude and "://" not in exclude else None)
    if path.is_file():
        ext = extension(path.name)
        if ext == "tar":
            return read_tar(path)
        if ext in LIST_EXTS:
            return read_list(path)
        if ext in IMAGE_EXTS:
            return iter([file_candidate(path)])
        raise ConfigError(
            f"{spec}: neither a folder, an image, a .tar, nor a list ({', '.join('.' + e for e in LIST_EXTS)})."
        )
    if "{" in spec and spec.endswith(".tar"):
        return _read_tars(spec)
    raise ConfigError(f"{spec}: no such file or folder. Check the path of the source.")


def _expand(spec: str) -> list[str]:
    """The names that the braces of a pattern of tars stand for; anything else as it is. ConfigError for lone braces."""
    from webdataset.shardlists import expand_urls

    try:
        return expand_urls(spec) if "{" in spec and spec.endswith(".tar") else [spec]
    except ValueError as error:
        raise ConfigError(
            f"{spec}: its braces cannot be read ({error}). Write them like x-{{00000..00041}}.tar."
        ) from None


def _read_tars(pattern: str) -> Iterator[Candidate]:
    """The tars of a brace pattern, in its order. ConfigError at once where one of them does not exist."""
    paths = [Path(name.removeprefix("file://")).expanduser() for name in _expand(pattern)]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise ConfigError(f"{pattern}: {len(absent)} of {len(paths)} tars do not exist, the first is {absent[0]}.")
    return (candidate for path in paths for candidate in read_tar(path))
