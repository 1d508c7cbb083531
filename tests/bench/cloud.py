"""A data set built in a bucket alone, on a real S3 server on the loopback: the same bytes, the requests it takes, the time."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.care.verify import verify
from pipeline.cli.care import reader_of
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from tests.bench.engine import _config, make_photos
from tests.seaweed import find_weed, seaweed

PHOTOS, SHARDS = 120, 4
STEPS = 2  # labelers of the run, one output each
WRITES = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "ListObjectsV2")
# Reads: index, image commit, its length and its bytes, once for both labelers; own commit twice, and at the end of the run.
# Writes and listings, which cost twelve times as much: data and commit. A run's own dozen (config, plan, events, report,
# manifest, what is committed now) is shared by the few shards of this one. pipeline/sizing.py counts the same.
READS_GOAL, WRITES_GOAL = 6, 2 + 12 / (SHARDS * STEPS)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """These variables too, while the block runs."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _build(root: str, photos: Path) -> tuple[Dataset, Config, float]:
    """Ingested and labelled; the seconds of labelling."""
    ds, config = Dataset.create(root, "bench", 32), _config(Path("unused")).model_copy(update={"root": root})
    ingest(ds, [str(photos)])
    if "://" in root:
        ds.storage.client.counts.clear()  # type: ignore[attr-defined]
    start = time.perf_counter()
    report = label(ds, config)
    assert not report.failed, report.errors
    return ds, config, time.perf_counter() - start


def _digests(ds: Dataset) -> dict[str, str]:
    current = ds.manifest().modalities
    return {f"{n}@{r}/{k}": c.sha256 for n, r in current.items() for k, c in ds.commits(n, r).items()}


def bucket(folder: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Digests, requests a shard, and labelling through S3 against labelling in a folder."""
    weed = find_weed()
    how = f"{PHOTOS} photos in {SHARDS} shards, {STEPS} labelers, local executor, SeaweedFS on the loopback"
    names = ("s3_digests_as_in_a_folder", "s3_reads_a_shard", "s3_writes_a_shard", "s3_label_over_folder")
    if weed is None:
        yield from ((name, (None, "-", "-", None, how + "; no `weed` here")) for name in names)
        return
    photos = make_photos(folder / "photos", PHOTOS)
    local, _, folder_s = _build(str(folder / "local"), photos)
    (folder / "seaweed").mkdir()
    with seaweed(folder / "seaweed", weed) as server, environment(server.environment(folder)):
        server.client().create_bucket(Bucket="lab")
        ds, config, bucket_s = _build("s3://lab/ds", photos)
        counts: Counter[str] = Counter(ds.storage.client.counts)  # type: ignore[attr-defined]
        idle = _idle(ds, config)
        same = _digests(ds) == _digests(local) and not verify(ds, reader_of)
    writes = sum(counts[name] - idle[name] for name in WRITES) / (SHARDS * STEPS)
    reads = (sum(counts.values()) - sum(idle.values())) / (SHARDS * STEPS) - writes
    yield names[0], (float(same), "1 or 0", "1", same, how + "; `verify` finds nothing")
    detail = "of one labeler, beyond those of a run with nothing to do: " + ", ".join(
        f"{k} {v}" for k, v in counts.items()
    )
    yield names[1], (reads, "GET and HEAD", f"<= {READS_GOAL}", reads <= READS_GOAL, detail)
    yield names[2], (writes, "PUT and LIST", f"<= {WRITES_GOAL}", writes <= WRITES_GOAL, detail)
    yield names[3], (bucket_s / folder_s, "times", "<= 2", bucket_s / folder_s <= 2, how)


def _idle(ds: Dataset, config: Config) -> Counter[str]:
    """Requests of a run that has nothing to do."""
    ds.storage.client.counts.clear()  # type: ignore[attr-defined]
    assert label(ds, config).todo == 0
    return Counter(ds.storage.client.counts)  # type: ignore[attr-defined]
