"""`ray job submit --working-dir . -- manymodal ...` from a clean copy of the sources, on a cluster with token
authentication, as the README prints it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from tests.world import fake_photos

pytestmark = pytest.mark.ray

REPO = Path(__file__).resolve().parents[3]
SLOW = ("dinov2", "human_poses", "minilm_caption", "maskcut", "metadata")
ONLY = [f"--set=labelers.{name}.enabled=false" for name in SLOW]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clean clone holds."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=False
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git repository")
    folder = tmp_path_factory.mktemp("clone")
    for name in listed.stdout.splitlines():
        if not name.startswith("tests/") and (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head node of its own, with a token of its own; the environment in which its commands work."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    gcs, dashboard, agent, metrics, runtime, client = free_ports(6)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    env |= {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    words = [
        "ray", "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={gcs}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={runtime}",
        f"--ray-client-server-port={client}",
    ]  # fmt: skip
    started = {name: value for name, value in env.items() if name != "RAY_ADDRESS"}
    head = subprocess.Popen(words, env=started, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)
    assert head.stdout is not None
    said = ""
    while "Ray runtime started" not in said:
        line = head.stdout.readline()
        assert line, said
        said += line
    env["METRICS"] = f"http://127.0.0.1:{metrics}/metrics"
    yield env
    for pid in descendants(head.pid)[::-1]:  # by their numbers: `ray stop` would end every cluster of this machine
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    head.communicate(timeout=20)


def descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:  # grows on the way
        with contextlib.suppress(FileNotFoundError):
            found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return found


def submit(env: dict[str, str], sources: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["ray", "job", "submit", "--working-dir", ".", "--", *words]
    return subprocess.run(command, cwd=sources, env=env, capture_output=True, text=True, timeout=150, check=False)


def test_label_as_a_job_from_a_clean_copy(tmp_path: Path, sources: Path, cluster: dict[str, str]) -> None:
    root = tmp_path / "data"
    ds = Dataset.create(str(root), "job", 4)
    ingest(ds, [str(fake_photos(tmp_path / "photos", 12))])
    done = submit(cluster, sources, "manymodal", "label", str(root), *ONLY)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "9 shards to do, 9 done, 0 failed" in said
    assert "(ray)" in said, "in this process it would prove nothing"
    assert sorted(ds.commits("canny_edge", ds.current("canny_edge"))) == [0, 1, 2]
    metrics = scraped(cluster["METRICS"], "shards_done", 9)
    assert total(metrics, "shards_done") == 9, "Prometheus sees what the summary says, and the storage holds"
    assert total(metrics, "samples") == 36
    assert total(metrics, "nulls") == 12, "no photo has a caption"


def scraped(url: str, name: str, least: float) -> str:
    """What the endpoint says, once a counter has come so far: Ray passes counts on every few seconds. Bounded."""
    metrics = ""
    for _ in range(150):
        with urllib.request.urlopen(url, timeout=20) as answer:
            metrics = answer.read().decode()
        if total(metrics, name) >= least:
            break
        time.sleep(0.2)
    return metrics


def total(metrics: str, name: str) -> float:
    """The sum over all steps of a counter at Ray's Prometheus endpoint."""
    lines = [line for line in metrics.splitlines() if line.startswith(f"ray_manymodal_{name}_total{{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
