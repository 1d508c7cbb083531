"""Metadata: values with known answers, codes that come back as themselves, missing inputs with reasons."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.core.labeler import Sample
from labelers.core.modality import LabelError, Null
from labelers.metadata import BINS, FIELDS, METADATA, Metadata, caption_statistics, colour_statistics, decode_field, encode_field


def sample(image: np.ndarray, **labels: object) -> Sample:
    return Sample("0" * 32, image, {}, labels)


def plain(colour: tuple[int, int, int], height: int = 40, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


@pytest.mark.parametrize("field", [f for f in FIELDS if f.kind == "bins"], ids=lambda f: f.name)
@given(share=st.floats(0, 1))
def test_binned_values_come_back_within_half_a_bin(field, share: float) -> None:  # type: ignore[no-untyped-def]
    value = field.low + share * (field.high - field.low)
    code = encode_field(field, value)
    assert 0 <= code < BINS
    assert abs(decode_field(field, code) - value) <= 0.5001 * (field.high - field.low) / BINS
    assert encode_field(field, decode_field(field, code)) == code
    assert encode_field(field, field.high) == BINS - 1 == encode_field(field, field.high * 10)


@given(value=st.integers(0, 40000))
def test_counts_and_thresholds(value: int) -> None:
    width, words, aesthetic = FIELDS[0], FIELDS[3], FIELDS[20]
    assert abs(decode_field(width, encode_field(width, min(value, 31999))) - min(value, 31999)) < 32
    assert decode_field(words, encode_field(words, value)) == min(value, 999)
    assert encode_field(aesthetic, value / 4000) == (value / 4000 >= 4.5) + (value / 4000 >= 5.5)


def test_known_colour_statistics() -> None:
    grey = colour_statistics(plain((128, 128, 128)))
    assert grey == {"colorfulness": 0, "brightness": 128, "contrast": 0, "saturation": 0, "entropy": 0}
    half = plain((0, 0, 0))
    half[:, 32:] = 255
    stats = colour_statistics(half)
    assert (stats["brightness"], stats["contrast"], stats["entropy"]) == (127.5, 127.5, 1.0)
    red = colour_statistics(plain((255, 0, 0)))
    assert red["saturation"] == 255 and red["colorfulness"] == pytest.approx(0.3 * np.hypot(255, 127.5))


def test_caption_statistics() -> None:
    assert caption_statistics("A cat sleeps. It dreams!") == {"caption_chars": 24, "caption_words": 5, "caption_sentences": 2}
    assert caption_statistics("...")["caption_sentences"] == 1


def test_missing_inputs_leave_reasons_and_the_rest_is_there() -> None:
    label = Metadata().label([sample(plain((9, 9, 9)), caption=Null("no_caption"), human_poses=[{}, {}])])[0]["metadata"]
    METADATA.check(label)
    assert label["values"]["human_count"] == 2 and label["values"]["original_width"] == 64
    assert label["values"]["caption_words"] is None and label["reasons"]["caption_words"] == "no caption: no_caption"
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
