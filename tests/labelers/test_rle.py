"""Run lengths against COCO's own definition, of one mask and of many at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from labelers.core.modality import LabelError
from labelers.core.rle import Rle, Runs, decode_rle, encode_rle, pack_counts, unpack_counts


def coco_text(counts: list[int]) -> str:
    """COCO's compressed counts, one number after the other as its C code does it."""
    out = []
    for i, count in enumerate(counts):
        x, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            group, x = x & 31, x >> 5
            more = x != -1 if group & 16 else x != 0
            out.append(chr(48 + group + 32 * more))
    return "".join(out)


@given(st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 40), min_size=1, max_size=40))
def test_counts_are_those_of_coco(counts: list[int]) -> None:
    text = pack_counts(np.array(counts, np.int64))
    assert text == coco_text(counts)
    assert unpack_counts(text).tolist() == counts


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_mask_comes_back(height: int, width: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    rle = encode_rle(mask)
    back = decode_rle(rle)
    assert back.dtype == np.bool_
    assert np.array_equal(back, mask)
    assert encode_rle(np.asfortranarray(mask)) == rle


def test_columns_come_first() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1:, 1] = True
    assert unpack_counts(encode_rle(mask)["counts"]).tolist() == [4, 2, 6]
    assert encode_rle(mask) == {"size": [3, 4], "counts": "426"}
    assert unpack_counts(encode_rle(~mask)["counts"]).tolist() == [0, 4, 2, 6]


@pytest.mark.parametrize("text", ["", "~", "é", "5P", "/", "Q" * 9 + "0"])
def test_text_that_is_no_counts_is_refused(text: str) -> None:
    with pytest.raises(LabelError, match="counts"):
        unpack_counts(text)


@pytest.mark.parametrize("counts", [[5, 3], [5, 8], [3, 0, 9], [-1, 4, 9]])
def test_runs_that_do_not_fill_the_mask_are_refused(counts: list[int]) -> None:
    with pytest.raises(LabelError, match="run"):
        decode_rle({"size": [3, 4], "counts": pack_counts(np.array(counts))})


@pytest.mark.parametrize("wrong", [np.ones((3, 3), np.uint8), np.ones((3, 3, 1), bool), np.ones((0, 3), bool)])
def test_only_bool_masks_are_encoded(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="bool mask"):
        encode_rle(wrong)


def test_crowds_of_coco_come_back(assets: Path) -> None:
    """COCO stores crowds as run lengths: they must be ours, character for character, once encoded."""
    import json

    truth = json.loads((assets / "gt" / "coco_instances_train128.json").read_text())
    runs = [note["segmentation"] for note in truth["annotations"] if isinstance(note["segmentation"], dict)]
    if not runs:
        pytest.skip("no run lengths among the annotations")
    for rle in runs:
        mask = decode_rle({"size": rle["size"], "counts": pack_counts(np.array(rle["counts"]))})
        assert encode_rle(mask)["counts"] == coco_text(rle["counts"])


# Many at once ---------------------------------------------------------------------------------------------------------


def masks_of(seed: int, number: int, height: int, width: int) -> list[NDArray[np.bool_]]:
    """Empty, full and noisy ones."""
    rng = np.random.default_rng(seed)
    return [rng.random((height, width)) < rng.choice([0, 0.1, 0.5, 1]) for _ in range(number)]


many = given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 20), st.integers(1, 20))


@many
def test_many_masks_are_as_each_alone(seed: int, number: int, height: int, width: int) -> None:
    masks = masks_of(seed, number, height, width)
    rles = [encode_rle(mask) for mask in masks]
    runs = Runs.read(rles)
    assert runs.rles() == rles
    areas, boxes = runs.areas_and_boxes()
    assert areas.tolist() == [mask.sum() for mask in masks]
    for mask, box in zip(masks, boxes.tolist(), strict=True):
        y, x = np.nonzero(mask)
        assert box == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if x.size else [0, 0, 0, 0])
    rows = np.random.default_rng(seed).permutation(number)[: number // 2 + 1]
    assert runs.take(rows).rles() == [rles[row] for row in rows]
    assert [end.tolist() for end in runs.each()] == [np.cumsum(unpack_counts(rle["counts"])).tolist() for rle in rles]


@many
def test_runs_from_where_masks_change(seed: int, number: int, height: int, width: int) -> None:
    masks = masks_of(seed, number, height, width)
    changes = [np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0)) for mask in masks]
    runs = Runs.of((height, width), np.concatenate(changes), np.array([len(one) for one in changes]))
    assert runs.rles() == [encode_rle(mask) for mask in masks]


@many
def test_runs_of_ones(seed: int, number: int, height: int, width: int) -> None:
    masks = masks_of(seed, number, height, width)
    found = np.zeros((number, height * width), bool)
    for start, stop, owner in zip(*Runs.read([encode_rle(mask) for mask in masks]).ones(), strict=True):
        assert start < stop
        found[owner, start:stop] = True
    assert np.array_equal(found, [mask.T.ravel() for mask in masks])


def test_masks_of_several_sizes_are_refused() -> None:
    with pytest.raises(LabelError, match="several sizes"):
        Runs.read([encode_rle(np.ones(shape, bool)) for shape in ((2, 3), (3, 2))])


def test_one_damaged_mask_among_many_is_refused() -> None:
    good = encode_rle(np.ones((3, 4), bool))
    for counts in ("", "~", "5P"):
        with pytest.raises(LabelError, match="counts"):
            Runs.read([good, Rle(size=[3, 4], counts=counts), good])
