"""Captions: where they are looked for, and why there is none."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.caption import CAPTION, Caption
from labelers.core.labeler import Sample
from labelers.core.modality import LabelError, Null
from labelers.core.show import Words

EMPTY = np.zeros((0, 0, 3), np.uint8)


def caption(**sidecars: bytes) -> str | Null:
    """What the labeler says of an image with these side-cars."""
    label = Caption().label([Sample("0" * 32, EMPTY, sidecars)])[0]["caption"]
    return label if isinstance(label, Null) else str(label)


@pytest.mark.parametrize(
    ("sidecars", "want"),
    [
        ({"txt": b"  A dog.\r\n"}, "A dog."),
        ({"txt": "\ufeffTwo b\u00e4ren".encode()}, "Two b\u00e4ren"),
        ({"txt": b"text", "json": b'{"caption": "record"}'}, "text"),
        ({"txt": b" \n", "json": b'{"caption": "record"}'}, "record"),
        ({"json": b'{"text": " second key "}'}, "second key"),
        ({"json": b'{"caption": "", "text": "not empty"}'}, "not empty"),
        ({"json": b'{"caption": 7, "text": "a text"}'}, "a text"),
        ({}, Null("no_caption")),
        ({"txt": b""}, Null("no_caption")),
        ({"json": b'{"url": "http://a.example"}'}, Null("no_caption")),
        ({"json": b"[1, 2]"}, Null("no_caption")),
        ({"json": b"{broken"}, Null("bad_json_sidecar")),
        ({"json": b"\xff\xfe\xfa"}, Null("bad_json_sidecar")),
        ({"json": b"[" * 200_000}, Null("bad_json_sidecar")),
        ({"txt": b"caf\xe9"}, Null("caption_not_utf8")),
        ({"json": b'{"caption": "half \\ud83d"}'}, Null("caption_not_utf8")),
    ],
)
def test_where_captions_come_from(sidecars: dict[str, bytes], want: str | Null) -> None:
    assert caption(**sidecars) == want


def test_another_key_by_parameter() -> None:
    labeler = Caption(Caption.Params(json_keys=("alt",)))
    label = labeler.label([Sample("0" * 32, EMPTY, {"json": b'{"caption": "no", "alt": "yes"}'})])[0]
    assert label == {"caption": "yes"}


@given(st.dictionaries(st.sampled_from(["txt", "json"]), st.binary(max_size=60)))
def test_any_bytes_give_a_good_caption_or_a_reason(sidecars: dict[str, bytes]) -> None:
    label = caption(**sidecars)
    if not isinstance(label, Null):
        CAPTION.check(label)


@given(st.text(min_size=1))
def test_text_comes_through_both_side_cars_and_storage(text: str) -> None:
    want = text.strip() if text.strip() else Null("no_caption")
    assert caption(json=json.dumps({"caption": text}).encode()) == want
    if not isinstance(want, Null):
        CAPTION.check(want)
        assert CAPTION.decode(pa.array([CAPTION.encode(want)], CAPTION.arrow).to_pylist()[0]) == want


@pytest.mark.parametrize("wrong", ["", " a", 7, None, "\ud83d"])
def test_wrong_labels_are_refused(wrong: object) -> None:
    with pytest.raises(LabelError, match="caption"):
        CAPTION.check(wrong)


def test_shown_as_words_and_needs_no_pixels() -> None:
    assert CAPTION.show("A dog.", None) == Words("A dog.")
    assert not Caption.uses_pixels
