"""F7 to F11 on a real S3 server behind a proxy that misbehaves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.care.garbage import collect
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, ManymodalError, StorageError
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from pipeline.storage.s3 import S3Storage
from tests.faults.proxy import Proxy, proxy
from tests.seaweed import READER, READER_SECRET, SECRET, Server
from tests.world import assert_world, fake_config, fake_photos, snapshot

EACH = dict.fromkeys(("500", "503", "429", "drop", "latency", "reset", "cut", "short", "flip"), 0.2)
COMMITS = r"PUT .*fake_map@\w+/_commits/shard-"


@pytest.fixture
def between(s3: str, s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy between this process and the server; it lets everything pass until told otherwise."""
    with proxy((s3_server.host, s3_server.port), seed=int(os.environ.get("MANYMODAL_SEED", "1"))) as state:
        monkeypatch.setenv("AWS_ENDPOINT_URL", state.url)
        yield state


def world(url: str, tmp_path: Path, photos: int = 10) -> tuple[str, list[str]]:
    """An ingested data set in the bucket, nothing labelled; its root and ids."""
    root = f"{url}/lab/ds"
    ds = Dataset.create(root, "w", 5)
    ingest(ds, [str(fake_photos(tmp_path / "photos", photos))])
    return root, [i for k in ds.shards() for i in ds.ids(k)]


@pytest.mark.parametrize("fault", EACH)
def test_f8_f10_a_fifth_of_all_requests_goes_wrong(s3: str, between: Proxy, tmp_path: Path, fault: str) -> None:
    between.becomes({fault: EACH[fault]})
    root, ids = world(s3, tmp_path)
    report = label(Dataset.open(root), fake_config(root))
    assert (report.failed, report.done) == (0, 4), report.errors
    assert between.done[fault] >= 10, f"the proxy did its part: {between.done}"
    between.becomes({})
    assert_world(root, ids, fake_config(root))


@pytest.mark.parametrize("fault", ["500", "503", "429", "drop", "reset", "short"])
def test_f8_every_request_goes_wrong_twice(s3: str, between: Proxy, tmp_path: Path, fault: str) -> None:
    between.becomes({fault: 1.0}, times=2)
    root, ids = world(s3, tmp_path, 5)
    assert label(Dataset.open(root), fake_config(root)).failed == 0
    between.becomes({})
    assert_world(root, ids, fake_config(root))


