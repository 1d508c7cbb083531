"""Objects written whole, and never over another: one conditional put, or a multipart upload with a conditional end.

Stores promise that of several conditional writes one wins. SeaweedFS 4.48 keeps that for puts; of multipart uploads that
end in the same milliseconds two were seen to win. So a finished upload is looked at before it counts, and only files
above WHOLE bytes are uploaded so; `verify` would find what still slipped through.

An answer may be lost after the write took effect. Nothing is ever deleted then: the object is looked at, and counts as
ours if its sha256 (kept as metadata) is that of our bytes. Only an upload that did not become an object is aborted.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.records import file_sha256
from pipeline.storage.s3_client import code_of, explained, failure, patiently, repeated, status_of
from pipeline.storage.s3_read import SHA256, Version, version_of

WHOLE = 64 << 20  # up to so many bytes in one request
PART = 64 << 20
MAX_PARTS = 9_000  # S3 allows 10,000
THREADS = 4


def md5_of(data: bytes) -> str:
    """For the Content-MD5 header: every store refuses a body that is not what it says."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


class Writer:
    """Writes into one bucket. head: a full key to its version; FileNotFoundError where there is none."""

    def __init__(self, client: Any, bucket: str, head: Callable[[str], Version]) -> None:
        self.client, self.bucket, self.head = client, bucket, head

    def put(self, key: str, data: bytes, over: bool = False, content_type: str = "application/octet-stream") -> bool:
        """One object in one request. False where the key exists and holds other bytes; over: replace it."""
        sha256 = hashlib.sha256(data).hexdigest()
        condition = {} if over else {"IfNoneMatch": "*"}

        def send() -> None:
            self.client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentMD5=md5_of(data), ContentType=content_type,
                Metadata={SHA256: sha256}, **condition,
            )  # fmt: skip

        return self._settle(key, sha256, send)

    def upload(self, path: Path, key: str) -> bool:
        """A file as a new object. False where the key exists and holds other bytes."""
        size = path.stat().st_size
        if size <= WHOLE:
            return self.put(key, path.read_bytes())
        sha256 = file_sha256(path)
        with contextlib.suppress(FileNotFoundError):  # spares sending it all
            return self.head(key).sha256 == sha256
        with explained(self._uri(key)):
            upload = patiently(
                lambda: self.client.create_multipart_upload(Bucket=self.bucket, Key=key, Metadata={SHA256: sha256}),
                self._uri(key),
            )
        where = {"Bucket": self.bucket, "Key": key, "UploadId": upload["UploadId"]}
        ended = False
        try:
            with explained(self._uri(key)):
                parts = self._parts(path, size, where)
            end = {"MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
            ended = self._settle(key, sha256, lambda: self.client.complete_multipart_upload(**where, **end))
            if ended and self.head(key).sha256 != sha256:
                return False  # another one ended at the same moment, and is the one that stayed
        finally:
            if not ended:  # an upload that became an object is not there any more, so this cannot harm one
                with contextlib.suppress(Exception):
                    self.client.abort_multipart_upload(**where)
        return ended

    def _parts(self, path: Path, size: int, where: dict[str, str]) -> list[dict[str, Any]]:
        """Send the file in parts, a few at a time."""
        length = max(PART, -(-size // MAX_PARTS))
        handle = os.open(path, os.O_RDONLY)

        def send(number: int) -> dict[str, Any]:
            data = os.pread(handle, length, (number - 1) * length)
            sent = self.client.upload_part(**where, PartNumber=number, Body=data, ContentMD5=md5_of(data))
            return {"PartNumber": number, "ETag": sent["ETag"]}

        try:
            with ThreadPoolExecutor(THREADS) as pool:
                return list(pool.map(send, range(1, -(-size // length) + 1)))
        finally:
            os.close(handle)

    def _settle(self, key: str, sha256: str, send: Callable[[], object]) -> bool:
        """Send, and find out what became of it: True if the key holds our bytes, False if it holds others.

        StorageError where that cannot be found out, or the store refused; whatever is there stays there.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            send()
            return True
        except ClientError as error:
            exists = code_of(error) in ("PreconditionFailed", "412")
            if exists and not repeated(error):
                return False
            gone = code_of(error) == "NoSuchUpload" and repeated(error)  # an earlier attempt ended the upload
            if not (exists or gone or status_of(error) >= 500 or status_of(error) == 429):
                raise failure(error, self._uri(key)) from None
            trouble = failure(error, self._uri(key))
        except (BotoCoreError, ResponseParserError) as error:
            trouble = failure(error, self._uri(key))
        try:
            return self.head(key).sha256 == sha256
        except FileNotFoundError:
            raise trouble from None

    def _uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"


def head(client: Any, bucket: str, key: str) -> Version:
    """The version of an object. FileNotFoundError, StorageError."""
    from botocore.exceptions import ClientError

    uri = f"s3://{bucket}/{key}"
    with explained(uri):
        try:
            return version_of(client.head_object(Bucket=bucket, Key=key))
        except ClientError as error:
            if status_of(error) not in (301, 307, 400, 403):
                raise
            client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)  # says why; a HEAD has no body to say it in
            raise
