"""Sequences: what goes in comes out, and whatever a model writes is read without an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labelers.core.labeler import Sample
from labelers.core.modality import Null
from labelers.metadata import FIELDS, Metadata, describe
from tokenize_shards import grammar
from tokenize_shards.mlp_pq import MLPPQ, MLPPQConfig
from tokenize_shards.sequence import SIDE, SequenceTokenizer
from tokenize_shards.tokenizer import load_tokenizer
from tokenize_shards.views import View, view_of
from tokenize_shards.wordpiece import COCO_CLASSES, WordPiece, normalise

WORDS = WordPiece.fit(["a cat sits on a mat", "two people ride horses"])
WHOLE = View(0, 0, 100, 100)
UNIT = st.floats(0, 100, width=32)


@pytest.fixture(scope="module")
def pose() -> MLPPQ:
    """A codec of random poses, fitted for one step: enough for exact codes."""
    codec = MLPPQ(MLPPQConfig("human_poses", "landmarks", dim=99, heads=8, codes=1024, latent=8, width=32))
    codec.fit(
        np.random.default_rng(0).normal(0, 0.3, (40, 99)).astype(np.float32), np.zeros((0, 99), np.float32), steps=1
    )
    return codec


def person(box: tuple[float, float, float, float], seed: int = 0) -> dict[str, object]:
    points = np.random.default_rng(seed).normal(0, 0.3, (33, 3)).astype(np.float32)
    return {"box": np.array(box, np.float32), "score": 0.9, "keypoints": np.abs(points) * 50, "keypoints_3d": points}


@given(st.lists(st.tuples(UNIT, UNIT, UNIT, UNIT, st.integers(0, 79)), max_size=300))
@settings(max_examples=60)
def test_boxes_come_back_within_half_a_bin(rows: list[tuple[float, float, float, float, int]]) -> None:
    boxes = np.array([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d, _ in rows], np.float32).reshape(
        -1, 4
    )
    found = grammar.decode_boxes(grammar.encode_boxes(boxes, [row[4] for row in rows], WHOLE))
    from tokenize_shards.views import cut_boxes

    cut, kept = cut_boxes(boxes, WHOLE)
    order = np.argsort(np.hypot(cut[:, 0], cut[:, 1]), kind="stable")
    assert [name for _, name in found] == [COCO_CLASSES[rows[int(kept[i])][4]] for i in order]
    for (box, _), i in zip(found, order, strict=True):
        assert np.abs(box - cut[i]).max() <= 0.5001 / 999


@given(st.lists(arrays(np.uint8, (7, 3)), min_size=1, max_size=1), st.integers(0, 50))
def test_palettes_are_exact(colours: list[np.ndarray], number: int) -> None:
    palettes = [colours[0][: n + 1] for n in range(7)]
    ids = grammar.encode_palette(palettes, ("a" * 32, 0, number))
    decoded = grammar.decode_palette(ids)
    assert not isinstance(decoded, Null) and np.array_equal(decoded[0], palettes[len(decoded[0]) - 1])
    assert len(ids) == 1 + 3 * len(decoded[0]) <= 23


def test_every_palette_size_is_drawn() -> None:
    palettes = [np.zeros((n + 1, 3), np.uint8) for n in range(7)]
    assert {len(grammar.encode_palette(palettes, (f"{i:032x}", 0, 0))) for i in range(80)} == {
        1 + 3 * n for n in range(1, 8)
    }


@given(arrays(np.uint8, (5, 7, 3)))
def test_metadata_comes_back_within_a_bin(image: np.ndarray) -> None:
    label = describe(Sample("0" * 32, image, {}, {"caption": "a b.", "human_poses": []}))
    ids = grammar.encode_metadata(label)
    assert len(ids) <= 40
    back = grammar.decode_metadata(ids)["values"]
    for field in FIELDS:
        value = label["values"][field.name]
        width = field.unit if field.kind == "count" else (field.high - field.low) / 50
        assert (back[field.name] is None) == (value is None)
        if value is not None:
            assert abs(back[field.name] - value) <= width
    assert Metadata.reads == ("caption", "human_poses")


def test_people_come_back_with_exact_codes_in_order(pose: MLPPQ) -> None:
    people = [person((60, 60, 90, 95), 1), person((5, 5, 40, 80), 2)]
    ids = grammar.encode_people(people, WHOLE, 275, WORDS, pose.encode)
    assert len(ids) == 28
    back = grammar.decode_people(ids, 100, WORDS, pose.decode)
    for found, i in zip(back, (1, 0), strict=True):
        assert np.abs(found["box"] - people[i]["box"]).max() <= 0.051
        assert np.allclose(found["keypoints_3d"].ravel(), pose.decode(pose.encode(people[i]["keypoints_3d"][None]))[0])
        assert np.array_equal(pose.encode(found["keypoints_3d"][None]).shape, (1, 8))


def test_no_people_and_too_many_people(pose: MLPPQ) -> None:
    assert grammar.encode_people([], WHOLE, 275, WORDS, pose.encode) == [WORDS.keyword("none")]
    crowd = [person((i, i, i + 20, i + 20), i) for i in range(60)]
    assert len(grammar.encode_people(crowd, WHOLE, 275, WORDS, pose.encode)) <= 275


def test_flip_mirrors_box_and_body(pose: MLPPQ) -> None:
    one = person((10, 20, 30, 60))
    (found,) = grammar.cut_people([one], View(0, 0, 100, 100, flip=True), 100)
    assert np.allclose(found["box"], [70, 20, 90, 60], atol=1e-3)
    assert found["keypoints_3d"][11, 0] == -one["keypoints_3d"][12, 0]  # type: ignore[index]


@given(st.lists(st.integers(0, 65535), max_size=60))
def test_nothing_a_model_writes_raises(ids: list[int]) -> None:
    poses = lambda codes: np.zeros((len(codes), 99), np.float32)  # noqa: E731
    grammar.decode_palette(ids)
    grammar.decode_metadata(ids)
    grammar.decode_boxes(ids)
    grammar.decode_people([WORDS.keyword("human"), *ids], 224, WORDS, poses)
    WORDS.decode(ids)


@given(st.text(max_size=40))
def test_text_is_exact_after_normalisation(text: str) -> None:
    ids = WORDS.encode(text)
    if 1 not in ids:  # [UNK]: a script the vocabulary has no letters of
        assert "".join(WORDS.decode(ids).split()) == "".join(normalise(text).split())


def test_one_file_holds_it_all(tmp_path: Path, pose: MLPPQ) -> None:
    for modality, codec in (("caption", None), ("human_poses", pose)):
        tokenizer = SequenceTokenizer(modality, 275, WORDS, codec)
        tokenizer.save(tmp_path / modality)
        again = load_tokenizer(tmp_path / modality)
        label = "A cat on a mat." if codec is None else [person((10, 10, 50, 90))]
        view = view_of("a" * 32, 0, 0, 100, 100)
        (first,), (second,) = tokenizer.encode([(label, view, "a" * 32, 0)]), again.encode([(label, view, "a" * 32, 0)])
        assert first.dtype == np.uint16 and np.array_equal(first, second)
        decoded = again.decode([second])[0]
        assert decoded == "a cat on a mat." if codec is None else float(decoded[0]["box"].max()) <= SIDE
