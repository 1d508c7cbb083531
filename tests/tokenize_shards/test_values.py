"""Vectors that are shown as they are: from label shards to shards of their own and back, with nothing fitted."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from labelers.core.modality import Null
from labelers.t5_caption import T5_CAPTION
from pipeline.commits import retract
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.records import Commit
from pipeline.run import Report
from pipeline.shard_task import replace
from pipeline.shards import label_file, verify_labels, write_labels
from tests.trainer.corpus import write_world
from tokenize_shards.decode import decode
from tokenize_shards.rebuild import TokenCheck, token_rewrite
from tokenize_shards.shards import TokenMeta, TokenShard, open_tokens, verify_tokens, write_tokens
from tokenize_shards.tokenize import tokenize

NAME, WIDTH, LIMIT = "tok_t5_caption", 6, 77
SIZES = (4, 3)


def label_of(number: int, salt: int = 0) -> np.ndarray | Null:
    """From one vector to more than are kept; every third photo has no caption."""
    if number % 3 == 2:
        return Null("no caption: none was given")
    length = LIMIT + 3 if number == 0 else number
    return (np.arange(length * WIDTH).reshape(length, WIDTH) / 8 + number + salt).astype(np.float16)


def add_labels(ds: Dataset, salt: int = 0) -> None:
    """Commit label shards of t5_caption and make them current."""
    recipe = {"modality": "t5_caption", "labeler": "t5_caption", "version": 1, "weights": {}, "reads": {}}
    name = ds.put_recipe({**recipe, "params": {"salt": salt}})
    for k in ds.shards():
        labels = [label_of(sum(SIZES[:k]) + i, salt) for i in range(SIZES[k])]
        draft = Commit("t5_caption", name, k, label_file(T5_CAPTION, k), 0, 0, "")
        write = partial(write_labels, modality=T5_CAPTION, ids=ds.ids(k), labels=labels, inputs={})
        replace(ds, draft, write, partial(verify_labels, modality=T5_CAPTION))
    ds.update_manifest({"t5_caption": name})


def run(ds: Dataset) -> Report:
    report = tokenize(ds, Config(root=ds.storage.url, executor="local"))
    assert not report.failed, report.errors
    return report


@pytest.fixture
def ds(tmp_path: Path) -> Dataset:
    made = write_world(tmp_path, SIZES, specs=())
    add_labels(made)
    run(made)
    return made


def path(ds: Dataset, k: int) -> Path:
    return ds.open_shard(NAME, ds.current(NAME), k)[0]


def shards(ds: Dataset) -> list[TokenShard]:
    return [open_tokens(path(ds, k)) for k in ds.shards()]


def assert_rows(ds: Dataset, salt: int = 0) -> None:
    number = 0
    for shard in shards(ds):
        assert (shard.meta.views, shard.meta.width, shard.meta.vocab) == (1, WIDTH, 0)
        for i in range(len(shard)):
            label, row = label_of(number, salt), shard.row(i, 0)
            if isinstance(label, Null):
                assert row is None and shard.reasons[shard.ids[i]] == label.reason
            else:
                assert row is not None and row.dtype == np.float16
                np.testing.assert_array_equal(row, label[:LIMIT])
            number += 1


def test_shards_hold_the_labels_without_padding(ds: Dataset) -> None:
    assert_rows(ds)
    first = shards(ds)[0]
    assert first.values is not None and first.values.shape == (LIMIT + 1 + 3, WIDTH)
    assert not first.values.flags.owndata and not first.values.flags.writeable, "the file itself, mapped"
    recipe = ds.recipe(ds.current(NAME))
    assert recipe["weights"] == {} and recipe["reads"] == {"t5_caption": ds.current("t5_caption")}


def test_work_is_not_done_twice_and_is_done_again_for_other_labels(ds: Dataset) -> None:
    before = ds.current(NAME)
    assert run(ds).done == 0
    commit = ds.commit_of(NAME, before, 1)
    assert commit is not None
    retract(ds.storage, commit)
    assert run(Dataset.open(ds.storage.url)).done == 1
    assert_rows(ds)
    add_labels(ds, salt=5)
    assert run(ds).done == len(SIZES) and ds.current(NAME) != before
    assert_rows(ds, salt=5)


def test_verifying_makes_them_again(ds: Dataset) -> None:
    ref = NAME, ds.current(NAME)
    assert [TokenCheck(samples=2)(ds, ref, k) for k in ds.shards()] == ["", ""]
    shard = shards(ds)[1]
    stored = [shard.row(i, 0) for i in range(len(shard))]
    rows = [Null("gone") if row is None else [row + np.float16(1)] for row in stored]
    draft = ds.commit_of(*ref, 1)
    assert draft is not None
    replace(ds, draft, partial(write_tokens, meta=shard.meta, ids=shard.ids, rows=rows), verify_tokens)
    assert "not those of its label" in TokenCheck(samples=2)(ds, ref, 1)


def test_a_removed_sample_is_written_out_of_them(ds: Dataset, tmp_path: Path) -> None:
    gone, rewrite = ds.ids(0)[0], token_rewrite(NAME)
    assert rewrite is not None
    rewrite.write(path(ds, 0), tmp_path / "without", {gone}, {})
    found, before = open_tokens(tmp_path / "without"), shards(ds)[0]
    assert found.row(0, 0) is None and found.meta.width == WIDTH
    np.testing.assert_array_equal(np.asarray(found.row(1, 0)), np.asarray(before.row(1, 0)))


def test_there_is_nothing_to_decode(ds: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"tok_t5_caption: holds the labels as they are"):
        decode(ds, Config(root=ds.storage.url), [NAME])


def test_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    meta, ids = TokenMeta(NAME, 1, None, 0, "0" * 8, width=3), ["0" * 32]
    with pytest.raises(ValueError, match="vectors of 3 float16"):
        write_tokens(tmp_path / "x", meta, ids, [[np.zeros((2, 4), np.float16)]])
    with pytest.raises(ValueError, match="not finite"):
        write_tokens(tmp_path / "x", meta, ids, [[np.full((2, 3), np.inf, np.float16)]])
    write_tokens(tmp_path / "x", meta, ids, [[np.ones((2, 3), np.float16)]])
    data = bytearray((tmp_path / "x").read_bytes())
    at = data.index(np.ones(6, np.float16).tobytes())
    data[at : at + 2] = np.float16(np.nan).tobytes()
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DamageError, match="not finite"):
        verify_tokens(tmp_path / "x")


def test_shards_of_tokens_are_the_bytes_they_were(tmp_path: Path) -> None:
    """Their description says nothing of vectors."""
    write_tokens(tmp_path / "x", TokenMeta("tok_rgb", 1, 2, 4, "0" * 8), ["0" * 32], [np.zeros((1, 2), np.uint16)])
    with pa.memory_map(str(tmp_path / "x")) as source:
        assert b"width" not in pa.ipc.open_file(source).schema.metadata[b"manymodal"]
