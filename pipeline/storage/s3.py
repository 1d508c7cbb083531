"""A data set in a bucket: s3://bucket/prefix, on any store that refuses to overwrite (If-None-Match: *).

Copies of what was read lie in a bounded cache on this machine, and are asked about (304) before they are used again,
unless the caller knows the digest, and checks it. Consistency is what S3 gives: whoever lists or reads after a write sees it.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import IO, Any

from labelers.core.weights import default_cache
from pipeline.errors import ConfigError, StorageError
from pipeline.storage.cache import Cache
from pipeline.storage.interface import Entry, plain
from pipeline.storage.s3_client import BUCKET, connect, explained, listed, patiently, shown
from pipeline.storage.s3_folders import Folders
from pipeline.storage.s3_read import Unchanged, Version, fetch
from pipeline.storage.s3_write import Writer, head

AHEAD = 4  # files fetched in the background at a time
CONTENT_TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json", ".yaml": "text/plain; charset=utf-8"}


class S3Storage:
    """See the module. Threads may share one; processes make their own. cache: where copies are kept."""

    def __init__(self, url: str, cache: Cache | None = None) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not BUCKET.fullmatch(bucket):
            raise ConfigError(
                "s3://...: names no bucket. Write s3://bucket/prefix; credentials belong into AWS settings."
            )
        try:
            self.bucket, self.prefix = bucket, plain(prefix.strip("/"))
        except ValueError:
            raise ConfigError(
                f"{shown(url)}: is no plain prefix. Write s3://bucket/prefix without '.', '..' and '//'."
            ) from None
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self.cache = cache or Cache(default_cache() / "s3")
        self._lock, self._coming = Lock(), dict[str, Future[Path]]()
        self._pool: ThreadPoolExecutor | None = None

    @cached_property
    def client(self) -> Any:
        return connect()

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self.client, self.bucket, self._head)

    @cached_property
    def _folders(self) -> Folders:
        return Folders(self, self.cache.folder / "folders")

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{plain(key)}".strip("/")

    def _uri(self, full: str) -> str:
        return f"s3://{self.bucket}/{full}"

    def _head(self, full: str) -> Version:
        return head(self.client, self.bucket, full)

    def check(self) -> None:
        """See Storage. Some stores take conditional puts and overwrite all the same."""
        probe = f"_tmp/probe-{uuid.uuid4().hex}"
        try:
            self.put_if_absent(probe, b"first")
            held = not self.put_if_absent(probe, b"second") and self.read_bytes(probe) == b"first"
            held = held and not self._ends_over(self._key(probe))
        finally:
            with contextlib.suppress(StorageError):
                self.delete(probe)
        if not held:
            raise ConfigError(
                f"{self.url}: this store overwrites objects although asked not to (If-None-Match: *), so two runs could destroy "
                "each other's shards. Use AWS S3 or another store that honours conditional writes."
            )

    def _ends_over(self, full: str) -> bool:
        """Whether a multipart upload can end on an existing key."""
        from botocore.exceptions import ClientError

        where = {"Bucket": self.bucket, "Key": full}
        with explained(self._uri(full)):
            where["UploadId"] = self.client.create_multipart_upload(**where)["UploadId"]
            part = self.client.upload_part(**where, PartNumber=1, Body=b"third")
            parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            try:
                self.client.complete_multipart_upload(**where, MultipartUpload=parts, IfNoneMatch="*")
                return True
            except ClientError:
                self.client.abort_multipart_upload(**where)
                return False

    # -- reading

    def read_bytes(self, key: str) -> bytes:
        sink = io.BytesIO()
        fetch(self.client, self.bucket, self._key(key), sink)
        return sink.getvalue()

    def exists(self, key: str) -> bool:
        try:
            self._head(self._key(key))
        except FileNotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        return self._head(self._key(key)).size

    def modified(self, key: str) -> float:
        try:
            return self._head(self._key(key)).modified
        except FileNotFoundError:
            return float("inf")

    def list(self, prefix: str) -> dict[str, Entry]:
        full = self._key(prefix.rstrip("/"))
        full, found = f"{full}/" if full else "", dict[str, Entry]()
        cut = len(self.prefix) + 1 if self.prefix else 0
        for page in listed(self.client, self.bucket, full, "/"):
            for common in page.get("CommonPrefixes", ()):
                found[common["Prefix"][cut:]] = Entry(0, "")
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):  # what some tools write for a folder
                    found[entry["Key"][cut:]] = Entry(entry["Size"], entry["ETag"].strip('"'))
        return dict(sorted(found.items()))

    def local(self, key: str, sha256: str = "", fresh: bool = False) -> Path:
        with self._lock:
            coming = self._coming.get(key)
        if coming is not None and not fresh:
            with contextlib.suppress(Exception):  # whatever it is, it shows again below
                coming.result()
        return self._copy(key, sha256, fresh)

    def _copy(self, key: str, sha256: str, fresh: bool) -> Path:
        """A copy that is at hand and still is the object, or a new one."""
        full = self._key(key)
        name = self._uri(full)
        if sha256 and not fresh and (known := self.cache.find(name, sha256)) is not None:
            return known[0]
        at_hand = None if fresh else self.cache.find(name)
        if at_hand is not None and not self.cache.sound(at_hand[0]):
            at_hand = None

        def fill(sink: IO[bytes]) -> tuple[str, str]:
            version = fetch(self.client, self.bucket, full, sink, have=at_hand[1] if at_hand else "", parts=True)
            return version.etag, version.sha256

        try:
            return self.cache.add(name, fill)
        except Unchanged:
            assert at_hand is not None
            return at_hand[0]

    def prefetch(self, keys: Iterable[tuple[str, str]]) -> None:
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(AHEAD, "prefetch")
            for key, sha256 in keys:
                if key not in self._coming:
                    self._coming[key] = self._pool.submit(self._copy, key, sha256, False)
                    self._coming[key].add_done_callback(partial(self._came, key))

    def _came(self, key: str, _: Future[Path]) -> None:
        self._coming.pop(key, None)

    # -- writing

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._writer.put(self._key(key), data)

    def put(self, key: str, data: bytes) -> None:
        kind = CONTENT_TYPES.get(Path(key).suffix, "application/octet-stream")
        if not self._writer.put(self._key(key), data, over=True, content_type=kind):
            raise StorageError(f"{self.url}/{key}: could not be written. Run the same command again.")

    def publish(self, path: Path, key: str) -> bool:
        return self._writer.upload(path, self._key(key))

    def delete(self, key: str) -> None:
        full = self._key(key)
        with contextlib.suppress(FileNotFoundError), explained(self._uri(full)):
            self.client.delete_object(Bucket=self.bucket, Key=full)

    def prune(self, folders: Iterable[str]) -> None:
        """A bucket has no folders."""

    def sweep(self, before: float, dry_run: bool = False) -> Sequence[str]:
        full = f"{self.prefix}/" if self.prefix else ""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=full)
        found = []
        with explained(self._uri(full)):
            uploads = patiently(lambda: [u for page in pages for u in page.get("Uploads", ())], self._uri(full))
            for upload in uploads:
                if upload["Initiated"].timestamp() <= before and upload["Key"].startswith(full):
                    found.append(f"{upload['Key'][len(full) :]} (an upload that never ended)")
                    if not dry_run:
                        where = {"Bucket": self.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                        with contextlib.suppress(self.client.exceptions.NoSuchUpload):
                            self.client.abort_multipart_upload(**where)
        return found + self._folders.sweep(before, dry_run)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        with self.cache.scratch() as folder:
            yield folder

    def fetch_folder(self, key: str) -> Path:
        return self._folders.fetch(key)

    def put_folder(self, key: str, path: Path) -> None:
        self._folders.put(key, path)
