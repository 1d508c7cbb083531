"""Tars: the layout of img2dataset as webdataset writes it; cut, damaged and malicious ones cost what they must and no
more.
"""

from __future__ import annotations

import errno
import tarfile
import tracemalloc
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelers.core.images import DEFAULT_LIMITS
from pipeline.errors import ConfigError
from pipeline.ingest import tars
from pipeline.ingest.candidate import MAX_SIDECAR, Payload
from pipeline.ingest.tars import read_tar
from tests.pipeline.ingest.gather import good, laion, outcomes, photo, reasons, source, time_limit, write_tar_of

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", **fields: object) -> Member:
    """A tar member; `fields` overrule what the header says."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def write_members(path: Path, *members: Member, fmt: Literal[0, 1, 2] = tarfile.PAX_FORMAT) -> Path:
    """A tar of just these headers and bytes, believed as they are."""
    with path.open("wb") as handle:
        for info, data in members:
            handle.write(info.tobuf(fmt, errors="surrogateescape") + data + bytes(-len(data) % 512))
        handle.write(bytes(1024))
    return path


def shown(uri: str) -> str:
    return uri.partition("#")[2]


def test_img2dataset_layout_as_webdataset_writes_it(tmp_path: Path) -> None:
    path = write_tar_of(tmp_path / "00000.tar", laion(3))
    found = source(path)
    assert [uri for uri, _ in found] == [f"{path.as_uri()}#00000000{i}.png" for i in range(3)]
    for i, (_, payload) in enumerate(found):
        assert payload == Payload(photo(i), {"txt": f"caption {i}".encode(), "json": b'{"key": "%09d"}' % i})


def test_a_sample_without_image_is_none_and_one_without_sidecars_is_one(tmp_path: Path) -> None:
    rows = [{"__key__": "a", "json": b'{"status": "failed_to_download"}'}, {"__key__": "b", "png": photo(1)}]
    [(uri, payload)] = source(write_tar_of(tmp_path / "x.tar", rows))
    assert shown(uri) == "b.png"
    assert payload == Payload(photo(1), {})


def test_sidecars_go_to_every_image_of_their_key_and_to_no_other(tmp_path: Path) -> None:
    path = write_members(
        tmp_path / "x.tar", member("one.png", photo(0)), member("one.txt", b"one"), member("one.jpg", photo(1)),
        member("sub/one.png", photo(2)), member("sub/one.cls", b"7"), member("two.txt", b"two"), member("two.png", photo(3)),
    )  # fmt: skip
    found = {shown(uri): dict(payload.sidecars) for uri, payload in source(path) if isinstance(payload, Payload)}
    assert found == {
        "one.png": {"txt": b"one"}, "one.jpg": {"txt": b"one"}, "sub/one.png": {}, "two.png": {"txt": b"two"}
    }  # fmt: skip


def test_names_with_dots_have_their_own_sidecars(tmp_path: Path) -> None:
    days = [f"IMG_2024.01.{day:02d}" for day in range(1, 4)]
    members = [member(f"{day}.{ext}", photo(i) if ext == "png" else day.encode())
               for i, day in enumerate(days) for ext in ("png", "txt")]  # fmt: skip
    extra = member("IMG_2024.01.04.png", photo(9)), member("IMG_2024.json", b"{}")
    for order in (members, [*members[::2], *members[1::2]]):
        found = source(write_members(tmp_path / "x.tar", *order, *extra))
        assert {shown(uri): dict(payload.sidecars) for uri, payload in found if isinstance(payload, Payload)} == {
            **{f"{day}.png": {"txt": day.encode(), "json": b"{}"} for day in days}, "IMG_2024.01.04.png": {"json": b"{}"}
        }  # fmt: skip


@pytest.mark.parametrize("fmt", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize(
    "name", ["n" * 236 + ".png", "with space.png", "ünï.png", "-x.png", "./dot.png", ".hidden.png", "\udcff.png"]
)
def test_odd_names_of_members(tmp_path: Path, name: str, fmt: Literal[0, 1, 2]) -> None:
    path = write_members(tmp_path / "x.tar", member(name, photo(0)), member("z.png", photo(1)), fmt=fmt)
    assert good(source(path)) == [photo(0), photo(1)]


def test_cut_anywhere_the_whole_samples_stay_and_the_cut_is_said(tmp_path: Path) -> None:
    whole = write_tar_of(tmp_path / "whole.tar", laion(3)).read_bytes()
    content = len(whole.rstrip(b"\0"))
    content += -content % 512
    for end in range(1, content + 1024, 171):
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[:end])
        found = source(path)
        kept = [payload for _, payload in found if isinstance(payload, Payload)]
        assert kept == [
            Payload(photo(i), {"txt": b"caption %d" % i, "json": b'{"key": "%09d"}' % i}) for i in range(len(kept))
        ]
        assert "truncated_tar" in reasons(found), f"cut at {end} of {len(whole)} was not noticed"
        assert found[-1][0] == path.as_uri()
    path.write_bytes(whole[: content + 1024])
    assert (len(good(source(path))), reasons(source(path))) == (3, [])


@settings(max_examples=150)
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_never_break_the_reader(
    flips: list[tuple[float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.tar"
    data = bytearray(write_tar_of(path, laion(2)).read_bytes())
    for at, value in flips:
        data[int(at * 5000)] ^= value
    path.write_bytes(data)
    with time_limit():
        assert len(outcomes(read_tar(path))) <= 5


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "empty"), (b"<html>404</html>", "header"), (bytes(10240), ""), (b"\x1f\x8b\x08" + bytes(600), "header")],
    ids=["empty", "html", "zeros", "gzip"],
)  # fmt: skip
def test_what_is_no_tar(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    assert reasons(source(path)) == (["truncated_tar"] if why else [])


def test_bytes_after_the_end_are_not_overlooked(tmp_path: Path) -> None:
    path = write_tar_of(tmp_path / "x.tar", laion(2))
    path.write_bytes(path.read_bytes() + write_tar_of(tmp_path / "y.tar", laion(1, first=1)).read_bytes())
    found = source(path)
    assert [(shown(uri), payload) for uri, payload in found[1:]] == [
        ("000000001.png", "truncated_tar"),
        ("", "truncated_tar"),
    ]
    assert good(found) == [photo(0)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (member("/etc/evil.png", b"x"), "bad_name"),
        (member("../evil.png", b"x"), "bad_name"),
        (member("a/../../evil.png", b"x"), "bad_name"),
        (member("evil.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "not_a_file"),
        (member("evil.png", type=tarfile.LNKTYPE, linkname="a.png"), "not_a_file"),
        (member("evil.png", type=tarfile.FIFOTYPE), "not_a_file"),
        (member("evil.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "not_a_file"),
        (member("evil.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "not_a_file"),
        (member("evil.txt", bytes(MAX_SIDECAR + 1)), "too_many_bytes"),
    ],
    ids=lambda value: f"{value[0].name}-{value[0].type!r}" if isinstance(value, tuple) else "",
)
def test_malicious_members_cost_themselves_alone(tmp_path: Path, bad: Member, reason: str) -> None:
    path = write_members(tmp_path / "x.tar", member("a.png", photo(0)), bad, member("z.png", photo(1)))
    found = source(path)
    assert [(shown(uri), payload) for uri, payload in found if isinstance(payload, str)] == [(bad[0].name, reason)]
    assert good(found) == [photo(0), photo(1)]
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar"]
    assert not (tmp_path.parent / "evil.png").exists()


@pytest.mark.parametrize("size", [DEFAULT_LIMITS.max_bytes + 1, 1 << 50], ids=["over the limit", "a petabyte"])
def test_a_huge_declared_size_is_refused_unread(tmp_path: Path, size: int) -> None:
    bad = member("huge.png", b"x", size=size)
    path = write_members(tmp_path / "x.tar", member("a.png", photo(0)), bad, member("z.png", photo(1)))
    found = source(path)
    assert good(found)[:1] == [photo(0)]
    assert reasons(found) == ["too_many_bytes", "truncated_tar"]


@pytest.mark.parametrize("size", [-512, -600, -1024, -2560, -(1 << 40), 1 << 50])
@pytest.mark.parametrize("name", ["back.png", "back.bin", "longname", "pax"])
def test_an_impossible_size_neither_loops_nor_breaks(tmp_path: Path, size: int, name: str) -> None:
    kind = {"longname": tarfile.GNUTYPE_LONGNAME, "pax": tarfile.XHDTYPE}.get(name, tarfile.REGTYPE)
    bad = member(name, size=size, type=kind)  # leads a careless reader back to where it was, for ever
    first = write_members(tmp_path / "first.tar", bad, fmt=tarfile.GNU_FORMAT)
    later = write_members(tmp_path / "later.tar", member("a.png", photo(0)), bad, fmt=tarfile.GNU_FORMAT)
    with time_limit(5):
        assert reasons(outcomes(read_tar(first)))[-1] == "truncated_tar"
        assert reasons(outcomes(read_tar(later)))[-1] == "truncated_tar"


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "s.png",
        "GNU.sparse.realsize": "99999999",
    }
    data = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
    path = write_members(tmp_path / "x.tar", member("s.png", data, pax_headers=headers), member("z.png", photo(1)))
    found = source(path)
    assert reasons(found) == ["not_a_file"]
    assert good(found) == [photo(1)]


def test_a_member_that_is_there_twice_is_lost_neither_time(tmp_path: Path) -> None:
    path = write_members(tmp_path / "x.tar", member("a.png", photo(0)), member("a.png", photo(1)))
    assert good(source(path)) == [photo(0), photo(1)]


def test_brace_patterns(tmp_path: Path) -> None:
    for i in range(3):
        write_tar_of(tmp_path / f"x-{i:02d}.tar", laion(1, first=i))
    assert good(source(f"{tmp_path}/x-{{02,00}}.tar")) == [photo(2), photo(0)]
    assert good(source(f"file://{tmp_path}/x-{{00..02}}.tar")) == [photo(0), photo(1), photo(2)]
    with pytest.raises(ConfigError, match=r"2 of 4 tars do not exist.*x-03\.tar"):
        source(f"{tmp_path}/x-{{01..04}}.tar")


def test_a_machine_in_trouble_is_not_a_cut_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar_of(tmp_path / "x.tar", laion(1))

    def fail(*_: object, **__: object) -> tarfile.TarFile:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tars.tarfile, "open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        source(path)


@pytest.mark.parametrize("name", ["{:04d}", "IMG.{:04d}"])
def test_memory_does_not_grow_with_the_tar(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "MAX_GROUP", 2)
    row = {"png": bytes(1 << 20)}
    path = write_tar_of(tmp_path / "x.tar", ({"__key__": name.format(i), **row} for i in range(24)))
    tracemalloc.start()
    count = sum(1 for _ in read_tar(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 24
    assert peak < 6 << 20
    assert path.stat().st_size > 24 << 20
