"""Instances as sequences: boxes to half a bin, codes exact, points inside what they show, and nothing written in part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labelers.core.masks import Instance, check_masks, instance, largest_first
from labelers.core.rle import decode_rle, encode_rle
from tokenize_shards import grammar_masks
from tokenize_shards.mask_vq import MaskVQ, MaskVQConfig
from tokenize_shards.sequence import SIDE, SequenceTokenizer, codec_items
from tokenize_shards.tokenizer import FitReport, Tokenizer, load_tokenizer
from tokenize_shards.views import View, view_of
from tokenize_shards.wordpiece import WordPiece, split_coordinate

WORDS = WordPiece.fit([])
ID = "ab" * 16


class Lookup(Tokenizer):
    """A codec without loss: it remembers the masks, and the codes are their number."""

    kind = "mask_vq"
    vocab, tokens = 1024, 16

    def __init__(self) -> None:
        self.masks: list[np.ndarray] = []

    def encode(self, batch: np.ndarray) -> np.ndarray:
        assert batch.dtype == np.bool_ and batch.shape[1:] == (64, 64)
        numbers = []
        for mask in batch:  # equal masks have equal codes, as with every codec
            number = next((i for i, known in enumerate(self.masks) if np.array_equal(known, mask)), len(self.masks))
            self.masks += [mask] if number == len(self.masks) else []
            numbers.append(number)
        return np.array([[i // 1024, i % 1024, *range(14)] for i in numbers], np.uint16)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return np.stack([self.masks[int(row[0]) * 1024 + int(row[1])] for row in tokens])

    def config(self) -> dict[str, Any]:
        return {"side": 64}

    def fit(self, train: Any, heldout: Any, **_: Any) -> FitReport:
        raise NotImplementedError

    def tensors(self) -> Mapping[str, np.ndarray]:
        return {}

    @classmethod
    def restore(cls, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Tokenizer:
        raise NotImplementedError


def scene(seed: int, width: int = 120, height: int = 90, count: int = 6) -> list[Instance]:
    """Ellipses that overlap, as a label."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    masks = []
    for _ in range(count):
        cx, cy, a, b = rng.uniform(0, width), rng.uniform(0, height), *rng.uniform(4, 40, 2)
        mask = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
        if mask.any():
            masks.append(instance(encode_rle(mask), 0.9))
    return largest_first(masks)


def whole(
    label: list[Instance], limit: int = 290, view: View | None = None
) -> tuple[list[int], list[Instance], Lookup]:
    """(ids, label they decode to, codec)."""
    codec = Lookup()
    tokenizer = SequenceTokenizer("sam_instance", limit, WORDS, codec)
    (ids,) = tokenizer.encode([(label, view or View(15, 0, 105, 90, frame=(120, 90)), ID, 0)])
    return [int(t) for t in ids], tokenizer.decode([ids])[0], codec  # type: ignore[return-value]


@given(st.integers(0, 10**6), st.booleans(), st.integers(20, 90))
@example(109696, False, 20)  # two masks that both fill the view
@settings(max_examples=25)
def test_masks_come_back_in_place(seed: int, flip: bool, side: int) -> None:
    label = scene(seed)
    view = View(10, 0, 10 + side, side, flip, (120, 90))
    _, found, _ = whole(label, 2000, view)
    check_masks(found, "sam_instance")
    cut = grammar_masks.cut_instances(label, view)
    seen = {i for _, _, shown in grammar_masks.choose(cut, 2000, (ID, 0, 0)).points for i in shown}
    assert len(found) == len({(cut[i].box.tobytes(), cut[i].mask.tobytes()) for i in seen})
    wanted = grammar_masks.picture_of([cut[i] for i in seen], int(SIDE))
    for one in wanted:
        a = decode_rle(one["mask"])
        best = max(((a & b).sum() / (a | b).sum() for b in map(decode_rle, (f["mask"] for f in found))), default=0.0)
        thin = float((one["box"][2:] - one["box"][:2]).min()) < 24  # a pixel of the photo is five of the view
        assert best >= 0.8 or a.sum() < 400 or thin, "a large mask keeps its place and shape up to its 64 cells a side"


