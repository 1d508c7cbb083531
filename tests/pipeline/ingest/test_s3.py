"""S3 as a source: lists, single images, tars and prefixes; a bad key costs its sample, a bad store ends the run."""

from __future__ import annotations

import base64
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zlib import crc32

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto import mock_aws

from labelers.core.images import DEFAULT_LIMITS
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, StorageError
from pipeline.ingest import s3
from pipeline.ingest.candidate import MAX_SIDECAR, Payload
from pipeline.ingest.ingest import ingest
from pipeline.storage.s3_client import ATTEMPTS
from tests.pipeline.ingest.gather import good, laion, photo, reasons, samples, source, write_tar_of
from tests.world import snapshot

CANARY = "canary-s3cret-7f2b"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials of nobody, no pauses between attempts, and nothing of the machine's own AWS settings."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "AWS_ACCESS_KEY_ID": "AKIANOBODY", "AWS_SECRET_ACCESS_KEY": CANARY, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"), "NO_PROXY": "127.0.0.1",
        "MANYMODAL_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An empty bucket "lab" of moto's; call it with key=bytes pairs to fill it."""
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="lab")

        def put(objects: dict[str, bytes]) -> None:
            for key, data in objects.items():
                client.put_object(Bucket="lab", Key=key, Body=data)

        yield put


def listed(folder: Path, *entries: str, captions: list[str | None] | None = None) -> Path:
    path = folder / "list.parquet"
    pq.write_table(pa.table({"uri": list(entries), "caption": captions or [None] * len(entries)}), path)
    return path


def test_images_of_a_list(bucket: Any, tmp_path: Path) -> None:
    keys = ["a.png", "with space/b+c.png", "ü/图.png", "per%20cent#?.png"]
    bucket({key: photo(i) for i, key in enumerate(keys)} | {"a.txt": b"beside it"})
    (tmp_path / "local.png").write_bytes(photo(9))
    rows = [*(f"s3://lab/{key}" for key in keys), "local.png"]
    found = source(listed(tmp_path, *rows, captions=["of the list", None, None, None, "c"]))
    assert good(found) == [photo(0), photo(1), photo(2), photo(3), photo(9)]
    assert [uri for uri, _ in found][:2] == ["s3://lab/a.png", "s3://lab/with space/b+c.png"]
    assert [uri for uri, _ in found][2:4] == ["s3://lab/%C3%BC/%E5%9B%BE.png", "s3://lab/per%2520cent#?.png"]
    assert found[0][1] == Payload(photo(0), {"txt": b"of the list"})
    assert found[1][1] == Payload(photo(1), {})


def test_bad_keys_have_reasons_and_cost_no_neighbour(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "DEFAULT_LIMITS", type(DEFAULT_LIMITS)(max_bytes=1000))
    bucket({"a.png": photo(0), "z.png": photo(1), "large.png": bytes(1001), "limit.png": bytes(1000)})
    bad = {
        "s3://lab/absent.png": "missing", "s3://lab/large.png": "too_many_bytes", "s3://lab/": "bad_name",
        "s3://lab": "bad_name", "s3://": "bad_name", "s3:///key.png": "bad_name", "s3://no such/a.png": "bad_name",
        "s3://lab/" + "k" * 1025: "bad_name", "s3://../a.png": "bad_name",
    }  # fmt: skip
    found = source(listed(tmp_path, "s3://lab/a.png", *bad, "S3://lab/z.png", "s3://lab/limit.png"))
    assert reasons(found) == list(bad.values())
    assert good(found) == [photo(0), photo(1), bytes(1000)]


def test_an_archived_object_is_a_reason(bucket: Any, tmp_path: Path) -> None:
    boto3.client("s3").put_object(Bucket="lab", Key="cold.png", Body=photo(0), StorageClass="GLACIER")
    assert reasons(source(listed(tmp_path, "s3://lab/cold.png"))) == ["archived"]


