"""Lists of paths and URIs: every row is a candidate or has a reason; a list that cannot be read is one error."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.ingest.candidate import Payload
from pipeline.ingest.ingest import ingest
from tests.pipeline.ingest.gather import good, photo, reasons, source, write_photos

Rows = Sequence[tuple[str | None, str | None]]


def as_parquet(path: Path, column: str, rows: Rows) -> None:
    pq.write_table(
        pa.table({column: [r[0] for r in rows], "n": [1] * len(rows), "caption": [r[1] for r in rows]}), path
    )


def as_csv(path: Path, column: str, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows([("n", column, "caption"), *((1, entry, caption) for entry, caption in rows)])


WRITERS: dict[str, Callable[[Path, str, Rows], None]] = {".parquet": as_parquet, ".csv": as_csv, ".tsv": as_csv}


@pytest.mark.parametrize("column", ["uri", "path", "url"])
@pytest.mark.parametrize("ext", WRITERS)
def test_paths_and_captions_of_a_table(tmp_path: Path, ext: str, column: str) -> None:
    write_photos(tmp_path, "a.png", "sub/b, with comma.png", "ü.png")
    (tmp_path / "a.txt").write_text("from the side-car")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "ü.txt").write_text("from the side-car")
    path = tmp_path / f"list{ext}"
    rows = [("ü.png", None), (str(tmp_path / "a.png"), 'from "the" list\n图'), ("sub/b, with comma.png", "b")]
    WRITERS[ext](path, column, rows)
    found = source(path)
    assert good(found) == [photo(2), photo(0), photo(1)]
    assert [uri for uri, _ in found] == [(tmp_path / n).as_uri() for n in ("ü.png", "a.png", "sub/b, with comma.png")]
    assert [dict(payload.sidecars) for _, payload in found if isinstance(payload, Payload)] == [
        {"txt": b"from the side-car"}, {"txt": 'from "the" list\n图'.encode(), "json": b"{}"}, {"txt": b"b"}
    ]  # fmt: skip


def test_lines_of_text(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png", "b c.png", "-d.png", "e.png")
    listed = tmp_path / "lists" / "list.txt"
    listed.parent.mkdir()
    listed.write_bytes(
        b"\xef\xbb\xbf../b c.png\r\n\r\n  ../a.png  \n\n../sub/../-d.png\n" + os.fsencode(tmp_path) + b"/e.png"
    )
    (tmp_path / "sub").mkdir()
    assert good(source(listed)) == [photo(1), photo(0), photo(2), photo(3)]


def test_relative_paths_count_from_the_list_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path, "here/a.png")
    (tmp_path / "here" / "list.txt").write_text("a.png\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert good(source("../here/list.txt")) == [photo(0)]


def test_file_uris_with_escapes(tmp_path: Path) -> None:
    name = b"odd \xff #?%20 \xc3\xbc.png"
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    path.write_bytes(photo())
    (tmp_path / "list.txt").write_text(f"{path.as_uri()}\nFILE://localhost{path.as_uri().removeprefix('file://')}\n")
    found = source(tmp_path / "list.txt")
    assert [uri for uri, _ in found] == [path.as_uri()] * 2
    assert good(found) == [photo()] * 2


def test_each_bad_row_has_its_reason_and_costs_no_other(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png", "z.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    bad = {
        "absent.png": "missing",
        "folder.png": "not_a_file",
        "dangling.png": "broken_link",
        "pipe.png": "not_a_file",
        "a.png/below": "unreadable",
        "n" * 300 + ".png": "unreadable",
        "nul\0.png": "bad_name",
        "file:///nul%00.png": "bad_name",
        "file://[not-a-host/a.png": "bad_name",
        "http://[also-not": "remote_urls_off",
        "https://example.org/a.png?x=1": "remote_urls_off",
        "HTTP://example.org/ü.png": "remote_urls_off",
        "gs://bucket/a.png": "unsupported_scheme",
        "pipe://cat a.png": "unsupported_scheme",
        " ": "empty_entry",
    }
    rows = [("a.png", None), *((entry, None) for entry in bad), (None, "caption of nothing"), ("z.png", None)]
    as_parquet(tmp_path / "list.parquet", "uri", rows)
    found = source(tmp_path / "list.parquet")
    assert good(found) == [photo(0), photo(1)]
    assert reasons(found) == [*bad.values(), "empty_entry"]


def test_pipes_and_shells_are_no_more_than_odd_names(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(
        f"pipe:touch {tmp_path}/evil\n|touch {tmp_path}/evil\n$(touch {tmp_path}/evil)\n"
    )
    assert len(reasons(source(tmp_path / "list.txt"))) == 3
    assert not (tmp_path / "evil").exists()
    with pytest.raises(ConfigError):
        source(f"pipe:touch {tmp_path}/evil; echo {{0..1}}.tar")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("list.parquet", b"not parquet at all"), ("list.parquet", b""), ("list.csv", b""), ("list.csv", b"a,b\n1,2\n"),
        ("list.csv", b"uri\n\xff\xfe\n"), ("list.txt", b"\xff\xfea\0.\0p\0"), ("list.csv", b"uri\n" + b"x" * 200_000),
    ],
    ids=["garbage", "empty parquet", "empty csv", "no column", "csv not utf-8", "utf-16", "endless field"],
)  # fmt: skip
def test_a_list_that_cannot_be_read_is_one_error(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=r"cannot be read as a list|has no column uri, path or url") as found:
        source(tmp_path / name)
    assert found.value.exit_code == 2
    assert str(tmp_path / name) in str(found.value)
    assert "\n" not in str(found.value)


def test_a_flipped_byte_in_a_parquet_list_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    table = pa.table({"uri": [f"{i}.png" for i in range(50)]})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[data.index(b"25.png")] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="cannot be read as a list"):
        source(path)


def test_a_column_that_holds_no_text_is_one_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": [["a.png"], ["b.png"]]}), tmp_path / "list.parquet")
    with pytest.raises(ConfigError, match="cannot be read as a list"):
        source(tmp_path / "list.parquet")


def test_the_index_of_a_data_set_is_a_list_too(tmp_path: Path) -> None:
    ds = Dataset.create(str(tmp_path / "ds"), "x", 9)
    ingest(ds, [str(write_photos(tmp_path / "photos", "a.png", "ü b.png"))])
    assert good(source(ds.storage.local(ds.index_key(0)))) == [photo(0), photo(1)]
