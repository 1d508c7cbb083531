"""4M's shard layout: written, read by plain webdataset and numpy without pickle, and read back as the same tokens."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds

from labelers.caption import CAPTION
from labelers.core.modality import Modality, Null
from labelers.core.registry import all_modalities
from pipeline.care.forget import forget
from pipeline.care.verify import verify
from pipeline.cli.care import reader_of
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tests.tokenize_shards.small import SILENT, WORDS, number_of, small_config
from tests.world import snapshot
from tokenize_shards.decode import decode
from tokenize_shards.fourm.layout import CROPS, _npy, _tar, export
from tokenize_shards.fourm.read import ABSENT, _by_shard, read_layout
from tokenize_shards.rebuild import token_rewrite
from tokenize_shards.shards import open_tokens
from tokenize_shards.tokenize import tokenize
from tokenize_shards.values import maker_of
from tokenize_shards.views import view_of


@pytest.fixture
def tokenized(fitted: Path) -> Dataset:
    assert not tokenize(Dataset.open(str(fitted)), small_config(fitted)).failed
    return Dataset.open(str(fitted))


def plain(folder: Path, pattern: str = "*.tar") -> dict[str, dict[str, bytes]]:
    """What plain webdataset reads, by key, in order."""
    tars = [str(tar) for tar in sorted(folder.glob(pattern))]
    samples = wds.WebDataset(tars, shardshuffle=False, empty_check=False)  # type: ignore[attr-defined]
    return {s["__key__"]: {k: v for k, v in s.items() if not k.startswith("__")} for s in samples}


def test_read_sample_by_sample_with_keys_aligned(tokenized: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "4m"
    report = export(tokenized, str(out))
    read = {name: plain(out / name) for name in report.modalities}
    assert {"rgb", "tok_rgb", "tok_canny_edge", "caption", "metadata", CROPS} <= read.keys()
    keys = list(read["rgb"])
    assert all(list(column) == keys for column in read.values()) and len(keys) == report.samples
    assert numbers(tokenized, report.left_out) >= {SILENT}
    assert len(keys) + len(report.left_out) == len(WORDS)
    shard = {i: row for k in tokenized.shards() for i, row in tokens_of(tokenized, "tok_rgb", k)}
    for key, members in read["tok_rgb"].items():
        array = np.load(io.BytesIO(members["npy"]), allow_pickle=False)
        assert array.dtype == np.int16 and np.array_equal(array, shard[key])
    rows = {row.id: row for k in tokenized.shards() for row in tokenized.index(k)}
    for key, members in read[CROPS].items():
        crops = np.load(io.BytesIO(members["npy"]), allow_pickle=False)
        views = [view_of(key, 0, v, rows[key].width, rows[key].height) for v in range(len(crops))]
        assert crops.tolist() == [[v.y0, v.x0, v.side, v.side, int(v.flip)] for v in views]


def numbers(ds: Dataset, ids: Iterable[str]) -> set[int]:
    """Which photos the ids are."""
    places = {i: (k, row) for k in ds.shards() for row, i in enumerate(ds.ids(k))}
    return {number_of(ds, *places[i]) for i in ids}


def tokens_of(ds: Dataset, name: str, k: int) -> list[tuple[str, Any]]:
    shard = open_tokens(ds.open_shard(name, ds.current(name), k)[0])
    assert shard.fixed is not None
    return [(i, shard.fixed[row].copy() if shard.valid[row] else None) for row, i in enumerate(shard.ids)]


def test_the_same_bytes_again(tokenized: Dataset, tmp_path: Path) -> None:
    export(tokenized, str(tmp_path / "a"))
    export(tokenized, str(tmp_path / "b"))
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*")]
    assert files and all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_read_in_again(tokenized: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "4m"
    report = export(tokenized, str(out), ["tok_rgb", "tok_canny_edge"])
    assert report.modalities == ["rgb", "tok_rgb", "tok_canny_edge", CROPS] and not report.left_out
    ds = Dataset.create(str(tmp_path / "back"), "back", 4)
    read = read_layout(ds, str(out))
    assert read.samples == report.samples and read.tokens == {"tok_canny_edge": 9, "tok_rgb": 9}
    for name in read.tokens:
        before = {i: row for k in tokenized.shards() for i, row in tokens_of(tokenized, name, k)}
        after = {i: row for k in ds.shards() for i, row in tokens_of(ds, name, k)}
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[i], after[i]) for i in before)
        assert ds.recipe(ds.current(name))["params"]["seed"].startswith("crop_settings ")
    kept = snapshot(tmp_path / "back")
    read_layout(ds, str(out))
    assert snapshot(tmp_path / "back") == kept


def rewrite(folder: Path, change: Callable[[bytes], bytes]) -> None:
    """Other contents in the tars of a folder, under the same names."""
    for tar, members in [(tar, list(plain(folder, tar.name).items())) for tar in sorted(folder.glob("*.tar"))]:
        tar.write_bytes(_tar([(key, ext, change(data)) for key, held in members for ext, data in held.items()]))


def shifted(data: bytes) -> bytes:
    return _npy((np.load(io.BytesIO(data)) + 7) % 32)


def test_a_folder_that_has_changed_is_read_again(tokenized: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "4m"
    export(tokenized, str(out), ["tok_rgb", "caption"])
    ds = Dataset.create(str(tmp_path / "back"), "back", 4)
    read_layout(ds, str(out))
    before = {i: row for k in ds.shards() for i, row in tokens_of(ds, "tok_rgb", k)}
    rewrite(out / "tok_rgb", shifted)
    rewrite(out / "caption", lambda text: b"corrected " + text)
    read_layout(ds, str(out))
    after = {i: row for k in ds.shards() for i, row in tokens_of(ds, "tok_rgb", k)}
    assert all(np.array_equal(after[i], (before[i] + 7) % 32) for i in before)
    assert all(text.startswith("corrected ") for text in labels_of(ds, CAPTION).values())


def test_a_data_set_can_come_in_two_folders(tokenized: Dataset, tmp_path: Path) -> None:
    parts = [tmp_path / "a", tmp_path / "b"]
    for number, part in enumerate(parts):
        export(tokenized, str(part), ["tok_rgb", "caption"])
        for tar in part.glob("*/*.tar"):
            if ("00000" in tar.name) != (number == 0):
                tar.unlink()
    ds = Dataset.create(str(tmp_path / "back"), "back", 4)
    counts = [read_layout(ds, str(part)) for part in parts]
    assert [(c.tokens, c.labels) for c in counts] == [({"tok_rgb": n}, {"caption": n}) for n in (4, 8)]
    recipe, kept = ds.current("tok_rgb"), snapshot(tmp_path / "back")
    read_layout(ds, str(parts[1]))
    assert snapshot(tmp_path / "back") == kept, "a second run does nothing"
    rewrite(parts[0] / "tok_rgb", shifted)
    rewrite(parts[0] / "caption", lambda text: b"corrected " + text)
    read_layout(ds, str(parts[0]))
    first = set(plain(parts[0] / "rgb"))
    truth = {i: row for k in tokenized.shards() for i, row in tokens_of(tokenized, "tok_rgb", k)}
    for i, row in [pair for k in ds.shards() for pair in tokens_of(ds, "tok_rgb", k)]:
        assert np.array_equal(row, (truth[i] + 7) % 32 if i in first else truth[i])
    texts = labels_of(ds, CAPTION)
    assert {i for i, text in texts.items() if text.startswith("corrected ")} == first and len(texts) == 8
    assert ds.current("tok_rgb") != recipe and verify(ds, reader_of) == []
    described = (parts[1] / "export.json").read_text()
    (parts[1] / "export.json").write_text(described.replace(tokenized.manifest().tokenizers["tok_rgb"], "0" * 64))
    with pytest.raises(ConfigError, match="b/tok_rgb: lacks images whose tok_rgb was imported before"):
        read_layout(ds, str(parts[1]))


def test_imported_tokens_are_told_apart_by_their_tokenizers(tokenized: Dataset, tmp_path: Path) -> None:
    export(tokenized, str(tmp_path / "4m"), ["tok_rgb"])
    made = []
    for name in ("named", "unnamed"):
        ds = Dataset.create(str(tmp_path / name), name, 4)
        read_layout(ds, str(tmp_path / "4m"))
        made.append(maker_of(ds, ds.recipe(ds.current("tok_rgb"))))
        described = tmp_path / "4m" / "export.json"
        described.unlink(missing_ok=True)
    assert made == [tokenized.manifest().tokenizers["tok_rgb"], "imported without a tokenizer's name"]


def test_samples_that_were_removed_stay_away(tokenized: Dataset, tmp_path: Path) -> None:
    for out, only in ((tmp_path / "few", ["tok_rgb"]), (tmp_path / "more", ["tok_rgb", "tok_canny_edge", "caption"])):
        export(tokenized, str(out), only)
    ds = Dataset.create(str(tmp_path / "back"), "back", 4)
    read_layout(ds, str(tmp_path / "few"))
    gone = ds.ids(0)[0]
    forget(ds, [gone], token_rewrite)
    read_layout(ds, str(tmp_path / "more"))
    for name in ("tok_rgb", "tok_canny_edge", "caption"):
        commit = ds.commit_of(name, ds.current(name), 0)
        assert commit is not None and commit.nulls[gone] == "removed"


def test_a_sample_that_is_not_there_does_not_keep_the_stream_in_memory() -> None:
    class Shards:
        def shards(self) -> range:
            return range(10)

        def ids(self, k: int) -> list[str]:
            return [f"{k}-{i}" for i in range(4)]

    there, read = [i for k in range(10) for i in Shards().ids(k) if i != "0-2"], list[str]()
    stream = ((read.append(i) or i, i) for i in there)  # type: ignore[func-returns-value]
    found = _by_shard(Shards(), stream, set(there))  # type: ignore[arg-type]
    assert next(found) == (0, ["0-0", "0-1", ABSENT, "0-3"]) and read == ["0-0", "0-1", "0-3"]
    assert [rows for _, rows in found] == [Shards().ids(k) for k in range(1, 10)]


def test_imported_tokens_cannot_be_decoded(tokenized: Dataset, tmp_path: Path) -> None:
    export(tokenized, str(tmp_path / "4m"), ["tok_rgb", "tok_canny_edge"])
    ds, config = Dataset.create(str(tmp_path / "back"), "back", 4), small_config(tmp_path / "back")
    read_layout(ds, str(tmp_path / "4m"))
    for only in ([], ["tok_rgb"]):
        with pytest.raises(ConfigError, match="were imported without their tokenizer"):
            decode(ds, config, only)
    export(tokenized, str(tmp_path / "edges"), ["tok_canny_edge"])
    read_layout(tokenized, str(tmp_path / "edges"))
    made = decode(tokenized, small_config(tokenized.storage.url))[1]
    assert "rgb" in dict(made) and "canny_edge" not in dict(made), "the others are decoded all the same"


def labels_of(ds: Dataset, modality: Modality) -> dict[str, Any]:
    return {i: x for k in ds.shards() for i, x in zip(ds.ids(k), ds.labels(modality, k), strict=True)}


def test_labels_come_back(tokenized: Dataset, tmp_path: Path) -> None:
    out, known = tmp_path / "4m", all_modalities()
    report = export(tokenized, str(out))
    wanted = {n for n in report.modalities if n in known}
    assert {"caption", "metadata"} <= wanted
    ds = Dataset.create(str(tmp_path / "back"), "back", 4)
    read = read_layout(ds, str(out))
    assert read.labels == dict.fromkeys(wanted, report.samples)
    for name in wanted:
        before = {
            i: x
            for k in tokenized.shards()
            for i, x in zip(tokenized.ids(k), tokenized.labels(known[name], k), strict=True)
        }
        after = {i: x for k in ds.shards() for i, x in zip(ds.ids(k), ds.labels(known[name], k), strict=True)}
        assert after and all(known[name].encode(after[i]) == known[name].encode(before[i]) for i in after), name
        assert (
            ds.recipe(ds.current(name))["params"]["made_by"]["labeler"]
            == tokenized.recipe(tokenized.current(name))["labeler"]
        )
    assert verify(ds, reader_of) == []


def test_captions_of_others_come_in(tokenized: Dataset, tmp_path: Path) -> None:
    """Without our description, with a list of texts, one that is no text, and one that is not there."""
    out = tmp_path / "4m"
    export(tokenized, str(out), ["tok_rgb", "caption", "metadata"])
    (out / "export.json").unlink()
    keys = list(plain(out / "rgb"))
    members = [
        (keys[0], "json", b'["the first", "another"]'),
        (keys[1], "txt", b"\xff\xfe"),
        (keys[2], "txt", b" words "),
    ]
    for path in (out / "caption").iterdir():
        path.unlink()
    (out / "caption" / "shard-00000.tar").write_bytes(_tar(members))
    ds = Dataset.create(str(tmp_path / "back"), "back", 4)
    shutil.rmtree(out / "tok_rgb")
    read = read_layout(ds, str(out))
    assert read.labels == {"caption": 2}, "metadata of others has a form of its own"
    found = labels_of(ds, CAPTION)
    texts = [x for x in found.values() if not isinstance(x, Null)]
    assert sorted(texts) == ["the first", "words"]
    reasons = {x.reason for x in found.values() if isinstance(x, Null)}
    assert any("utf-8" in r for r in reasons) and "not in the data set it was imported from" in reasons


def test_a_sample_without_tokens_is_a_null_with_a_reason(tokenized: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "4m"
    export(tokenized, str(out), ["tok_rgb"])
    shutil.rmtree(out / "tok_rgb")
    small = Dataset.open(str(tokenized.storage.url))
    export(small, str(tmp_path / "whole"), ["tok_rgb"])
    (out / "tok_rgb").mkdir()
    shutil.copy(tmp_path / "whole" / "tok_rgb" / "shard-00001.tar", out / "tok_rgb" / "shard-00001.tar")
    ds = Dataset.create(str(tmp_path / "back"), "back", 4)
    assert read_layout(ds, str(out)).tokens == {"tok_rgb": 4}
    commit = ds.commit_of("tok_rgb", ds.current("tok_rgb"), 0)
    assert commit is not None and set(commit.nulls.values()) == {"not in the data set it was imported from"}


def test_what_cannot_be_exported_or_read_is_said(tokenized: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tok_depth' is not in the data set"):
        export(tokenized, str(tmp_path / "x"), ["tok_depth"])
    with pytest.raises(ConfigError, match=r"has no rgb/\*\.tar"):
        read_layout(tokenized, str(tmp_path))
    export(tokenized, str(tmp_path / "y"), ["tok_rgb"])
    (tmp_path / "y" / "tok_rgb").rename(tmp_path / "y" / "tok_unheard_of")
    with pytest.raises(ConfigError, match="no token modality is named 'tok_unheard_of'"):
        read_layout(Dataset.create(str(tmp_path / "z"), "z", 4), str(tmp_path / "y"))