def test_a_prefix_is_a_folder(bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tar = write_tar_of(tmp_path / "x.tar", laion(2, first=20)).read_bytes()
    bucket({
        "p/a.png": photo(0), "p/a.txt": b"a", "p/a.b.png": photo(1), "p/a.b.json": b"{}", "p/a-c.png": photo(2),
        "p/deep/er/.hidden.png": photo(3), "p/deep/er/.hidden.txt": b"h", "p/notes.md": b"no", "p/t/x.tar": tar,
        "p/folder.png/": b"", "p2/no.png": photo(8), "q.png": photo(9), "p": b"", "p/z.png": photo(4),
        "p/z.json": bytes(MAX_SIDECAR + 1),
    })  # fmt: skip
    for spec in ("s3://lab/p", "s3://lab/p/"):
        found = source(spec)
        got = {uri.removeprefix("s3://lab/p/"): payload for uri, payload in found}
        assert got.pop("z.png") == "bad_sidecar"
        assert got == {
            "a-c.png": Payload(photo(2), {}), "a.b.png": Payload(photo(1), {"json": b"{}"}),
            "a.png": Payload(photo(0), {"txt": b"a"}), "deep/er/.hidden.png": Payload(photo(3), {"txt": b"h"}),
            "t/x.tar#000000020.png": Payload(photo(20), {"txt": b"caption 20", "json": b'{"key": "000000020"}'}),
            "t/x.tar#000000021.png": Payload(photo(21), {"txt": b"caption 21", "json": b'{"key": "000000021"}'}),
        }  # fmt: skip
        assert [uri for uri, _ in found] == sorted(uri for uri, _ in found)
    assert len(good(source("s3://lab"))) == 8
    assert source("s3://lab/nothing") == []


def test_a_prefix_of_many_pages(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "7")
    bucket({f"p/{i:04d}.{ext}": photo(i) if ext == "png" else b"%d" % i for i in range(10) for ext in ("png", "txt")})
    assert boto3.client("s3").list_objects_v2(Bucket="lab")["IsTruncated"]
    found = source("s3://lab/p")
    assert [payload for _, payload in found] == [Payload(photo(i), {"txt": b"%d" % i}) for i in range(10)]


def test_tars_and_single_images(bucket: Any, tmp_path: Path) -> None:
    tars = [write_tar_of(tmp_path / f"{i}.tar", laion(1, first=i)).read_bytes() for i in range(3)]
    bucket({f"t/{i}.tar": tar for i, tar in enumerate(tars)} | {"a.png": photo(7), "cut.tar": tars[0][:1200]})
    assert good(source("s3://lab/t/2.tar")) == [photo(2)]
    found = source("s3://lab/t/{0..3}.tar")
    assert good(found) == [photo(0), photo(1), photo(2)]
    assert found[-1] == ("s3://lab/t/3.tar", "missing")
    assert good(source("s3://lab/a.png")) == [photo(7)]
    assert source("s3://lab/cut.tar")[-1] == ("s3://lab/cut.tar", "truncated_tar")


def test_lists_in_a_bucket(bucket: Any, tmp_path: Path) -> None:
    text = b"a.png\n../top.png\n/other/b.png\ns3://lab/top.png\nno.png\n"
    table = listed(tmp_path, "a.png", "  ", captions=["of the list", None]).read_bytes()
    photos = {"lists/a.png": photo(0), "top.png": photo(1), "other/b.png": photo(2)}
    bucket(
        {"lists/l.txt": text, "lists/l.parquet": table, "lists/l.csv": b"path\na.png\n", "bad.parquet": b"no"} | photos
    )
    found = source("s3://lab/lists/l.txt")
    assert good(found) == [photo(0), photo(1), photo(2), photo(1)]
    assert [uri for uri, _ in found][1] == "s3://lab/top.png" and found[-1] == ("s3://lab/lists/no.png", "missing")
    found = source("s3://lab/lists/l.parquet")
    assert found[0][1] == Payload(photo(0), {"txt": b"of the list"})
    assert found[1] == ("s3://lab/lists/l.parquet#row%3D2", "empty_entry")
    assert good(source("s3://lab/lists/l.csv")) == [photo(0)]
    bucket({"lists/l.csv": b"path\n../top.png\n"})
    assert good(source("s3://lab/lists/l.csv")) == [photo(1)], "a list that was written again is fetched again"
    for spec, says in (("s3://lab/gone.txt", "no such list"), ("s3://lab/bad.parquet", "cannot be read as a list")):
        with pytest.raises(ConfigError, match=f"{spec}: {says}"):
            source(spec)


@pytest.mark.parametrize("spec", ["s3://", "s3:///x", "s3://no such bucket/x"])
def test_sources_that_are_none_are_refused_at_once(spec: str) -> None:
    with pytest.raises(ConfigError) as found:
        source(spec)
    assert spec in str(found.value)


def test_ingest_twice_from_a_bucket(bucket: Any, tmp_path: Path) -> None:
    bucket({f"p/{i}.png": photo(i) for i in range(6)} | {"p/1_again.png": photo(1), "p/bad.png": b"no"})
    ds = Dataset.create(str(tmp_path / "ds"), "x", 4)
    report = ingest(ds, ["s3://lab/p"])
    assert (report.new, len(samples(ds))) == (6, 6)
    assert report.duplicates == [("s3://lab/p/1_again.png", "s3://lab/p/1.png")]
    assert [(uri, reason) for uri, reason, _ in report.quarantined] == [("s3://lab/p/bad.png", "not_an_image")]
    before = snapshot(tmp_path / "ds")
    assert (ingest(ds, ["s3://lab/p"]).known, snapshot(tmp_path / "ds")) == (6, before)


def test_no_such_bucket_ends_the_run(bucket: Any, tmp_path: Path) -> None:
    for spec in ("s3://labb/p", str(listed(tmp_path, "s3://labb/a.png"))):
        with pytest.raises(StorageError, match=r"s3://labb/.*no such bucket") as found:
            source(spec)
        assert found.value.exit_code == 4


# -- a store that misbehaves: a server of our own on the loopback, answering as it is told

Answer = tuple[int, bytes, dict[str, str]]  # status, body, headers


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Call it with the answers to give, the last one again and again; returns the list of requests it got."""
    answers: list[Answer] = []
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
            requests.append(self.path)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")

    def will_answer(*script: Answer) -> list[str]:
        answers[:] = script
        return requests

    yield will_answer
    server.shutdown()
    thread.join()
    server.server_close()


def error(status: int, code: str) -> Answer:
    text = f"<Error><Code>{code}</Code><Message>{CANARY}</Message><AWSAccessKeyId>AKIANOBODY</AWSAccessKeyId></Error>"
    return status, text.encode(), {}


WHOLE: Answer = (200, photo(3), {})
SHORT: Answer = (200, photo(3)[:100], {"Content-Length": str(len(photo(3)))})
FLIPPED: Answer = (
    200,
    photo(3)[:-1] + b"?",
    {"x-amz-checksum-crc32": base64.b64encode(crc32(photo(3)).to_bytes(4, "big")).decode()},
)
NOTHING: Answer = (200, b"", SHORT[2])
HUGE: Answer = (200, b"x", {"Content-Length": str(DEFAULT_LIMITS.max_bytes + 1)})


@pytest.mark.parametrize("trouble", [SHORT, FLIPPED, NOTHING, error(500, "InternalError"), error(503, "SlowDown")])
def test_trouble_that_passes_is_no_trouble(store: Callable[..., list[str]], trouble: Answer) -> None:
    requests = store(trouble, trouble, WHOLE)
    assert good(source("s3://lab/a.png")) == [photo(3)]
    assert requests == ["/lab/a.png"] * 3


def test_a_read_that_is_always_short_ends_the_run(store: Callable[..., list[str]]) -> None:
    requests = store(SHORT)
    with pytest.raises(StorageError, match=r"s3://lab/a\.png: arrived short or damaged 8 times"):
        source("s3://lab/a.png")
    assert len(requests) == ATTEMPTS


@pytest.mark.parametrize(
    ("answer", "words", "attempts"),
    [
        (error(500, "InternalError"), "InternalError.*resumes", ATTEMPTS),
        (error(503, "SlowDown"), "SlowDown.*resumes", ATTEMPTS),
        (error(403, "AccessDenied"), "refuses the credentials.*AccessDenied", 1),
        (error(403, "InvalidAccessKeyId"), "refuses the credentials", 1),
        (error(403, "SignatureDoesNotMatch"), "refuses the credentials", 1),
        (error(400, "ExpiredToken"), "refuses the credentials", 1),
        (error(400, "Weird<b>\n"), "S3 answered", 1),
    ],
)
def test_trouble_that_stays(
    store: Callable[..., list[str]], answer: Answer, words: str, attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    requests = store(answer)
    caplog.set_level(logging.INFO)
    for spec in ("s3://lab/a.png", "s3://lab/x.tar", "s3://lab/p"):
        requests.clear()
        with pytest.raises(StorageError, match=words) as found:
            source(spec)
        assert found.value.exit_code == 4
        shown = "".join(traceback.format_exception(found.value))
        assert CANARY not in shown + caplog.text
        assert "\n" not in str(found.value)
        assert len(requests) == attempts


def test_an_object_beyond_the_limit_is_not_fetched(store: Callable[..., list[str]]) -> None:
    store(HUGE)  # of which not even the announced bytes come: to read them would fail otherwise
    assert reasons(source("s3://lab/a.png")) == ["too_many_bytes"]


def test_an_unreachable_endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{CANARY}@127.0.0.1:1/")
    for spec in ("s3://lab/p", "s3://lab/x.tar", str(listed(tmp_path, "s3://lab/a.png"))):
        with pytest.raises(StorageError, match="cannot be reached") as found:
            source(spec)
        assert CANARY not in str(found.value)


def test_an_endpoint_that_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", CANARY)
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL") as found:
        source("s3://lab/a.png")
    assert CANARY not in str(found.value)


def test_no_credentials_at_all(monkeypatch: pytest.MonkeyPatch, store: Callable[..., list[str]]) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    requests = store(WHOLE)
    with pytest.raises(StorageError, match=r"no usable AWS credentials.*Set AWS_PROFILE"):
        source("s3://lab/a.png")
    assert requests == []


def test_a_list_that_comes_out_of_order_is_refused(store: Callable[..., list[str]]) -> None:
    keys = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in ("p/b.png", "p/a.png"))
    store((200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{keys}</ListBucketResult>".encode(), {}))
    with pytest.raises(StorageError, match="out of order"):
        source("s3://lab/p")
