"""Pictures as patches: shown to a model as they are, cut by the same views as everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Config, TokensConfig
from pipeline.dataset import Dataset
from tests.tokenize_shards.small import ROWS, SIDE
from tokenize_shards import table
from tokenize_shards.decode import as_label
from tokenize_shards.patches import patchify
from tokenize_shards.rebuild import TokenCheck
from tokenize_shards.shards import open_tokens
from tokenize_shards.table import TokenSpec, pixels_row, specs
from tokenize_shards.tokenize import tokenize
from tokenize_shards.tokenizer import load_tokenizer
from tokenize_shards.values import DEVIATION, MEAN, Patches, maker_of
from tokenize_shards.views import cut_image, view_of

ROW = pixels_row(SIDE, 8)


def picture(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 6))
def test_every_picture_comes_back(seed: int, patch: int, side: int) -> None:
    tokenizer, image = Patches(side * patch, patch), picture(seed, side * patch)
    rows = tokenizer.encode([image])
    assert rows[0].shape == (side * side, 3 * patch * patch) and rows[0].dtype == np.float16
    np.testing.assert_array_equal(tokenizer.decode(rows)[0], image)


def test_numbers_are_in_the_published_order() -> None:
    image = picture(0, 32)
    scaled = torch.from_numpy((image / 255 - MEAN) / DEVIATION).permute(2, 0, 1)[None]
    np.testing.assert_allclose(Patches(32, 8).encode([image])[0], patchify(scaled, 8)[0].numpy(), atol=2e-3)


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(32, 32, 3\), got uint8 \(16, 16, 3\)"):
        Patches(32, 8).encode([picture(0, 16)])
    Patches(32, 8).save(tmp_path / "a")
    assert load_tokenizer(tmp_path / "a").config() == {"size": 32, "patch": 8}


def test_the_row_is_what_models_were_published_with() -> None:
    row = specs("published")["tok_rgb_pixels"]
    assert (row.stream, row.grid, row.length, row.extra) == ("patches", (14, 14), 196, True)
    with pytest.raises(ValueError, match="max_tokens is not that of"):
        TokenSpec("tok_rgb_pixels", "rgb", "values", 32, 8, 3, max_tokens=15, content="pixels")


def test_shards_hold_the_pixels_of_every_view(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (*ROWS, ROW)
    monkeypatch.setattr(table, "_TABLE", {"offline": rows, "published": rows})
    ds = Dataset.open(str(labelled))
    asked = Config(root=str(labelled), executor="local", tokens=TokensConfig(views=2, modalities=["tok_rgb_pixels"]))
    report = tokenize(ds, asked)
    assert not report.failed, report.errors
    ref = "tok_rgb_pixels", ds.current("tok_rgb_pixels")
    tokenizer, checked = Patches(SIDE, 8), 0
    for k in ds.shards():
        shard, index = open_tokens(ds.open_shard(*ref, k)[0]), ds.index(k)
        assert shard.ids == ds.ids(k) and (shard.meta.views, shard.meta.width) == (2, 192)
        for i, sample in enumerate(ds.stream(k)):
            for v in range(2):
                row, view = shard.row(i, v), view_of(index[i].id, 0, v, index[i].width, index[i].height)
                assert row is not None
                expected = cut_image(sample.image, view, SIDE)  # type: ignore[union-attr]
                np.testing.assert_array_equal(as_label(ROW, tokenizer.decode([row])[0]), expected)
                checked += 1
        assert TokenCheck()(ds, ref, k) == ""
    assert checked > 8
    assert maker_of(ds, ds.recipe(ref[1])) == "patches of 8 of 32 pixels", "the same in every data set"
