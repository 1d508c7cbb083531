"""Objects read whole and checked: ranged requests, resumed in the middle of a body, and a digest of all of it at the end.

boto3 repeats a request, not a body that breaks off: here the next request asks for the rest. A body that ends early
under a status of 200 and a length that agrees with it is found by its digest: what this project writes carries its
sha256 as metadata; of other objects the ETag is taken where it is an MD5.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import IO, Any

from pipeline.errors import StorageError
from pipeline.storage.s3_client import code_of, explained, max_attempts, pause, shown

SHA256 = "manymodal-sha256"  # metadata of every object this project writes
PART = 64 << 20  # bytes of one ranged request; pipeline/sizing.py counts them
THREADS = 4  # ranged requests of one object at a time
BLOCK = 256 << 10  # what a connection that breaks off can cost
_SHORT = "{}: arrived short or damaged {} times. Run the same command again; it resumes."


@dataclass(frozen=True)
class Version:
    """One version of an object. modified: seconds since 1970. sha256: as its metadata has it. md5: its ETag if that can
    be one; '' where unknown.
    """

    size: int
    etag: str
    modified: float
    sha256: str = ""
    md5: str = ""


class Unchanged(Exception):
    """The object still is the version the caller has."""


class Replaced(Exception):
    """The object was written again while it was read."""


class _Damaged(Exception):
    """A body arrived whole and does not fit the store's checksum."""


class TooLong(Exception):
    """The object is longer than the caller wants. args: its length."""


def version_of(answer: Any) -> Version:
    """From the answer to a GET or HEAD. StorageError where it gives no length."""
    ranged = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.get("ContentRange", ""))
    size = int(ranged[1]) if ranged else answer.get("ContentLength")
    if size is None:
        raise StorageError("the store does not say how long an object is, so it cannot be checked. Use another store.")
    etag = str(answer.get("ETag", "")).strip('"')
    secret = answer.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in answer
    modified = answer["LastModified"].timestamp() if "LastModified" in answer else time.time()
    sha256 = answer.get("Metadata", {}).get(SHA256, "")
    return Version(size, etag, modified, sha256, etag if re.fullmatch("[0-9a-f]{32}", etag) and not secret else "")


class _Reader:
    """One object, read into `write(offset, block)`."""

    def __init__(self, client: Any, bucket: str, key: str, write: Callable[[int, bytes], None]) -> None:
        self.client, self.where, self.write = client, {"Bucket": bucket, "Key": key}, write
        self.uri = f"s3://{bucket}/{key}"

    def span(self, start: int, stop: int | None, have: str = "", same: str = "", limit: int | None = None) -> Version:
        """Bytes [start, stop) of the object, all after start where stop is None.

        have: ETag of a version the caller has. same: ETag the object must have. Unchanged, Replaced, TooLong,
        FileNotFoundError, StorageError.
        """
        at, failures = start, 0
        while True:
            before = at
            wanted = {"Range": f"bytes={at}-{'' if stop is None else stop - 1}"} if at or stop is not None else {}
            version, ranged, blocks = self._ask(wanted, have, same)
            if limit is not None and version.size > limit:
                raise TooLong(version.size)
            if not ranged and start:
                raise StorageError(f"{shown(self.uri)}: the store does not honour ranges. Use another.")
            at, same = at if ranged else 0, same or version.etag
            end = version.size if stop is None or not ranged else min(version.size, stop)
            try:
                for block in blocks:
                    self.write(at, block)
                    at += len(block)
            except _Damaged:
                at, same = start, ""
            if at == end:
                return version
            failures = 1 if at > before else failures + 1
            if failures >= max_attempts() or at > end:
                raise StorageError(_SHORT.format(shown(self.uri), max_attempts()))
            time.sleep(pause(failures))

    def _ask(self, wanted: dict[str, str], have: str, same: str) -> tuple[Version, bool, Iterator[bytes]]:
        """(version, whether the answer is of the range that was asked for, blocks of its body)."""
        from botocore.exceptions import ClientError

        more = dict(wanted)
        if same:
            more["IfMatch"] = f'"{same}"'
        elif have:
            more["IfNoneMatch"] = f'"{have}"'
        with explained(self.uri):
            try:
                answer = self.client.get_object(**self.where, **more)
            except ClientError as error:
                if code_of(error) == "304":
                    raise Unchanged from None
                if code_of(error) in ("PreconditionFailed", "412"):
                    raise Replaced from None
                if code_of(error) not in ("InvalidRange", "416"):
                    raise
                answer = self.client.get_object(**self.where)  # empty, or shorter than it was
        return version_of(answer), "ContentRange" in answer or not wanted, _blocks(answer["Body"])


def _blocks(body: Any) -> Iterator[bytes]:
    """The body as far as it comes. _Damaged where all came and is not what the store's own checksum says."""
    from botocore.exceptions import BotoCoreError, FlexibleChecksumError
    from urllib3.exceptions import HTTPError

    with body:
        try:
            yield from body.iter_chunks(BLOCK)
        except FlexibleChecksumError:
            raise _Damaged from None
        except (BotoCoreError, HTTPError, OSError):  # cut, reset or timed out: the next request asks for the rest
            return


def fetch(
    client: Any, bucket: str, key: str, sink: IO[bytes], have: str = "", limit: int | None = None, parts: bool = False
) -> Version:
    """An object into an empty `sink`, whole and checked; again, a few times, where its bytes are not the announced ones.

    have: ETag of a version the caller has (Unchanged if it still is that). limit: bytes (TooLong). parts: ask for
    PART bytes a request, several at a time. FileNotFoundError, StorageError.
    """
    lock, last = Lock(), ""

    def write(at: int, block: bytes) -> None:
        with lock:
            sink.seek(at)
            sink.write(block)

    reader = _Reader(client, bucket, key, write)
    for attempt in range(1, max_attempts() + 1):
        sink.seek(0)
        sink.truncate()
        try:
            version = reader.span(0, PART if parts else None, have=have, limit=limit)
            if parts and version.size > PART:
                _rest(reader, version)
        except Replaced:
            continue
        digests = _digests(sink, version)
        # An ETag may look like an MD5 and be none: two whole reads that agree outvote it.
        if digests is None or (not version.sha256 and digests == last):
            return version
        last = digests
        time.sleep(pause(attempt))
    raise StorageError(_SHORT.format(shown(reader.uri), max_attempts()))


def _rest(reader: _Reader, version: Version) -> None:
    """The object's other parts, a few at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        starts = range(PART, version.size, PART)
        list(pool.map(lambda start: reader.span(start, start + PART, same=version.etag), starts))


def _digests(sink: IO[bytes], version: Version) -> str | None:
    """None where the bytes are the announced ones, or nothing was announced; else their digest."""
    sink.seek(0)
    if version.sha256:
        found = hashlib.file_digest(sink, "sha256").hexdigest()  # type: ignore[arg-type]
        return None if found == version.sha256 else found
    if version.md5:
        found = hashlib.file_digest(sink, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # type: ignore[arg-type]
        return None if found == version.md5 else found
    return None
