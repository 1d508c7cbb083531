"""The one S3 client, for sources and data sets alike: how it is made, what it repeats, and its errors as sentences.

Credentials, region, profile and endpoint come from where boto3 always looks (AWS_PROFILE, AWS_ENDPOINT_URL,
~/.aws/config, a role of the machine); none of them is ever quoted, and neither is what the server said, for either may
hold a secret. Repeated, with growing pauses and jitter: 500, 502, 503, 504, 429, conflicts of concurrent writes, resets
and time-outs, AWS_MAX_ATTEMPTS times in all. Everything else ends at once.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote

from pipeline.errors import ConfigError, ManymodalError, StorageError

T = TypeVar("T")
ATTEMPTS = 8  # of one request; at 20 % trouble, one in 400,000 requests fails
LONGEST_PAUSE_S = 20
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # stays as it is, so that most URIs can be listed again
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
EXPIRED = {"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException"}
REFUSED = {
    "AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
    "401", "403",
}  # fmt: skip
ELSEWHERE = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}
ELSEWHERE |= {"301", "307"}
TRANSIENT = {429, 500, 502, 503, 504}
PASSING = {
    "ConditionalRequestConflict", "OperationAborted",  # 409: another writer is at the same key at this moment
    "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequestsException", "BandwidthLimitExceeded",
}  # fmt: skip


OF_THE_KEY = {
    "KeyTooLongError": ("bad_name", "the key is too long"),
    "InvalidObjectState": ("archived", "the object is archived; restore it first"),
}


class BadKey(StorageError):
    """It is not the store that is wrong, but this one key. reason: a word, as the quarantine keeps it; detail: why."""

    def __init__(self, uri: str, reason: str, detail: str) -> None:
        super().__init__(f"{shown(uri)}: {detail}")
        self.uri, self.reason, self.detail = uri, reason, detail

    def __reduce__(self) -> tuple[type[BadKey], tuple[str, str, str]]:
        return BadKey, (self.uri, self.reason, self.detail)  # survives the way back from a worker process


def connect() -> Any:
    """The client of this process and these AWS settings; its `counts` has the number of requests sent, by operation.

    Safe to use from several threads, and after a fork. ConfigError where the settings cannot be used.
    """
    settings = sorted(pair for pair in os.environ.items() if pair[0].startswith("AWS_"))
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()  # new keys make a new client, and are not kept here
    return _client(os.getpid(), digest)


@lru_cache(maxsize=8)
def _client(pid: int, settings: str) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=10, read_timeout=30,
        max_pool_connections=32, tcp_keepalive=True,
    )  # fmt: skip
    try:
        client = boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise ConfigError(
            f"S3: the AWS settings cannot be used ({type(error).__name__}). "
            "Check AWS_ENDPOINT_URL, AWS_PROFILE and ~/.aws/config."
        ) from None
    max_attempts()  # what is wrong with it is said now
    client.counts = Counter()

    def count(event_name: str, **_: Any) -> None:
        client.counts[event_name.rsplit(".", 1)[-1]] += 1

    client.meta.events.register("before-send.s3", count)
    client.meta.events.register_first("needs-retry.s3", _again)
    return client


def max_attempts() -> int:
    """Attempts of one request. ConfigError where AWS_MAX_ATTEMPTS is no number."""
    text = os.environ.get("AWS_MAX_ATTEMPTS", str(ATTEMPTS))
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise ConfigError("AWS_MAX_ATTEMPTS: is no number from 1 to 100. Correct it, or leave it out.")
    return int(text)


def pause(attempt: int) -> float:
    """Seconds to wait after the attempt of that number, from 1: exponential, with full jitter."""
    from botocore.retries.standard import ExponentialBackoff, RetryContext

    return float(ExponentialBackoff(LONGEST_PAUSE_S).delay_amount(RetryContext(attempt_number=attempt)))


def _again(response: Any, attempts: int, caught_exception: Exception | None = None, **_: Any) -> float | None:
    """Seconds until the next attempt, or None where there is none.

    Instead of botocore's own rules, which stop after a hundred or so repetitions in a row of requests that succeed in the
    end, and do not know 429 under every name, nor races of conditional writes.
    """
    from botocore.exceptions import ConnectionError, HTTPClientError, SSLError

    if response is None:
        passes = isinstance(caught_exception, ConnectionError | HTTPClientError) and not isinstance(
            caught_exception, SSLError
        )
    else:
        code = response[1].get("Error", {}).get("Code")
        passes = response[0].status_code in TRANSIENT or code in PASSING
    return pause(attempts) if passes and attempts < max_attempts() else None


def patiently(call: Callable[[], T], uri: str) -> T:
    """The answer of a request whose XML may arrive cut: asked for again, which botocore does not do."""
    from botocore.parsers import ResponseParserError

    for attempt in range(1, max_attempts() + 1):
        try:
            return call()
        except ResponseParserError:
            time.sleep(pause(attempt))
    raise StorageError(
        f"{shown(uri)}: S3 answers what cannot be read. Check AWS_ENDPOINT_URL; the same command resumes."
    )


def listed(client: Any, bucket: str, prefix: str, delimiter: str = "") -> Iterator[Any]:
    """The pages of a listing, in the order of keys. StorageError."""
    where = {"Bucket": bucket, "Prefix": prefix, **({"Delimiter": delimiter} if delimiter else {})}
    uri, more = f"s3://{bucket}/{prefix}", dict[str, str]()
    while True:
        with explained(uri):
            page = patiently(lambda: client.list_objects_v2(**where, **more), uri)  # noqa: B023, called at once
        yield page
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def code_of(error: Any) -> str:
    """The code of a ClientError, as a word that can be printed."""
    return re.sub(r"\W", "", str(error.response.get("Error", {}).get("Code", "")))[:40]


def status_of(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def repeated(error: Any) -> bool:
    """Whether the request was sent more than once, so that an earlier attempt may have taken effect."""
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0


def shown(uri: str) -> str:
    """A URI as the index keeps it: ASCII only; the key otherwise as it is."""
    return quote(uri, safe=_PLAIN, errors="surrogateescape")


def failure(error: Exception, uri: str) -> ManymodalError:
    """What boto3 raised, as one sentence about the store, to be raised `from None`."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return StorageError(f"{shown(uri)}: {_why(code_of(error))}")
    kind = type(error).__name__
    if "Credential" in kind or "Token" in kind or "SSO" in kind:
        why = f"there are no usable AWS credentials ({kind}). Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret."
    else:
        why = f"S3 cannot be reached ({kind}). Check the network and AWS_ENDPOINT_URL; the same command resumes."
    return StorageError(f"{shown(uri)}: {why}")


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Raise what goes wrong with the store as a StorageError, a key that is absent as FileNotFoundError, another trouble
    of one key as BadKey.
    """
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        yield
    except ParamValidationError:
        raise BadKey(uri, "bad_name", "no object has such a name") from None
    except ClientError as error:
        if code_of(error) in OF_THE_KEY:
            raise BadKey(uri, *OF_THE_KEY[code_of(error)]) from None
        if code_of(error) in ("NoSuchKey", "404"):
            raise FileNotFoundError(2, "no such key", shown(uri)) from None
        raise failure(error, uri) from None
    except BotoCoreError as error:
        raise failure(error, uri) from None


def _why(code: str) -> str:
    """A sentence about an error code of S3 that is not about one key."""
    if code == "NoSuchBucket":
        return "there is no such bucket. Check its name and AWS_ENDPOINT_URL."
    if code in CLOCK:
        return f"the clock of this machine is wrong by minutes ({code}). Set it (NTP), then run the same command again."
    if code in EXPIRED:
        return f"S3 refuses the credentials ({code}): they have expired. Renew them; the same command resumes."
    if code in REFUSED:
        return f"S3 refuses the credentials ({code}). Check them, and their rights on this bucket (see infra/iam)."
    if code in ELSEWHERE:
        return f"the bucket lies in another region ({code}). Set AWS_REGION to it."
    if code in ("NotImplemented", "501"):
        return "this store does not know a request that is needed. Use one that refuses overwrites (If-None-Match: *)."
    return f"S3 answered {code or 'an error'} to {max_attempts()} attempts at most. Run the same command again; it resumes."
