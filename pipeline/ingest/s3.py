"""Images, tars and folders on S3 as a source: s3://bucket/key, the key as it is, not %-escaped.

Credentials, region and endpoint come from where boto3 always looks (AWS_PROFILE, AWS_ENDPOINT_URL, ...). What is wrong
with one key costs that sample; what is wrong with the store (credentials, bucket, network) ends the run with a
StorageError that quotes neither the server nor the environment, for either may hold a secret.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

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

ATTEMPTS = 5  # of one request, inside botocore, with growing pauses and jitter
FETCHES = 3  # of one object whose bytes did not arrive whole, which botocore does not repeat
MAX_TAR = 64 << 30
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # stays as it is, so that most URIs can be listed again
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_OF_THE_KEY = {
    "NoSuchKey": ("missing", "no such key"),
    "KeyTooLongError": ("bad_name", "the key is too long"),
    "InvalidObjectState": ("archived", "the object is archived; restore it first"),
}
_REFUSED = {
    "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired",
    "AllAccessDisabled", "AccountProblem", "401", "403",
}  # fmt: skip
_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307"}


class S3:
    """A connection, made at first use; may be used by several threads."""

    @cached_property
    def client(self) -> Any:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS}, connect_timeout=10, read_timeout=60
        )
        try:
            return boto3.session.Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
            raise ConfigError(
                f"S3: the AWS settings cannot be used ({type(error).__name__}). "
                "Check AWS_ENDPOINT_URL, AWS_PROFILE and ~/.aws/config."
            ) from None

    def read(self, uri: str, limit: int) -> bytes:
        """The bytes of an object, as many as the store says it has. Unusable, StorageError."""
        sink = io.BytesIO()
        self.copy(uri, limit, sink)
        return sink.getvalue()

    def copy(self, uri: str, limit: int, sink: IO[bytes]) -> None:
        """Fetch an object into an empty `sink`; again, a few times, where less came than the store announced."""
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        bucket, key = split(uri)
        for _ in range(FETCHES):
            with _explained(uri):
                answer = self.client.get_object(Bucket=bucket, Key=key)
            size, body = answer.get("ContentLength"), answer["Body"]
            with body:
                if size is None:
                    raise StorageError(
                        f"{_shown(uri)}: the store does not say how long it is, so it cannot be checked."
                    )
                if size > limit:
                    raise Unusable("too_many_bytes", f"{size} bytes, the limit is {limit}")
                sink.seek(0)
                sink.truncate()
                try:
                    for block in body.iter_chunks(1 << 20):
                        sink.write(block)
                except (BotoCoreError, HTTPError):  # cut, reset, timed out, or another checksum
                    continue
            if sink.tell() == size:
                return
        raise StorageError(
            f"{_shown(uri)}: arrived short or damaged {FETCHES} times. Run the same command again; it resumes."
        )

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """Every key that begins with `prefix`, in the order of bytes."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        last = b""
        with _explained(f"s3://{bucket}/{prefix}"):
            for page in pages:
                for entry in page.get("Contents", ()):
                    if entry["Key"].encode() < last:
                        # Side-cars are found next to their image; and shards must not depend on the store's mood.
                        raise StorageError(f"s3://{bucket}: lists its keys out of order. Name tars or a list instead.")
                    last = entry["Key"].encode()
                    yield entry["Key"]


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key. Unusable where one is empty or no bucket has such a name."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket) or not 1 <= len(key.encode(errors="surrogateescape")) <= 1024:
        raise Unusable("bad_name", "no object has such a name; write s3://bucket/key")
    return bucket, key


def _shown(uri: str) -> str:
    """A URI as the index keeps it: ASCII only; the key otherwise as it is."""
    return quote(uri, safe=_PLAIN, errors="surrogateescape")


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """What boto3 raises, as one sentence: Unusable where it is about the key, StorageError where it is not."""
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        yield
    except ParamValidationError:
        raise Unusable("bad_name", "no object has such a name") from None
    except ClientError as error:
        code = re.sub(r"\W", "", str(error.response.get("Error", {}).get("Code", "")))[:40]
        if code in _OF_THE_KEY:
            raise Unusable(*_OF_THE_KEY[code]) from None
        raise StorageError(f"{_shown(uri)}: {_why(code)}") from None
    except BotoCoreError as error:
        kind = type(error).__name__
        if "Credential" in kind or "Token" in kind or "SSO" in kind:
            why = f"there are no usable AWS credentials ({kind}). Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret."
        else:
            why = f"S3 cannot be reached ({kind}). Check the network and AWS_ENDPOINT_URL; the same command resumes."
        raise StorageError(f"{_shown(uri)}: {why}") from None


def _why(code: str) -> str:
    """A sentence about an error code of S3 that is not about one key."""
    if code == "NoSuchBucket":
        return "there is no such bucket. Check its name and AWS_ENDPOINT_URL."
    if code in _REFUSED:
        return f"S3 refuses the credentials ({code}). Check them, and their right to read and list this bucket."
    if code in _ELSEWHERE:
        return f"the bucket lies in another region ({code}). Set AWS_REGION to it."
    return f"S3 answered {code or 'an error'} to {ATTEMPTS} attempts at most. Run the same command again; it resumes."


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

    return Candidate(_shown(uri), read)


def open_s3(spec: str) -> Iterator[Candidate]:
    """Candidates of s3://bucket/image.jpg, of a .tar, or of all that lies below s3://bucket/prefix."""
    bucket, _, key = spec.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"{_shown(spec)}: names no bucket. Write s3://bucket/prefix, or s3://bucket/some.tar.")
    s3, ext = S3(), "" if key.endswith("/") else extension(key)
    if ext == "tar":
        return read_s3_tar(s3, spec)
    if ext in IMAGE_EXTS:
        return iter([s3_candidate(s3, spec)])
    if ext in ("parquet", "csv", "tsv", "txt"):
        raise ConfigError(f"{_shown(spec)}: lists are read from this machine; copy it here. It may name s3:// images.")
    return walk_s3(s3, bucket, key.strip("/") + "/" if key.strip("/") else "")


def walk_s3(s3: S3, bucket: str, prefix: str) -> Iterator[Candidate]:
    """Every image and the samples of every tar below a prefix, as it is done with a folder, in the order of keys.

    All keys that begin with the same folder/name. follow each other, so an image and its side-cars are found with no
    more than those in memory.
    """
    keys = (key for key in s3.keys(bucket, prefix) if not key.endswith("/"))  # a key that ends so stands for a folder
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
            with path.open("wb") as sink:
                s3.copy(uri, MAX_TAR, sink)
        except Unusable as error:
            yield refused(_shown(uri), error.reason, error.detail)
            return
        except OSError as error:
            raise StorageError(
                f"{_shown(uri)}: cannot be kept in {os.path.dirname(folder)} ({error.strerror}). Free some space, or set TMPDIR."
            ) from error
        here = uri_of(path)
        for candidate in read_tar(path):
            yield Candidate(_shown(uri) + candidate.uri.removeprefix(here), candidate.read)
