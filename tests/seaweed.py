"""A real S3 server for tests: SeaweedFS on the loopback, its data in a temporary folder, ended by its process id."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY, SECRET = "AKIDTESTADMIN", "canary-seaweed-5f1e9c"
READER, READER_SECRET = "AKIDTESTREADER", "canary-reader-77d0b2"
UP_S = 30.0
PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port",
         "s3.port.grpc")  # fmt: skip


@dataclass(frozen=True)
class Server:
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def client(self, key: str = KEY, secret: str = SECRET) -> Any:
        """A plain client, beside everything the project does."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1"
        )

    def environment(self, folder: Path, url: str = "") -> dict[str, str]:
        """What a process needs to work on this server and on nothing else of this machine."""
        return {
            "AWS_ENDPOINT_URL": url or self.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1",
            "AWS_CONFIG_FILE": str(folder / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
            "MANYMODAL_CACHE": str(folder / "cache"),
        }  # fmt: skip


def find_weed() -> str | None:
    """The server's program, which comes with the development dependencies where there is a build of it."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def seaweed(folder: Path, weed: str) -> Iterator[Server]:
    """The server, up in about four seconds. RuntimeError with the end of its log where it does not come up."""
    identities = [
        {"name": "admin", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
         "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
        {"name": "reader", "credentials": [{"accessKey": READER, "secretKey": READER_SECRET}],
         "actions": ["Read", "List"]},
    ]  # fmt: skip
    settings, log = folder / "s3.json", folder / "log"
    settings.write_text(json.dumps({"identities": identities}))
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    command = [
        weed, "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
        *(f"-{name}={port}" for name, port in ports.items()), f"-s3.config={settings}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-volume.max=400", "-master.volumeSizeLimitMB=256", "-master.electionTimeout=1s", "-master.telemetry=false",
    ]  # fmt: skip
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stderr=sink, stdout=sink, start_new_session=True)
    server = Server("127.0.0.1", ports["s3.port"])
    try:
        _await(server, process, log)
        yield server
    finally:
        process.kill()  # it takes its time over SIGTERM, and its data is thrown away
        process.wait()


def _await(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it can store something."""
    client, end = server.client(), time.monotonic() + UP_S
    while True:
        try:
            client.create_bucket(Bucket="first")
            client.put_object(Bucket="first", Key="x", Body=b"x")
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"SeaweedFS did not come up: {error}; {log.read_text()[-500:]}") from error
        time.sleep(0.1)  # bounded by UP_S
