"""A small world for fault tests: fake images, deterministic fake labelers, and the one oracle, `assert_world`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from labelers.core.labeler import Labeler, Params, Sample
from labelers.core.modality import Label, Modality, Null, require, vector_modality
from labelers.core.registry import all_labelers, all_modalities
from pipeline.commits import data_key
from pipeline.config import Config, LabelerConfig
from pipeline.dataset import Dataset
from pipeline.label import label
from pipeline.records import file_sha256, folder_of

DIM = 8


def fake_vector(sample_id: str, salt: str) -> np.ndarray:
    """What the fake labeler says of a sample: float32 (DIM,), a pure function of id and salt."""
    digest = hashlib.sha256(f"{sample_id}/{salt}".encode()).digest()
    return np.frombuffer(digest, np.uint8)[:DIM].astype(np.float32)


def _encode_png(label: Label) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, "PNG")
    return buffer.getvalue()


def _check_map(label: Label) -> None:
    require(isinstance(label, np.ndarray) and label.dtype == np.uint8 and label.shape == (1, DIM), "fake_map: wrong")


FAKE_VECTOR = vector_modality("fake_vector", DIM, "a function of the id")
FAKE_MAP = Modality(
    "fake_map", "map", "tar", _encode_png, lambda raw: np.asarray(Image.open(io.BytesIO(raw))), _check_map, ext="png"
)
FAKE_SUM = vector_modality("fake_sum", DIM, "fake_vector + fake_map")


class FakeParams(Params):
    salt: str = "a"


class FakeBase(Labeler):
    """Labels both containers at once; every seventh id is a null."""

    name = "fake_base"
    version = 1
    backend = "fake"
    produces = (FAKE_VECTOR, FAKE_MAP)

    Params: ClassVar[type[Params]] = FakeParams

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        return [
            {
                "fake_vector": expected("fake_vector", s.id, self.params.salt),
                "fake_map": expected("fake_map", s.id, self.params.salt),
            }
            for s in samples
        ]


class FakeSum(Labeler):
    """Reads the other two, so that the graph has an edge."""

    name = "fake_sum"
    version = 1
    backend = "fake"
    produces = (FAKE_SUM,)
    reads = ("fake_vector", "fake_map")
    uses_pixels = False

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        rows: list[dict[str, Label | Null]] = []
        for s in samples:
            a, b = s.labels["fake_vector"], s.labels["fake_map"]
            whole = not isinstance(a, Null) and not isinstance(b, Null)
            rows.append({"fake_sum": a + b[0] if whole else Null("no_input")})
        return rows


def expected(modality: str, sample_id: str, salt: str = "a") -> Label | Null:
    """What the oracle expects of a sample."""
    if int(sample_id[:4], 16) % 7 == 0:
        return Null("no_input" if modality == "fake_sum" else "seventh")
    vector = fake_vector(sample_id, salt)
    if modality == "fake_map":
        return vector.astype(np.uint8)[None]
    return vector * 2 if modality == "fake_sum" else vector


def register_fakes() -> None:
    """Make the fake labelers known in this process, once."""
    for cls in (FakeBase, FakeSum):
        all_labelers()[cls.name] = cls


def fake_config(root: Path | str, salt: str = "a", executor: str = "local") -> Config:
    """A configuration with nothing enabled but the fakes."""
    register_fakes()
    settings = {name: LabelerConfig(enabled=False) for name in all_labelers()}
    settings |= {"fake_base": LabelerConfig(params={"salt": salt}), "fake_sum": LabelerConfig()}
    return Config(root=str(root), shard_size=5, executor=executor, labelers=settings)  # type: ignore[arg-type]


def fake_photos(folder: Path, n: int) -> Path:
    """n tiny distinct PNGs, names in order."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = np.full((6, 8, 3), (i * 37) % 256, np.uint8)
        pixels[0, 0] = i % 256, i // 256, 7
        Image.fromarray(pixels).save(folder / f"p{i:04d}.png")
    return folder


def snapshot(root: Path | str) -> dict[str, tuple[str, float]]:
    """sha256 (of a bucket: the ETag) and time of every file below root."""
    if "://" in str(root):
        import boto3

        bucket, _, prefix = str(root).removeprefix("s3://").partition("/")
        pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {
            e["Key"]: (e["ETag"], e["LastModified"].timestamp()) for page in pages for e in page.get("Contents", ())
        }
    root = Path(root)
    return {
        str(p.relative_to(root)): (file_sha256(p), p.stat().st_mtime_ns) for p in sorted(root.rglob("*")) if p.is_file()
    }


def assert_world(root: Path | str, ids: Sequence[str], config: Config, salt: str = "a") -> None:
    """The oracle of every fault test.

    Committed ids == index ids, each once a modality, same order everywhere; payload == f(id, modality, version); count,
    bytes and sha256 of every commit true; every null has a reason; no visible file without a commit; a second run
    writes nothing.
    """
    ds = Dataset.open(str(root))
    index = [i for k in ds.shards() for i in ds.ids(k)]
    assert sorted(index) == sorted(ids) and len(set(index)) == len(index), "the index lost, doubled or invented samples"
    manifest = ds.manifest()
    for name in ("rgb", "fake_vector", "fake_map", "fake_sum"):
        recipe = manifest.modalities[name]
        commits = ds.commits(name, recipe)
        assert sorted(commits) == ds.shards(), f"{name}: not every shard is committed"
        for k, commit in commits.items():
            path = ds.storage.local(data_key(commit))
            assert path.stat().st_size == commit.bytes and file_sha256(path) == commit.sha256, (
                f"{path}: not as committed"
            )
            assert commit.count == len(ds.ids(k))
            assert all(commit.nulls.values()), f"{name} shard {k}: a null without a reason"
        folder = folder_of(name, recipe)
        visible = {key for key in ds.storage.list(folder) if not key.endswith("/")}
        assert visible == {f"{folder}/{c.file}" for c in commits.values()}, (
            f"{name}: files without a commit are visible"
        )
        if name != "rgb":
            _assert_payload(ds, name, salt)
    before = snapshot(root)
    report = label(ds, config)
    assert (report.todo, report.failed) == (0, 0), f"a second run found work: {report}"
    assert snapshot(root) == before, "a second run wrote something"


def _assert_payload(ds: Dataset, name: str, salt: str) -> None:
    for k in ds.shards():
        for sample_id, found in zip(ds.ids(k), ds.labels(all_modalities_with_fakes()[name], k), strict=True):
            wanted = expected(name, sample_id, salt)
            if isinstance(wanted, Null):
                assert isinstance(found, Null) and found.reason == wanted.reason, f"{name} {sample_id}: {found!r}"
            else:
                assert np.array_equal(found, wanted), f"{name} of {sample_id} is not its own"


def all_modalities_with_fakes() -> dict[str, Modality]:
    register_fakes()
    return all_modalities()
