"""Streams: refused where they make no sense, the same after JSON, one text table for all sequences."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.trainer.corpus import STREAMS, TEXT_VOCAB
from tokenize_shards import wordpiece
from trainer import streams
from trainer.streams import Stream, tables


def test_special_tokens_are_those_of_the_text_vocabulary() -> None:
    for name in ("PAD", "UNK", "SOS", "EOS", "SENTINEL", "SENTINELS"):
        assert getattr(streams, name) == getattr(wordpiece, name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("image", 8, 6, (2, 2)), "grid"),
        (("image", 8, 6, None), "grid"),
        (("sequence", 204, 6), "special tokens"),
        (("vector", 1, 6), "out of range"),
        (("vector", 65537, 6), "out of range"),
        (("vector", 8, 0), "out of range"),
    ],
)
def test_a_stream_that_makes_no_sense_is_refused(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=f"stream tok_x.*{said}"):
        Stream("tok_x", *arguments)


@pytest.mark.parametrize("stream", STREAMS, ids=lambda s: s.name)
def test_json_gives_the_same_stream_and_the_same_json(stream: Stream) -> None:
    written = json.loads(json.dumps(stream.to_json()))
    assert Stream.from_json(written) == stream
    assert stream.to_json() == written, "a record that was read compares equal to one that was not written yet"


def test_sequences_share_a_table_and_others_have_their_own() -> None:
    assert tables(STREAMS) == {
        "tok_rgb": 64, "tok_canny_edge": 32, "tok_dinov2_global": 32, streams.TEXT: TEXT_VOCAB
    }  # fmt: skip


def test_two_text_vocabularies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tok_b.*text vocabulary of 301, others 300"):
        tables([Stream("tok_a", "sequence", 300, 4), Stream("tok_b", "sequence", 301, 4)])


def test_sequences_have_positions_for_everything_they_can_show_or_predict() -> None:
    assert {s.name for s in STREAMS if s.positions == s.length + 2} == {"tok_caption", "tok_metadata"}
    assert all(s.positions == s.length for s in STREAMS if s.kind != "sequence")
