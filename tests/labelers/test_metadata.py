"""Metadata: values with known answers, codes that come back as themselves, missing inputs with reasons."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.core.class_map import NUMBER_OF
from labelers.core.coco import STUFF
from labelers.core.depth_map import DepthMap
from labelers.core.labeler import Sample
from labelers.core.modality import LabelError, Null
from labelers.core.scene_numbers import WALKABLE, from_depth
from labelers.metadata import (
    BINS,
    BY_NAME,
    FIELDS,
    METADATA,
    Field,
    Metadata,
    caption_statistics,
    colour_statistics,
    decode_field,
    encode_field,
)
from tests.labelers.corpus import scene


def sample(image: np.ndarray, **labels: object) -> Sample:
    return Sample("0" * 32, image, {}, labels)


def plain(colour: tuple[int, int, int], height: int = 40, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize("field", [f for f in FIELDS if f.kind == "bins"], ids=lambda f: f.name)
@given(share=st.floats(0, 1))
def test_binned_values_come_back_within_half_a_bin(field: Field, share: float) -> None:
    value = field.low + share * (field.high - field.low)
    code = encode_field(field, value)
    assert 0 <= code < BINS
    assert abs(decode_field(field, code) - value) <= 0.5001 * (field.high - field.low) / BINS
    assert encode_field(field, decode_field(field, code)) == code
    assert encode_field(field, field.high) == BINS - 1 == encode_field(field, field.high * 10)


@pytest.mark.parametrize("field", [f for f in FIELDS if f.kind == "count"], ids=lambda f: f.name)
@given(value=st.integers(0, 40_000))
def test_counts_come_back_within_their_unit_up_to_the_top_code(field: Field, value: int) -> None:
    code = encode_field(field, value)
    assert code == min(value // field.unit, 999)
    assert encode_field(field, decode_field(field, code)) == code
    if code < 999:
        assert 0 <= value - decode_field(field, code) < field.unit


@pytest.mark.parametrize("field", [f for f in FIELDS if f.kind == "threshold"], ids=lambda f: f.name)
@given(share=st.floats(0, 1))
def test_thresholds_come_back_on_the_same_side(field: Field, share: float) -> None:
    value = field.low + share * (field.high - field.low)
    code = encode_field(field, value)
    assert code == sum(value >= t for t in field.thresholds)
    assert encode_field(field, decode_field(field, code)) == code


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
@given(code=st.integers(0, 999))
def test_any_code_a_model_may_say_decodes_into_the_range(field: Field, code: int) -> None:
    value = decode_field(field, code)
    assert value >= field.low
    assert field.kind == "count" or value <= field.high
    assert encode_field(field, value) <= code


def test_ids_are_the_published_ones() -> None:
    assert [f.id for f in FIELDS] == list(range(21))
    published = {"human_count": 5, "colorfulness": 9, "entropy": 13, "semantic_diversity": 16, "aesthetic": 20}
    assert {name: BY_NAME[name].id for name in published} == published


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_colour_statistics_are_those_of_the_definition(seed: int, width: int, height: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    red, green, blue = image.astype(float).transpose(2, 0, 1)
    rg, yb = red - green, (red + green) / 2 - blue
    want = np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    got = colour_statistics(image)
    assert got["colorfulness"] == pytest.approx(want)
    assert got["brightness"] == pytest.approx((0.299 * red + 0.587 * green + 0.114 * blue).mean(), abs=0.6)
    low, high = image.min(axis=2).astype(float), image.max(axis=2).astype(float)
    assert got["saturation"] == pytest.approx((255 * (high - low) / np.maximum(high, 1)).mean(), abs=0.6)
    assert 0 <= got["entropy"] <= 8
    assert 0 <= got["contrast"] <= 127.5


def test_known_colour_statistics() -> None:
    grey = colour_statistics(plain((128, 128, 128)))
    assert grey == {"colorfulness": 0, "brightness": 128, "contrast": 0, "saturation": 0, "entropy": 0}
    half = plain((0, 0, 0))
    half[:, 32:] = 255
    stats = colour_statistics(half)
    assert (stats["brightness"], stats["contrast"], stats["entropy"]) == (127.5, 127.5, 1.0)
    red = colour_statistics(plain((255, 0, 0)))
    assert red["saturation"] == 255
    assert red["colorfulness"] == pytest.approx(0.3 * np.hypot(255, 127.5))


def test_caption_statistics() -> None:
    counts = caption_statistics("A cat sleeps. It dreams!")
    assert counts == {"caption_chars": 24, "caption_words": 5, "caption_sentences": 2}
    assert caption_statistics("...")["caption_sentences"] == 1


def test_missing_inputs_leave_reasons_and_the_rest_is_there() -> None:
    bare = sample(plain((9, 9, 9)), caption=Null("no_caption"), human_poses=[{}, {}])
    label = Metadata().label([bare])[0]["metadata"]
    METADATA.check(label)
    assert label["values"]["human_count"] == 2
    assert label["values"]["original_width"] == 64
    assert label["values"]["caption_words"] is None
    assert label["reasons"]["caption_words"] == "no caption: no_caption"
    assert label["reasons"]["walkability"] == "no semseg: not labelled"
    stored = pa.array([METADATA.encode(label)], METADATA.arrow).to_pylist()[0]
    assert METADATA.decode(stored) == label
    label["reasons"].pop("walkability")
    with pytest.raises(LabelError, match="without a reason"):
        METADATA.check(label)


def everything() -> dict[str, object]:
    """One label of each modality that metadata reads."""
    classes = np.full((40, 64), NUMBER_OF["road"], np.uint8)
    classes[:10], classes[10:20, :32], classes[20, :] = NUMBER_OF["sky-other-merged"], NUMBER_OF["car"], 0
    normals = np.zeros((40, 64, 3), np.float32)
    normals[:, :32, 2], normals[:, 32:, 0] = 1, 1
    depth = np.full((224, 224), 2.0, np.float32)
    depth[:, 112:] = 9.0
    box = {"box": np.array([0, 0, 9, 9], np.float32), "score": 0.9}
    return {
        "caption": "A car. A road.", "human_poses": [{}], "sam_instance": [{}] * 7,
        "det": [{**box, "label": "car"}, {**box, "label": "car"}, {**box, "label": "dog"}],
        "semseg": classes, "normal": normals, "depth": DepthMap(depth, "metre"),
        "watermark": np.array([0.7], np.float32), "aesthetic": np.array([5.0], np.float32),
    }  # fmt: skip


def test_every_field_from_its_own_input() -> None:
    label = Metadata().label([sample(plain((9, 9, 9)), **everything())])[0]["metadata"]
    METADATA.check(label)
    values = label["values"]
    assert label["reasons"] == {}
    known = 40 * 64 - 64
    assert values["walkability"] == pytest.approx((30 * 64 - 64 - 320) / known)
    assert values["objectness"] == pytest.approx(320 / known)
    assert values["geometric_complexity"] == pytest.approx(1 - np.sqrt(0.5))
    assert values["occlusion"] == pytest.approx(2 / 224)  # a step is seen from both sides
    wanted = {"semantic_diversity": 3, "coco_count": 3, "coco_diversity": 2, "sam_count": 7, "human_count": 1}
    assert {name: values[name] for name in wanted} == wanted
    assert (values["watermark"], values["aesthetic"]) == (pytest.approx(0.7), 5.0)


@pytest.mark.parametrize("gone", [*everything()])
def test_each_input_that_is_missing_costs_its_own_fields(gone: str) -> None:
    labels = everything() | {gone: Null("the network was ill")}
    label = Metadata().label([sample(plain((9, 9, 9)), **labels)])[0]["metadata"]
    METADATA.check(label)
    assert set(label["reasons"]) == {f.name for f in FIELDS if f.needs == gone}
    assert set(label["reasons"].values()) == {f"no {gone}: the network was ill"}


def test_a_map_of_mostly_nothing_says_nothing_about_the_scene() -> None:
    classes = np.zeros((40, 64), np.uint8)
    classes[:4] = NUMBER_OF["person"]
    normals = np.zeros((40, 64, 3), np.float32)
    depth = DepthMap(np.where(np.arange(64) < 60, np.nan, 1).astype(np.float32)[None].repeat(40, 0), "relative")
    labels = everything() | {"semseg": classes, "normal": normals, "depth": depth}
    reasons = Metadata().label([sample(plain((9, 9, 9)), **labels)])[0]["metadata"]["reasons"]
    assert set(reasons) == {"walkability", "objectness", "semantic_diversity", "geometric_complexity", "occlusion"}
    assert reasons["walkability"] == "semseg: 10 % of the pixels have a class"


def test_occlusion_does_not_depend_on_size_or_scale() -> None:
    y, x = np.mgrid[:60, :80]
    depth = np.where((x - 40) ** 2 + (y - 30) ** 2 < 400, 1.0, 5.0).astype(np.float32)
    first = from_depth(DepthMap(depth, "metre"))[0]["occlusion"]
    large = from_depth(DepthMap(np.kron(depth, np.ones((4, 4), np.float32)) * 7, "relative"))[0]["occlusion"]
    assert first == pytest.approx(large) and 0.01 < first < 0.1
    assert from_depth(DepthMap(np.ones((1, 1), np.float32), "metre")) == ({"occlusion": 0.0}, {})
    assert "too narrow" in from_depth(DepthMap(np.ones((1, 9000), np.float32), "metre"))[1]["occlusion"]


def test_walkable_and_things_are_classes_and_none_is_both() -> None:
    assert set(WALKABLE) <= set(STUFF)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (8, 8)])
def test_odd_shapes(shape: tuple[int, int]) -> None:
    label = Metadata().label([sample(plain((0, 0, 0), *shape))])[0]["metadata"]
    METADATA.check(label)
    assert label["values"]["original_height"] == shape[0]


def test_nobody_in_the_picture_is_a_count_and_an_unlabelled_one_is_not() -> None:
    nobody = Metadata().label([sample(scene(), caption="A red wall.", human_poses=[])])[0]["metadata"]
    assert nobody["values"]["human_count"] == 0
    assert nobody["values"]["caption_words"] == 3
    alone = Metadata().label([sample(scene())])[0]["metadata"]
    assert alone["reasons"]["human_count"] == "no human_poses: not labelled"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1, "7"])
def test_a_wrong_value_is_refused(wrong: object) -> None:
    label = Metadata().label([sample(scene())])[0]["metadata"]
    label["values"]["brightness"] = wrong
    with pytest.raises(LabelError, match="brightness"):
        METADATA.check(label)
