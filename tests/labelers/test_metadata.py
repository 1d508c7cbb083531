"""Metadata: values with known answers, codes that come back as themselves, missing inputs with reasons."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.core.labeler import Sample
from labelers.core.modality import LabelError, Null
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
    assert label["reasons"]["walkability"] == "needs semseg"
    stored = pa.array([METADATA.encode(label)], METADATA.arrow).to_pylist()[0]
    assert METADATA.decode(stored) == label
    label["reasons"].pop("walkability")
    with pytest.raises(LabelError, match="without a reason"):
        METADATA.check(label)


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