def test_f7_a_lost_answer_to_a_commit_neither_doubles_nor_deletes(
    s3: str, between: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ids = world(s3, tmp_path)
    between.becomes({"drop": 1.0}, only=COMMITS)  # every attempt of these commits takes effect unheard
    report = label(Dataset.open(root), fake_config(root))
    assert report.failed == 0, "the record is looked at, and found to be ours"
    assert between.done["drop"] >= 2
    before = snapshot(root)
    between.becomes({})
    assert_world(root, ids, fake_config(root))
    after = snapshot(root)
    assert {key: after.get(key) for key in before} == before, "nothing was deleted or written again"


def test_f7_an_outcome_that_stays_unknown_deletes_nothing(
    s3: str, between: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    root, ids = world(s3, tmp_path)
    between.becomes({"drop": 1.0}, only=r"(PUT|HEAD) .*fake_map@\w+/_commits/")  # and it cannot be looked at either
    with pytest.raises(StorageError, match="same command resumes"):
        label(Dataset.open(root), fake_config(root))
    before = {key: stamp for key, stamp in snapshot(root).items() if "/_runs/" not in key}
    assert any(re.search(r"fake_map@\w+/_commits/shard-", key) for key in before), "it took effect"
    between.becomes({})
    report = label(Dataset.open(root), fake_config(root))
    assert report.failed == 0
    after = snapshot(root)
    assert {key: after.get(key) for key in before} == before, "what took effect is still there, untouched"
    assert_world(root, ids, fake_config(root))


def test_f8_trouble_for_ever_ends_with_exit_4_and_resumes(s3: str, between: Proxy, tmp_path: Path) -> None:
    root, ids = world(s3, tmp_path)
    between.becomes({"503": 1.0}, only=COMMITS)
    command = [sys.executable, "-c", RUN_LABEL, root]
    settings = {**os.environ, "AWS_MAX_ATTEMPTS": "3"}
    run = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 4, run.stderr
    assert re.search(r"S3 answered SlowDown to 3 attempts at most\. Run the same command again", run.stderr), run.stderr
    assert "Traceback" not in run.stderr and SECRET not in run.stderr
    between.becomes({})
    assert label(Dataset.open(root), fake_config(root)).failed == 0
    assert_world(root, ids, fake_config(root))


# The command `label` as the command line has it, with the fake labelers.
RUN_LABEL = """
import sys
import pipeline.cli.data as data
from pipeline.cli import main
from tests.world import fake_config
data.settings = lambda target, *_: fake_config(target)
sys.argv = ["manymodal", "label", sys.argv[1]]
main.main()
"""


def test_f10_half_a_body_at_a_time_is_enough_and_wrong_bytes_never_are(s3: str, between: Proxy, tmp_path: Path) -> None:
    storage, whole = S3Storage(s3), os.urandom(3 << 20)
    storage.put_if_absent("rgb/x.tar", whole)
    for fault in ("short", "cut", "reset"):
        between.becomes({fault: 1.0}, times=3)
        assert storage.local("rgb/x.tar", fresh=True).read_bytes() == whole
        assert between.done[fault] == 3
    between.becomes({"flip": 1.0})
    for call in (storage.read_bytes, lambda key: storage.local(key, fresh=True)):
        with pytest.raises(StorageError, match=r"rgb/x\.tar: arrived short or damaged 8 times"):
            call("rgb/x.tar")


def test_f10_large_files_are_resumed_where_they_broke_off(
    s3: str, between: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.s3_write.WHOLE", 5 << 20)
    monkeypatch.setattr("pipeline.storage.s3_write.PART", 5 << 20)
    monkeypatch.setattr("pipeline.storage.s3_read.PART", 3 << 20)
    data = os.urandom(17 << 20)
    (tmp_path / "large").write_bytes(data)
    storage = S3Storage(s3)
    for fault in ("503", "drop", "reset"):
        between.becomes({fault: 0.4})
        assert storage.publish(tmp_path / "large", fault)
        assert storage.local(fault, fresh=True).read_bytes() == data
        assert between.done[fault] >= 1
    left = storage.sweep(time.time() + 60)
    assert {name.split()[0] for name in left} <= {"drop"}, "only an upload whose id was never heard is left behind"
    assert storage.sweep(time.time() + 60) == []
    assert storage.read_bytes("drop") == data, "and sweeping harms no object"


def test_f6_racing_multipart_uploads_leave_the_file_of_a_winner(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.s3_write.WHOLE", 1 << 20)
    storage, paths = S3Storage(s3), [tmp_path / str(i) for i in range(6)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * (2 << 20))
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda path: storage.publish(path, "k"), paths))
    # One on a store that keeps its promise; this one has let two through (see s3_write).
    assert storage.read_bytes("k") in [path.read_bytes() for path, ours in zip(paths, won, strict=True) if ours]
    assert 1 <= won.count(True) <= 3
    assert storage.sweep(time.time() + 60) == [], "losers end their uploads"


UPLOAD = """
import pathlib, sys
from pipeline.storage import s3_write
from pipeline.storage.s3 import S3Storage
s3_write.WHOLE = s3_write.PART = 5 << 20
S3Storage(sys.argv[1]).publish(pathlib.Path(sys.argv[2]), "rgb/shard-000000.tar")
"""


def test_f11_killed_in_a_multipart_upload(s3: str, between: Proxy, tmp_path: Path) -> None:
    root, _ = world(s3, tmp_path)
    ds = Dataset.open(root)
    (tmp_path / "large").write_bytes(bytes(16 << 20))
    between.becomes({"drop": 1.0}, only="PUT .*other/rgb/.*partNumber=3")  # so it never ends
    process = subprocess.Popen([sys.executable, "-c", UPLOAD, f"{root}/other", str(tmp_path / "large")])
    try:
        for _ in range(2000):
            if between.done["drop"]:
                break
            time.sleep(0.01)  # bounded; the moment to strike is in the middle of the upload
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    between.becomes({})
    assert ds.storage.list("other") == {}, "invisible"
    assert ds.storage.sweep(time.time() - 3600) == [], "it may still be at work"
    assert collect(ds, hours=-1) == ["other/rgb/shard-000000.tar (an upload that never ended)"]
    assert ds.storage.sweep(time.time() + 60) == []


# -- F9: what no repetition mends is said at once, in one sentence, without secrets


@pytest.mark.parametrize(
    ("settings", "bucket", "says", "code"),
    [
        ({}, "no-such-bucket-here", "there is no such bucket", 4),
        ({"AWS_SECRET_ACCESS_KEY": "canary-wrong"}, "", r"refuses the credentials \(SignatureDoesNotMatch\)", 4),
        ({"AWS_ACCESS_KEY_ID": "AKIDNOBODY"}, "", r"refuses the credentials \(InvalidAccessKeyId\)", 4),
        (
            {"AWS_ACCESS_KEY_ID": READER, "AWS_SECRET_ACCESS_KEY": READER_SECRET},
            "", r"refuses the credentials \(AccessDenied\).*rights on this bucket", 4,
        ),
        ({"AWS_ENDPOINT_URL": f"http://user:{SECRET}@127.0.0.1:1"}, "", "cannot be reached", 4),
        ({"AWS_ENDPOINT_URL": SECRET}, "", "AWS_ENDPOINT_URL", 2),
        ({"AWS_MAX_ATTEMPTS": "many"}, "", "AWS_MAX_ATTEMPTS", 2),
        ({"AWS_PROFILE": "nobody"}, "", "AWS_PROFILE", 2),
    ],
)  # fmt: skip
def test_f9_what_no_repetition_mends(
    s3: str, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], bucket: str, says: str, code: int
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    with pytest.raises(ManymodalError, match=says) as found:
        Dataset.create(f"s3://{bucket}" if bucket else f"{s3}/ds", "w", 5)
    assert time.monotonic() - start < 15, "at once, on a machine however busy"
    assert found.value.exit_code == code
    shown = "".join(traceback.format_exception(found.value))
    assert "canary" not in shown and "\n" not in str(found.value)


def test_f9_codes_a_local_server_does_not_give(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.storage.s3_client import explained

    for code, says in {
        "ExpiredToken": "have expired. Renew them", "RequestTimeTooSkewed": "clock of this machine",
        "PermanentRedirect": "another region.*AWS_REGION", "AuthorizationHeaderMalformed": "another region",
    }.items():  # fmt: skip
        from botocore.exceptions import ClientError

        error = ClientError({"Error": {"Code": code, "Message": "canary"}}, "PutObject")
        with pytest.raises(StorageError, match=says) as found, explained("s3://b/k"):
            raise error
        assert "canary" not in "".join(traceback.format_exception(found.value))


@pytest.mark.parametrize("url", ["s3://", "s3:///x", f"s3://AKID:{SECRET}@bucket/x", "s3://b/x", "s3://bucket/a/../b"])
def test_f9_urls_that_name_no_prefix(url: str) -> None:
    with pytest.raises(ConfigError, match="s3://bucket/prefix") as found:
        S3Storage(url)
    assert SECRET not in str(found.value)


def test_a_store_that_overwrites_is_refused(s3: str, between: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.storage.s3_client import connect

    def forget(params: dict[str, object], **_: object) -> None:
        params["headers"].pop("If-None-Match", None)  # type: ignore[attr-defined]

    connect().meta.events.register("before-call.s3", forget)
    with pytest.raises(ConfigError, match="overwrites objects although asked not to"):
        Dataset.create(f"{s3}/ds", "w", 5)
    assert snapshot(f"{s3}/ds") == {}, "nothing was created"
