"""Token shards: what is written is what is mapped, any Arrow reader opens them, and nothing but a whole file is taken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelers.core.modality import Null
from pipeline.errors import DamageError
from tokenize_shards.shards import KEY, Row, TokenMeta, open_tokens, verify_tokens, write_tokens

FIXED = TokenMeta("tok_rgb", views=2, tokens=3, vocab=65536, recipe="0a1b2c3d", inputs={"rgb": "f" * 64})
RAGGED = replace(FIXED, modality="tok_caption", tokens=None)
IDS = [hashlib.sha256(bytes([i])).hexdigest()[:32] for i in range(20)]
TOKEN = st.integers(0, 65535)
HERE = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
fixed_row = st.lists(TOKEN, min_size=6, max_size=6).map(lambda ids: np.array(ids, np.uint16).reshape(2, 3))
ragged_row = st.lists(st.lists(TOKEN, max_size=5).map(partial(np.array, dtype=np.uint16)), min_size=2, max_size=2)
null_row = st.text(min_size=1, max_size=12).map(Null)


def rows_of(row: st.SearchStrategy[Row]) -> st.SearchStrategy[list[Row]]:
    return st.lists(row | null_row, max_size=len(IDS))


def plain(path: Path) -> pa.Table:
    """The file as a program that knows nothing of this project reads it."""
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def assert_same(path: Path, meta: TokenMeta, rows: Sequence[Row]) -> None:
    """The file holds these rows, for our reader and for a plain one."""
    ids = IDS[: len(rows)]
    shard, table = open_tokens(path), plain(path)
    assert (shard.ids, shard.meta, len(shard)) == (ids, meta, len(ids))
    assert shard.reasons == {i: row.reason for i, row in zip(ids, rows, strict=True) if isinstance(row, Null)}
    assert shard.valid.tolist() == [not isinstance(row, Null) for row in rows]
    assert table["id"].to_pylist() == ids
    for i, (row, column) in enumerate(zip(rows, table["tokens"].to_pylist(), strict=True)):
        if isinstance(row, Null):
            assert column is None and shard.row(i, 0) is None and shard.row(i, 1) is None
            continue
        told = [column[:3], column[3:]] if meta.tokens else column
        for view in range(2):
            found = shard.row(i, view)
            assert found is not None and found.dtype == np.uint16
            assert found.tolist() == row[view].tolist() == told[view]


@HERE
@given(rows_of(fixed_row))
def test_fixed_width_round_trip(tmp_path: Path, rows: list[Row]) -> None:
    write_tokens(tmp_path / "a", FIXED, IDS[: len(rows)], rows)
    assert_same(tmp_path / "a", FIXED, rows)
    shard = open_tokens(tmp_path / "a")
    assert shard.tokens is shard.fixed and shard.values is None
    assert shard.fixed is not None and shard.fixed.shape == (len(rows), 2, 3)
    assert not shard.fixed[~shard.valid].any()


@HERE
@given(rows_of(ragged_row))
def test_ragged_round_trip(tmp_path: Path, rows: list[Row]) -> None:
    write_tokens(tmp_path / "a", RAGGED, IDS[: len(rows)], rows)
    assert_same(tmp_path / "a", RAGGED, rows)
    values, offsets = open_tokens(tmp_path / "a").tokens
    assert offsets.dtype == np.int64 and len(offsets) == 2 * len(rows) + 1
    assert offsets[0] == 0 and offsets[-1] == len(values) and (np.diff(offsets) >= 0).all()


def sample_file(path: Path, meta: TokenMeta) -> Path:
    full = np.arange(6, dtype=np.uint16).reshape(2, 3)
    write_tokens(path, meta, IDS[:3], [full, Null("no text"), full + 6])
    return path


@pytest.mark.parametrize("meta", [FIXED, RAGGED])
def test_columns_and_metadata_of_the_file(tmp_path: Path, meta: TokenMeta) -> None:
    table = plain(sample_file(tmp_path / "a", meta))
    inner = pa.uint16() if meta.tokens else pa.list_(pa.uint16())
    assert table.schema.names == ["id", "tokens", "null_reason"]
    assert table.schema.types == [pa.string(), pa.list_(inner, 6 if meta.tokens else 2), pa.string()]
    assert table["null_reason"].to_pylist() == [None, "no text", None]
    said = json.loads(table.schema.metadata[KEY])
    assert (said["recipe"], said["inputs"], said["vocab"]) == ("0a1b2c3d", {"rgb": "f" * 64}, 65536)
    verified = verify_tokens(tmp_path / "a")
    assert verified.ids == IDS[:3]
    assert (verified.nulls, verified.inputs) == ({IDS[1]: "no text"}, {"rgb": "f" * 64})


@pytest.mark.parametrize("meta", [FIXED, RAGGED])
def test_tokens_are_the_mapped_file_itself(tmp_path: Path, meta: TokenMeta) -> None:
    many = [np.full((2, 3), i, np.uint16) for i in range(20)]
    write_tokens(tmp_path / "a", meta, IDS, many)
    shard = open_tokens(tmp_path / "a")
    tokens = shard.fixed if shard.fixed is not None else shard.values
    assert tokens is not None and not tokens.flags.writeable and not tokens.flags.owndata
    at = (tmp_path / "a").read_bytes().index(tokens.tobytes())  # stored as they are, uncompressed
    with (tmp_path / "a").open("r+b") as file:
        file.seek(at)
        file.write(b"\x07\x01")
    assert tokens.flat[0] == 0x107, "the array is the file"
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    assert sample_file(tmp_path / "a", RAGGED).read_bytes() == sample_file(tmp_path / "b", RAGGED).read_bytes()


ONE = np.zeros((2, 3), np.uint16)


@pytest.mark.parametrize(
    ("meta", "ids", "rows", "message"),
    [
        (FIXED, IDS[:2], [ONE], "1 rows of tokens for 2 ids"),
        (FIXED, ["x" * 32], [ONE], "not a sample id"),
        (FIXED, [IDS[0].upper()], [ONE], "not a sample id"),
        (FIXED, [IDS[0]] * 2, [ONE] * 2, "occurs twice"),
        (FIXED, IDS[:1], [ONE[:, :2]], "expected 2 views of 3"),
        (FIXED, IDS[:1], [ONE[:1]], "expected 2 views of 3"),
        (FIXED, IDS[:1], [ONE.astype(np.int16)], "int16"),
        (RAGGED, IDS[:1], [[ONE[0]]], "expected 2 views of any number of"),
        (RAGGED, IDS[:1], [[ONE, ONE]], "expected 2 views of any number of"),
        (RAGGED, IDS[:1], [[[1, 2], [3]]], "expected 2 views of any number of"),
        (FIXED, IDS[:1], [Null("")], "gives no reason"),
        (replace(FIXED, vocab=7), IDS[:1], [ONE + np.uint16(7)], "token 7 is outside the vocabulary of 7"),
    ],
)
def test_wrong_rows_are_refused_before_a_file_exists(
    tmp_path: Path, meta: TokenMeta, ids: list[str], rows: list[Row], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_tokens(tmp_path / "a", meta, ids, rows)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("meta", [FIXED, RAGGED])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, meta: TokenMeta) -> None:
    whole = sample_file(tmp_path / "a", meta).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "b").write_bytes(whole[:length])
        with pytest.raises(DamageError, match="not a whole token shard"):
            open_tokens(tmp_path / "b")


@pytest.mark.parametrize("meta", [FIXED, RAGGED])
def test_a_flipped_bit_never_raises_anything_else_nor_ends_the_process(tmp_path: Path, meta: TokenMeta) -> None:
    whole = sample_file(tmp_path / "a", meta).read_bytes()
    refused = 0
    for at in range(len(whole)):
        (tmp_path / "b").write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            verify_tokens(tmp_path / "b")
        except DamageError:
            refused += 1
    assert refused > len(whole) / 4


def test_a_file_that_is_not_there_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_tokens(tmp_path / "none")


Change = Callable[[pa.Table], pa.Table]


def with_meta(**values: object) -> Change:
    def change(table: pa.Table) -> pa.Table:
        said = json.loads(table.schema.metadata[KEY]) | values
        return table.replace_schema_metadata({KEY: json.dumps(said)})

    return change


def with_column(at: int, values: list[object]) -> Change:
    return lambda t: t.set_column(at, t.schema.field(at), pa.array(values, t.schema.field(at).type))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace_schema_metadata({}),
        lambda t: t.replace_schema_metadata({KEY: b"[1]"}),
        lambda t: t.replace_schema_metadata({KEY: b"7"}),
        lambda t: t.replace_schema_metadata({KEY: b"{"}),
        lambda t: t.select(["id", "tokens"]),
        lambda t: t.rename_columns(["id", "ids", "null_reason"]),
        with_meta(format=2),
        with_meta(views=3),
        with_meta(tokens=2),
        with_meta(colour="red"),
        with_column(0, [IDS[0], IDS[1], IDS[1]]),
        with_column(0, [IDS[0], None, IDS[2]]),
        with_column(2, [None, None, None]),
        with_column(2, ["why", "no text", None]),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, change: Change) -> None:
    table = change(plain(sample_file(tmp_path / "a", FIXED)))
    with pa.ipc.new_file(str(tmp_path / "b"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DamageError):
        open_tokens(tmp_path / "b")


def test_compressed_or_divided_files_are_refused(tmp_path: Path) -> None:
    table = plain(sample_file(tmp_path / "a", FIXED))
    with pa.ipc.new_file(str(tmp_path / "b"), table.schema) as writer:
        writer.write_table(table)
        writer.write_table(table)
    with pytest.raises(DamageError, match="2 record batches"):
        open_tokens(tmp_path / "b")
    write_tokens(tmp_path / "c", FIXED, IDS, [np.full((2, 3), 9, np.uint16)] * 20)
    table = plain(tmp_path / "c")
    packed = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(tmp_path / "d"), table.schema, options=packed) as writer:
        writer.write_table(table)
    with pytest.raises(DamageError, match="compressed"):
        open_tokens(tmp_path / "d")


@pytest.mark.parametrize("meta", [FIXED, RAGGED])
def test_verify_sees_tokens_outside_the_vocabulary(tmp_path: Path, meta: TokenMeta) -> None:
    table = with_meta(vocab=11)(plain(sample_file(tmp_path / "a", meta)))
    with pa.ipc.new_file(str(tmp_path / "b"), table.schema) as writer:
        writer.write_table(table)
    assert len(open_tokens(tmp_path / "b")) == 3
    with pytest.raises(DamageError, match="token 11 is outside the vocabulary of 11"):
        verify_tokens(tmp_path / "b")