def test_points_lie_in_what_they_show_and_say_something_new() -> None:
    label = scene(3)
    ids, _, _ = whole(label, 2000)
    cut = grammar_masks.cut_instances(label, View(15, 0, 105, 90, frame=(120, 90)))
    point, polygon, none = (WORDS.keyword(word) for word in ("point", "polygon", "none"))
    starts = [i for i, token in enumerate(ids) if token == point]
    new: set[tuple[int, ...]] = set()
    for at, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        (axis_y, y), (axis_x, x) = split_coordinate(ids[at + 1]), split_coordinate(ids[at + 2])  # type: ignore[misc]
        assert (axis_y, axis_x) == (0, 1)
        inside = sum(one.contains(y / 999, x / 999) for one in cut)
        body = ids[at + 3 : end]
        assert body.count(polygon) == inside and len(body) == (21 * inside or 1)
        assert inside or body == [none]
        shown = {tuple(body[i : i + 21]) for i in range(0, len(body), 21)}
        assert shown - new
        new |= shown


@pytest.mark.parametrize("limit", [2, 3, 24, 60, 290])
def test_a_limit_leaves_only_whole_points(limit: int) -> None:
    ids, found, _ = whole(scene(5, count=40), limit)
    assert len(ids) <= limit
    assert ids.count(WORDS.keyword("polygon")) * 21 + ids.count(WORDS.keyword("point")) * 3 <= len(ids)
    assert len(ids) < 24 or found


def test_nothing_found_and_nothing_in_the_view_is_one_empty_point() -> None:
    corner = np.zeros((90, 120), bool)
    corner[:5, :5] = True
    for label in ([], [instance(encode_rle(corner), 1.0)]):
        ids, found, _ = whole(label)
        assert len(ids) == 4 and ids[-1] == WORDS.keyword("none") and found == []


def test_a_flip_mirrors_and_another_resolution_lines_up() -> None:
    label = scene(8)
    big = largest_first([
        instance(encode_rle(np.kron(decode_rle(one["mask"]), np.ones((2, 2))) > 0), 0.9) for one in label
    ])  # fmt: skip
    for flip in (False, True):
        view = View(15, 0, 105, 90, flip, (120, 90))
        small, large = (grammar_masks.cut_instances(masks, view) for masks in (label, big))
        assert len(small) == len(large) > 2
        for a, b in zip(small, large, strict=True):
            assert np.allclose(a.box, b.box, atol=1e-6) and np.array_equal(a.mask, b.mask[::2, ::2])
    plain, turned = (grammar_masks.cut_instances(label, View(15, 0, 105, 90, f, (120, 90))) for f in (False, True))
    for a, b in zip(plain, turned, strict=True):
        assert np.array_equal(a.mask, b.mask[:, ::-1])


def test_a_crop_ends_where_its_mask_does() -> None:
    for side in range(1, 64):
        mask = np.zeros((375, 375), bool)
        mask[:side, 100 : 100 + side] = True
        (cut,) = grammar_masks.cut_instances([instance(encode_rle(mask), 1.0)], View(0, 0, 375, 375), 0)
        assert cut.cropped(64).all(), side


def test_views_differ_and_are_the_same_each_time() -> None:
    tokenizer, label = SequenceTokenizer("sam_instance", 290, WORDS, Lookup()), scene(11)
    views = [(label, view_of(ID, 0, n, 120, 90), ID, n) for n in range(4)]
    again = SequenceTokenizer("sam_instance", 290, WORDS, Lookup()).encode(views)
    found = tokenizer.encode(views)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    assert len({ids.tobytes() for ids in found}) == 4


@given(st.lists(st.integers(0, 65535), max_size=40))
@settings(max_examples=25)
def test_nothing_a_model_writes_raises(noise: list[int]) -> None:
    ids, _, codec = whole(scene(1), 60)
    words = [WORDS.keyword("polygon"), WORDS.keyword("point"), *noise]
    grammar_masks.decode_instances([*words, *ids[: len(noise)]], 64, WORDS, codec.decode)


def test_a_file_holds_the_codec(tmp_path: Any) -> None:
    codec = MaskVQ(MaskVQConfig(vocab=16, batch=8))
    masks = codec_items("sam_instance", [(scene(n), view_of(ID, 0, n, 120, 90), ID, n) for n in range(6)])
    assert masks.dtype == np.bool_ and masks.shape[1:] == (64, 64) and len(masks) > 12
    codec.fit(masks, masks[:0], steps=1)
    tokenizer = SequenceTokenizer("sam_instance", 290, WORDS, codec)
    tokenizer.save(tmp_path / "a")
    again = load_tokenizer(tmp_path / "a")
    one = [(scene(9), view_of(ID, 0, 1, 120, 90), ID, 1)]
    assert np.array_equal(tokenizer.encode(one)[0], again.encode(one)[0])
    check_masks(again.decode(again.encode(one))[0], "sam_instance")
