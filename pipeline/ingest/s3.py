"""Images, tars and folders on S3 as a source: s3://bucket/key, the key as it is, not %-escaped.

Credentials, region and endpoint come from where boto3 always looks (AWS_PROFILE, AWS_ENDPOINT_URL, ...). What is wrong
with one key costs that sample; what is wrong with the store (credentials, bucket, network) ends the run with a
StorageError that quotes neither the server nor the environment, for either may hold a secret.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from labelers.core.images import DEFAULT_LIMITS
from pipeline.errors import ConfigError, StorageError
from pipeline.ingest.candidate import (
    IMAGE_EXTS,
    MAX_SIDECAR,
    SIDECAR_EXTS,
    Candidate,
    Payload,
    Unusable,
    extension,
    refused,
    uri_of,
)  # fmt: skip
from pipeline.ingest.tars import read_tar
from pipeline.storage.s3_client import BUCKET, BadKey, connect, listed, shown
from pipeline.storage.s3_read import TooLong, fetch

MAX_TAR = 64 << 30


class S3:
    """A connection, made at first use; may be used by several threads."""

    @cached_property
    def client(self) -> Any:
        return connect()

    def read(self, uri: str, limit: int) -> bytes:
        """The bytes of an object, as many as the store says it has. Unusable, StorageError."""
        sink = io.BytesIO()
        self.copy(uri, limit, sink)
        return sink.getvalue()

    def copy(self, uri: str, limit: int, sink: IO[bytes], parts: bool = False) -> None:
        """Fetch an object into an empty `sink`. Unusable, StorageError. parts: in ranged requests, several at a time."""
        bucket, key = split(uri)
        with _of_the_sample(limit):
            fetch(self.client, bucket, key, sink, limit=limit, parts=parts)

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """Every key that begins with `prefix`, in the order of bytes."""
        last = b""
        for page in listed(self.client, bucket, prefix):
            for entry in page.get("Contents", ()):
                if entry["Key"].encode() < last:
                    # Side-cars are found next to their image; and shards must not depend on the store's mood.
                    raise StorageError(f"s3://{bucket}: lists its keys out of order. Name tars or a list instead.")
                last = entry["Key"].encode()
                yield entry["Key"]


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key. Unusable where one is empty or no bucket has such a name."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not BUCKET.fullmatch(bucket) or not 1 <= len(key.encode(errors="surrogateescape")) <= 1024:
        raise Unusable("bad_name", "no object has such a name; write s3://bucket/key")
    return bucket, key


@contextmanager
def _of_the_sample(limit: int) -> Iterator[None]:
    """What is wrong with one key costs that sample."""
    try:
        yield
    except BadKey as error:
        raise Unusable(error.reason, error.detail) from None
    except FileNotFoundError:
        raise Unusable("missing", "no such key") from None
    except TooLong as error:
        raise Unusable("too_many_bytes", f"{error.args[0]} bytes, the limit is {limit}") from None


def s3_candidate(s3: S3, uri: str, sidecars: tuple[str, ...] = ()) -> Candidate:
    """The image at `uri`, with the side-cars of the extensions that are known to lie beside it.

    A listed URI has none: to look for them would cost two more requests an image; captions come from the list.
    """

    def read() -> Payload:
        data = s3.read(uri, DEFAULT_LIMITS.max_bytes)
        stem, found = uri.rpartition(".")[0], {}
        for ext in sidecars:
            try:
                found[ext] = s3.read(f"{stem}.{ext}", MAX_SIDECAR)
            except Unusable as error:
                raise Unusable("bad_sidecar", f".{ext} beside it: {error}") from error
        return Payload(data, found)

    return Candidate(shown(uri), read)


def open_s3(spec: str, exclude: str | None = None) -> Iterator[Candidate]:
    """Candidates of s3://bucket/image.jpg, of a .tar, or of all that lies below s3://bucket/prefix."""
    bucket, _, key = spec.removeprefix("s3://").partition("/")
    if not BUCKET.fullmatch(bucket):
        raise ConfigError(f"{shown(spec)}: names no bucket. Write s3://bucket/prefix, or s3://bucket/some.tar.")
    s3, ext = S3(), "" if key.endswith("/") else extension(key)
    if ext == "tar":
        return read_s3_tar(s3, spec)
    if ext in IMAGE_EXTS:
        return iter([s3_candidate(s3, spec)])
    return walk_s3(s3, bucket, key.strip("/") + "/" if key.strip("/") else "", exclude)


def walk_s3(s3: S3, bucket: str, prefix: str, exclude: str | None = None) -> Iterator[Candidate]:
    """Every image and the samples of every tar below a prefix, as it is done with a folder, in the order of keys.

    All keys that begin with the same folder/name. follow each other, so an image and its side-cars are found with no
    more than those in memory.
    """
    keys = (key for key in s3.keys(bucket, prefix) if not key.endswith("/"))  # a key that ends so stands for a folder
    if exclude is not None:
        keys = (key for key in keys if not f"s3://{bucket}/{key}".startswith(exclude + "/"))
    for _, group in groupby(keys, lambda key: (key.rpartition("/")[0], key.rpartition("/")[2].partition(".")[0])):
        names = list(group)
        for name in names:
            uri, ext = f"s3://{bucket}/{name}", extension(name)
            if ext == "tar":
                yield from read_s3_tar(s3, uri)
            elif ext in IMAGE_EXTS:
                stem = name.rpartition(".")[0]
                yield s3_candidate(s3, uri, tuple(e for e in SIDECAR_EXTS if f"{stem}.{e}" in names))


def read_s3_tar(s3: S3, uri: str) -> Iterator[Candidate]:
    """Candidates of a tar, which is fetched whole into a temporary file first: only then is its length known to be
    right.
    """
    with tempfile.TemporaryDirectory(prefix="manymodal-") as folder:
        path = Path(folder) / "source.tar"
        try:
            with path.open("w+b") as sink:
                s3.copy(uri, MAX_TAR, sink, parts=True)
        except Unusable as error:
            yield refused(shown(uri), error.reason, error.detail)
            return
        except OSError as error:
            raise StorageError(
                f"{shown(uri)}: cannot be kept in {os.path.dirname(folder)} ({error.strerror}). Free some space, or set TMPDIR."
            ) from error
        here = uri_of(path)
        for candidate in read_tar(path):
            yield Candidate(shown(uri) + candidate.uri.removeprefix(here), candidate.read)
