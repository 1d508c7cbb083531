"""Storage behind one small interface: a local folder, or a prefix of a bucket."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.storage.interface import Entry, Storage
from pipeline.storage.local import LocalStorage

__all__ = ["Entry", "LocalStorage", "Storage", "open_storage"]


def open_storage(url: str) -> Storage:
    """The storage of a data set's root: a folder, file:///folder, or s3://bucket/prefix. ConfigError for anything else."""
    if url.startswith("s3://"):
        from pipeline.storage.s3 import S3Storage  # boto3 takes half a second to load

        return S3Storage(url)
    if url.startswith("file://"):
        url = url.removeprefix("file://")
    if "://" in url:
        raise ConfigError(
            f"{url.split('://')[0]}://: a data set lies in a folder or at s3://bucket/prefix. Give one of them."
        )
    return LocalStorage(Path(url).expanduser())
