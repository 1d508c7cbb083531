"""Label shards: round trip, the same bytes for the same labels, plain readers, and damage that does not pass."""

from __future__ import annotations

import gc
import io
import random
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from labelers.core.modality import Label, LabelError, Modality, Null
from pipeline.errors import DamageError
from pipeline.shards import read_inputs, read_labels, verify_labels, write_labels, write_tar
from tests.world import FAKE_MAP, FAKE_VECTOR, fake_vector

INPUTS = {"rgb": "ab" * 32}
BOTH = pytest.mark.parametrize("modality", [FAKE_VECTOR, FAKE_MAP], ids=lambda m: m.container)


def some_labels(modality: Modality, n: int, nulls: set[int] = frozenset()) -> tuple[list[str], list[Label | Null]]:  # type: ignore[assignment]
    ids = [f"{i:08x}" for i in range(n)]
    vectors = [fake_vector(i, "t") for i in ids]
    made = vectors if modality is FAKE_VECTOR else [v.astype(np.uint8)[None] for v in vectors]
    return ids, [Null(f"reason {i}") if i in nulls else label for i, label in enumerate(made)]


def same(a: Label | Null, b: Label | Null) -> bool:
    return a == b if isinstance(a, Null) or isinstance(b, Null) else np.array_equal(a, b)


@BOTH
@settings(max_examples=25)
@given(n=st.integers(1, 9), nulls=st.sets(st.integers(0, 8)))
def test_round_trip_in_order(
    tmp_path_factory: pytest.TempPathFactory, modality: Modality, n: int, nulls: set[int]
) -> None:
    path = tmp_path_factory.mktemp("s") / f"shard.{modality.container}"
    ids, labels = some_labels(modality, n, nulls)
    write_labels(path, modality, ids, labels, INPUTS)
    back = list(read_labels(path, modality))
    assert [key for key, _ in back] == ids
    assert all(same(a, b) for (_, a), b in zip(back, labels, strict=True))
    found = verify_labels(path, modality)
    assert found.nulls == {ids[i]: f"reason {i}" for i in nulls if i < n}
    assert found.inputs == read_inputs(path) == INPUTS


@BOTH
def test_same_labels_same_bytes(tmp_path: Path, modality: Modality) -> None:
    ids, labels = some_labels(modality, 6, {2})
    for name in ("a", "b"):
        write_labels(tmp_path / f"{name}.{modality.container}", modality, ids, labels, INPUTS)
    one, two = sorted(tmp_path.iterdir())
    assert one.read_bytes() == two.read_bytes()


def test_plain_readers_read_them(tmp_path: Path) -> None:
    """webdataset and pyarrow, told nothing about this project, see ids in order, labels and nulls."""
    ids, maps = some_labels(FAKE_MAP, 5, {1})
    tar = tmp_path / "shard.tar"
    write_labels(tar, FAKE_MAP, ids, maps, INPUTS)
    seen = list(webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False))
    assert [s["__key__"] for s in seen] == ids
    assert seen[1]["null"] == b"reason 1"
    assert same(FAKE_MAP.decode(seen[3]["png"]), maps[3])
    ids, vectors = some_labels(FAKE_VECTOR, 5, {1})
    parquet = tmp_path / "shard.parquet"
    write_labels(parquet, FAKE_VECTOR, ids, vectors, INPUTS)
    table = pq.read_table(parquet)
    assert table.column("id").to_pylist() == ids
    assert table.column("null_reason").to_pylist() == [None, "reason 1", None, None, None]
    assert table.column("value").to_pylist()[2] == vectors[2].tolist()  # type: ignore[union-attr]


@BOTH
def test_wrong_labels_are_refused(tmp_path: Path, modality: Modality) -> None:
    ids, labels = some_labels(modality, 3)
    path = tmp_path / "shard"
    with pytest.raises(LabelError):
        write_labels(path, modality, ids, [*labels[:2], np.zeros(3, np.float64)], INPUTS)
    with pytest.raises(ValueError, match="2 labels for 3 ids"):
        write_labels(path, modality, ids, labels[:2], INPUTS)


def test_cut_tars_do_not_read_as_smaller_ones(tmp_path: Path) -> None:
    ids, labels = some_labels(FAKE_MAP, 8)
    path = tmp_path / "shard.tar"
    write_labels(path, FAKE_MAP, ids, labels, INPUTS)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        boundaries = [member.offset for member in tar][1:]
    chance = random.Random(0)
    for at in (*boundaries, *(chance.randrange(1, boundaries[-1]) for _ in range(60))):
        path.write_bytes(data[:at])
        with pytest.raises(DamageError):
            list(read_labels(path, FAKE_MAP))


def test_flipped_bytes_in_parquet_are_seen(tmp_path: Path) -> None:
    ids, labels = some_labels(FAKE_VECTOR, 40)
    path = tmp_path / "shard.parquet"
    write_labels(path, FAKE_VECTOR, ids, labels, INPUTS)
    data, chance, silent = path.read_bytes(), random.Random(1), 0
    for _ in range(100):
        at = chance.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            back = list(read_labels(path, FAKE_VECTOR))
        except Exception:  # whatever a damaged file raises: it did not pass
            continue
        silent += [k for k, _ in back] != ids or not all(same(a, b) for (_, a), b in zip(back, labels, strict=True))
    assert silent == 0


@pytest.mark.parametrize("name", ["a/b.png", "../x.png"])
def test_members_with_folders_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DamageError, match="plain file"):
        list(read_labels(path, FAKE_MAP))


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DamageError, match="plain file"):
        list(read_labels(path, FAKE_MAP))


def test_a_sample_without_label_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    write_tar(path, "fake_map", [("a", {"jpg": b"x"})], INPUTS)
    with pytest.raises(DamageError, match="neither"):
        list(read_labels(path, FAKE_MAP))


def test_an_interrupted_writer_leaves_nothing_to_write_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tar holds back would otherwise be written to the closed file when it is collected: a traceback on stderr."""
    late: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", late.append)

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield "a" * 32, {"npy": b"x" * 1000}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tar(tmp_path / "a.tar", "fake", samples(), {})
    gc.collect()
    assert not late
