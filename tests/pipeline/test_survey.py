"""What is committed, read from packs, is what the commits say; a pack is never believed against the listing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.commits import commit_key, data_key, retract
from pipeline.records import Commit
from pipeline.storage import LocalStorage
from pipeline.survey import Survey, survey, write_pack

N = 12


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path)
    for k in range(N):
        put(storage, commit(k))
    return storage


def commit(k: int, data: str = "x") -> Commit:
    return Commit(
        "m", "12345678", k, f"shard-{k:06d}.tar", 3, len(data), f"{k}{data}", {"rgb": f"d{k}"}, {"a": f"r{k % 2}"}, 0.5
    )


def put(storage: LocalStorage, c: Commit, data: str = "x") -> None:
    assert storage.put_if_absent(data_key(c), data.encode())
    assert storage.put_if_absent(commit_key(c.modality, c.recipe, c.shard), c.to_json())


def look(storage: LocalStorage) -> Survey:
    return survey(storage, "m", "12345678")


def packs(storage: LocalStorage) -> list[str]:
    return [key for key in storage.list("m@12345678/_commits") if key.endswith(".arrow")]


def test_packed_equals_unpacked(storage: LocalStorage) -> None:
    before = look(storage)
    assert (before.packed, len(before.commits)) == (0, N)
    assert len(write_pack(storage, "m", "12345678", least=N + 1).commits) == N
    assert not packs(storage), "too few to be worth a pack"
    assert write_pack(storage, "m", "12345678", least=N).packed == 0 and len(packs(storage)) == 1
    after = look(storage)
    assert after.packed == N
    assert after.commits == before.commits
    kept = packs(storage)
    assert write_pack(storage, "m", "12345678", least=1).packed == N
    assert packs(storage) == kept, "all are packed"


def test_later_commits_are_read_beside_the_pack_and_packed_with_the_rest(storage: LocalStorage) -> None:
    write_pack(storage, "m", "12345678", least=1)
    put(storage, commit(N))
    found = look(storage)
    assert (found.packed, len(found.commits)) == (N, N + 1)
    write_pack(storage, "m", "12345678", least=1)
    assert len(packs(storage)) == 1, "the new pack replaces the old one"
    assert look(storage).packed == N + 1


def test_withdrawn_and_remade_commits_are_not_taken_from_the_pack(storage: LocalStorage) -> None:
    write_pack(storage, "m", "12345678", least=1)
    retract(storage, commit(3))
    assert 3 not in look(storage).commits
    other = dataclasses.replace(commit(3), sha256="other")  # as long as the old record
    put(storage, other)
    assert look(storage).commits[3].sha256 == "other"


def test_damage_shows_through_a_pack(storage: LocalStorage) -> None:
    write_pack(storage, "m", "12345678", least=1)
    storage.delete(data_key(commit(1)))
    (storage.root / data_key(commit(2))).write_bytes(b"longer")
    found = look(storage)
    assert set(found.commits) == set(range(N)) - {1, 2}
    assert "missing" in found.damage[1]
    assert "6 bytes" in found.damage[2]


@pytest.mark.parametrize("spoil", [b"", b"no arrow file at all"])
def test_a_damaged_pack_is_passed_over(storage: LocalStorage, spoil: bytes) -> None:
    write_pack(storage, "m", "12345678", least=1)
    (storage.root / packs(storage)[0]).write_bytes(spoil)
    found = look(storage)
    assert (found.packed, len(found.commits)) == (0, N)


def test_an_unreadable_commit_is_damage_of_its_shard(storage: LocalStorage) -> None:
    (storage.root / commit_key("m", "12345678", 5)).write_text("{")
    found = look(storage)
    assert set(found.commits) == set(range(N)) - {5}
    assert "not a commit record" in found.damage[5]
