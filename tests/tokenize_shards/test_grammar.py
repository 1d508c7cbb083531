"""Sequences: what goes in comes out, and whatever a model writes is read without an error."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labelers.core.labeler import Sample
from labelers.core.modality import Null
from labelers.human_poses import POSES
from labelers.metadata import FIELDS, Field, describe, encode_field
from labelers.smpl_poses import SMPL_POSES
from tokenize_shards import grammar, grammar_boxes, grammar_people
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
    low, high = np.array(box[:2]), np.array(box[2:])
    flat = (low + high) / 2 + (high - low).max() * points[:, :2]
    keypoints = np.column_stack([flat, np.full(33, 0.9)]).astype(np.float32)
    return {"box": np.array(box, np.float32), "score": 0.9, "keypoints": keypoints, "keypoints_3d": points}


def people_ids(people: list[dict[str, object]], pose: MLPPQ, view: View = WHOLE, limit: int = 275) -> list[int]:
    tokenizer = SequenceTokenizer("human_poses", limit, WORDS, pose)
    return [int(t) for t in tokenizer.encode([(people, view, "a" * 32, 0)])[0]]


def detections(rows: list[tuple[float, float, float, float, int]]) -> list[dict[str, Any]]:
    """Boxes with corners in order, scores falling."""
    return [
        {
            "box": np.array([min(a, c), min(b, d), max(a, c), max(b, d)], np.float32), "label": COCO_CLASSES[k],
            "score": 1 - i / 1000,
        } for i, (a, b, c, d, k) in enumerate(rows)
    ]  # fmt: skip


BOX = st.tuples(UNIT, UNIT, UNIT, UNIT, st.integers(0, 79))


@given(st.lists(BOX, max_size=51))
@settings(max_examples=60)
def test_boxes_come_back_within_half_a_bin(rows: list[tuple[float, float, float, float, int]]) -> None:
    label = detections(rows)
    found = grammar_boxes.decode_boxes(grammar_boxes.encode_boxes(label, WHOLE, 256))
    cut = grammar_boxes.cut_detections(label, WHOLE)
    order = np.argsort([np.hypot(*one["box"][:2]) for one in cut], kind="stable")
    assert [one["label"] for one in found] == [cut[i]["label"] for i in order]
    for one, i in zip(found, order, strict=True):
        assert np.abs(one["box"] - cut[i]["box"]).max() <= 0.5001 / 999


@given(st.integers(0, 10**6), st.integers(0, 300), st.booleans())
@settings(max_examples=15)
def test_of_three_hundred_boxes_the_surest_are_written_whole(seed: int, limit: int, flip: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = [(*map(float, rng.uniform(0, 100, 4)), int(rng.integers(80))) for _ in range(300)]
    label, view = detections(rows), View(20, 10, 80, 70, flip)
    ids = grammar_boxes.encode_boxes(label, view, limit)
    kept = grammar_boxes.cut_detections(label, view)[: limit // 5]
    assert len(ids) == 5 * len(kept) <= limit
    found = grammar_boxes.decode_boxes(ids)
    assert sorted(one["label"] for one in found) == sorted(one["label"] for one in kept)
    starts = [np.hypot(*one["box"][:2]) for one in found]
    assert all(b - a > -2 / 999 for a, b in pairwise(starts)), "nearest to the origin first, up to rounding"


def test_boxes_follow_the_crop_and_the_flip() -> None:
    label = detections([(10, 20, 30, 60, 49), (60, 60, 61, 61, 7), (90, 0, 100, 100, 3)])
    view = View(0, 0, 80, 80, flip=True)
    found = grammar_boxes.decode_boxes(grammar_boxes.encode_boxes(label, view, 256), side=80)
    assert [one["label"] for one in found] == ["person"], "the second is too small, the third outside"
    assert np.abs(found[0]["box"] - [50, 20, 70, 60]).max() <= 0.5 / 999 * 80 + 1e-4
    assert grammar_boxes.encode_boxes([], view, 256) == []


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
            inside = (
                value if field.kind == "count" else np.clip(value, field.low, field.high)
            )  # the top bin holds the rest
            assert abs(back[field.name] - inside) <= width


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_survives_from_its_lowest_to_its_highest(field: Field) -> None:
    top = field.high if field.kind != "count" else 999 * field.unit
    for value in np.linspace(field.low, top, 41):
        label = {"values": {field.name: float(value)}}
        back = grammar.decode_metadata(grammar.encode_metadata(label))["values"]
        assert encode_field(field, back[field.name]) == encode_field(field, float(value)), (
            "the same bin, the top one too"
        )
        assert {name for name, found in back.items() if found is not None} == {field.name}


def test_people_come_back_with_exact_codes_in_order(pose: MLPPQ) -> None:
    people = [person((60, 60, 90, 95), 1), person((5, 5, 40, 80), 2)]
    ids = people_ids(people, pose)
    assert len(ids) == 36
    back = grammar_people.decode_people(ids, 100, WORDS, pose.decode)
    for found, i in zip(back, (1, 0), strict=True):
        assert np.abs(found["box"] - people[i]["box"]).max() <= 0.051
        assert np.allclose(found["keypoints_3d"].ravel(), pose.decode(pose.encode(people[i]["keypoints_3d"][None]))[0])
        assert np.array_equal(pose.encode(found["keypoints_3d"][None]).shape, (1, 8))


def test_landmarks_lie_where_the_camera_puts_them(pose: MLPPQ) -> None:
    """Only the upper half of a person can be seen, as in a portrait: the box is round that half."""
    rng = np.random.default_rng(5)
    body = rng.normal(0, 0.3, (33, 3)).astype(np.float32)
    body[:, 1] = np.linspace(-0.8, 0.8, 33)
    flat = np.column_stack(
        [50 + 60 * (body[:, 0] + 0.05), 60 + 60 * (body[:, 1] + 0.1), np.where(body[:, 1] < 0, 0.9, 0)]
    )
    seen = flat[flat[:, 2] > 0, :2]
    one = {
        "box": np.concatenate([seen.min(0), seen.max(0)]).astype(np.float32), "score": 0.9,
        "keypoints": flat.astype(np.float32), "keypoints_3d": body,
    }  # fmt: skip
    camera = grammar_people.camera_of(one)
    assert camera is not None
    again = grammar_people.seen_by(body, camera, one["box"])  # type: ignore[arg-type]
    assert np.abs(again[:, :2] - flat[:, :2]).max() < 0.1, "what is hidden lies where it was, outside the box"
    assert (again[:, 2] == (flat[:, 2] > 0)).mean() > 0.9 and again[np.argmax(flat[:, 1]), 2] == 0
    ids = people_ids([one], pose)
    assert len(ids) == 18
    exact = lambda codes: body.reshape(1, -1)  # noqa: E731
    (found,) = grammar_people.decode_people(ids, 100, WORDS, exact)
    on = flat[:, 2] > 0
    assert np.abs(found["keypoints"][on, :2] - flat[on, :2]).max() < 1, "a hundredth of the picture"
    at = ids.index(WORDS.keyword("camera"))
    (old,) = grammar_people.decode_people(ids[:at] + ids[at + 4 :], 100, WORDS, exact)
    assert np.abs(old["keypoints"][on, :2] - flat[on, :2]).max() > 10, "without a camera, the whole body fills the box"
    POSES.check([found])


def test_nobody_to_be_seen_has_no_camera(pose: MLPPQ) -> None:
    one = person((10, 20, 30, 60))
    hidden = one | {"keypoints": one["keypoints"] * np.array([1, 1, 0], np.float32)}  # type: ignore[operator]
    flat = one | {"keypoints": np.ones((33, 3), np.float32)}
    assert grammar_people.camera_of(hidden) is None and grammar_people.camera_of(flat) is None
    assert len(people_ids([hidden], pose)) == 14


def test_a_flip_mirrors_the_camera(pose: MLPPQ) -> None:
    body = np.random.default_rng(1).normal(0, 0.3, (33, 3)).astype(np.float32)
    flat = np.column_stack([40 + 30 * body[:, 0], 50 + 30 * body[:, 1], np.full(33, 0.9)]).astype(np.float32)
    one = {
        "box": np.concatenate([flat.min(0)[:2], flat.max(0)[:2]]),
        "score": 0.9,
        "keypoints": flat,
        "keypoints_3d": body,
    }
    (turned,) = grammar_people.cut_people([one], View(0, 0, 100, 100, flip=True), 100)
    plain, mirrored = grammar_people.camera_of(one), grammar_people.camera_of(turned)
    assert plain is not None and mirrored is not None
    assert np.allclose(mirrored, plain * [1, -1, 1], atol=1e-4)


def test_no_people_and_too_many_people(pose: MLPPQ) -> None:
    assert people_ids([], pose) == [WORDS.keyword("none")]
    crowd = [person((i, i, i + 20, i + 20), i) for i in range(60)]
    assert len(people_ids(crowd, pose)) <= 275


def smpl(box: tuple[float, float, float, float], seed: int) -> dict[str, Any]:
    """A person of smpl_poses with random rotations."""
    rng = np.random.default_rng(seed)
    turns = grammar_people.rotations(rng.normal(size=(24, 3, 3)))
    return {
        "box": np.array(box, np.float32), "score": 0.9, "global_orient": turns[0], "body_pose": turns[1:],
        "betas": rng.uniform(-3, 3, 10).astype(np.float32), "camera": rng.uniform(-1, 19, 3).astype(np.float32),
    }  # fmt: skip


@pytest.fixture(scope="module")
def bodies() -> MLPPQ:
    codec = MLPPQ(MLPPQConfig("smpl_poses", "landmarks", dim=207, heads=8, codes=1024, latent=8, width=32))
    poses = np.stack([smpl((0, 0, 9, 9), seed)["body_pose"].reshape(-1) for seed in range(20)])
    codec.fit(poses, poses[:0], steps=1)
    return codec


def test_a_body_model_takes_the_thirty_nine_tokens_of_4m(bodies: MLPPQ) -> None:
    tokenizer = SequenceTokenizer("smpl_poses", 275, WORDS, bodies, grammar="human_poses")
    person = smpl((5, 5, 60, 80), 2)
    (ids,) = tokenizer.encode([([person], WHOLE, "a" * 32, 0)])
    assert len(ids) == 39
    (found,) = grammar_people.decode_people([int(t) for t in ids], 100, WORDS, bodies.decode)
    SMPL_POSES.check([found])
    assert np.abs(found["box"] - person["box"]).max() <= 0.051
    assert np.abs(found["betas"] - person["betas"]).max() <= 6 / 999 / 2 * 1.001
    assert np.abs(found["camera"] - person["camera"]).max() <= 20 / 999 / 2 * 1.001
    assert np.abs(found["global_orient"] - person["global_orient"]).max() <= 3 / 999
    codes = bodies.encode(person["body_pose"].reshape(1, -1))
    wanted = grammar_people.rotations(bodies.decode(codes).reshape(-1, 3, 3))
    assert np.allclose(found["body_pose"], wanted, atol=1e-5), "the pose's codes are exact"
    orders = {tuple(t for t in tokenizer.encode([([person], WHOLE, f"{i:032x}", 0)])[0] if t >= 4284) for i in range(9)}
    assert len(orders) > 2, "parts come in an order of their own"
    many = tokenizer.encode([([person] * 9, WHOLE, "a" * 32, 0)])[0]
    assert len(many) == 7 * 39, "only whole people"


def test_a_flip_of_a_body_is_the_mirrored_body() -> None:
    person, mirror = smpl((10, 20, 30, 60), 3), np.diag([-1.0, 1, 1])
    (found,) = grammar_people.cut_people([person], View(0, 0, 100, 100, flip=True))
    (again,) = grammar_people.cut_people([found | {"box": np.array([70, 20, 90, 60])}], View(0, 0, 100, 100, True))
    left_knee, right_knee = 3, 4
    assert np.allclose(found["body_pose"][left_knee], mirror @ person["body_pose"][right_knee] @ mirror, atol=1e-6)
    assert np.allclose(found["global_orient"], mirror @ person["global_orient"] @ mirror, atol=1e-6)
    for name in ("body_pose", "global_orient", "camera", "betas"):
        assert np.allclose(again[name], person[name], atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("cut", [(0, 0, 100), (5, 30, 50), (30, 0, 60), (20, 15, 30)])
def test_a_body_whose_box_is_cut_stays_in_its_place(cut: tuple[int, int, int], flip: bool) -> None:
    person, view = smpl((10, 10, 50, 90), 4), View(cut[0], cut[1], cut[0] + cut[2], cut[1] + cut[2], flip)
    person["camera"] = np.array([0.9, 0.1, 0.2], np.float32)
    points = np.random.default_rng(0).normal(0, 0.4, (9, 3)).astype(np.float32)
    wanted = grammar_people.seen_by(points, person["camera"], person["box"])[:, :2]
    (found,) = grammar_people.cut_people([person], view, SIDE)
    mirrored = points * np.array([-1 if flip else 1, 1, 1], np.float32)
    again = grammar_people.seen_by(mirrored, found["camera"], found["box"])[:, :2]
    assert np.abs(view.to_pixels(again / SIDE) - wanted).max() < 1e-3


def test_a_body_whose_camera_cannot_be_written_is_left_out() -> None:
    person, close = smpl((10, 10, 50, 90), 4), smpl((10, 10, 50, 90), 5)
    person["camera"], close["camera"] = np.array([[0.9, 0, 0], [15, 0, 0]], np.float32)
    assert len(grammar_people.fitting([close, person], WHOLE, 275)) == 2
    (found,) = grammar_people.fitting([close, person], View(10, 10, 40, 40), 275)
    assert found["betas"] is person["betas"]


def test_flip_mirrors_box_and_body(pose: MLPPQ) -> None:
    one = person((10, 20, 30, 60))
    (found,) = grammar_people.cut_people([one], View(0, 0, 100, 100, flip=True), 100)
    assert np.allclose(found["box"], [70, 20, 90, 60], atol=1e-3)
    assert found["keypoints_3d"][11, 0] == -one["keypoints_3d"][12, 0]  # type: ignore[index]


@given(st.lists(st.integers(0, 65535), max_size=60))
def test_nothing_a_model_writes_raises(ids: list[int]) -> None:
    poses = lambda codes: np.zeros((len(codes), 99), np.float32)  # noqa: E731
    grammar.decode_palette(ids)
    grammar.decode_metadata(ids)
    grammar_boxes.decode_boxes(ids)
    assert all(len(one["box"]) == 4 for one in grammar_boxes.decode_boxes([204, 1204, 2300, 3300, *ids]))
    grammar_people.decode_people([WORDS.keyword("human"), *ids], 224, WORDS, poses)
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
