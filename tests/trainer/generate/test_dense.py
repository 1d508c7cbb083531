"""Dense instances: every point is asked, answers are cut to their point, and what is said twice is one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from labelers.core.masks import mask_overlap
from tests.tokenize_shards.test_grammar_masks import Lookup, scene
from tests.trainer.corpus import tiny_model
from tokenize_shards.grammar import write_box, write_codes
from tokenize_shards.grammar_masks import Cut, cut_instances, picture_of
from tokenize_shards.sequence import SIDE, SequenceTokenizer
from tokenize_shards.views import View
from tokenize_shards.wordpiece import WordPiece, coordinate, split_coordinate
from trainer.generate.decoding import Decoding
from trainer.generate.dense import dense_instances, first_answer, merge, points
from trainer.predict import Predictor
from trainer.streams import Stream

WORDS = WordPiece.fit([])
POINT, POLYGON, NONE = (WORDS.keyword(word) for word in ("point", "polygon", "none"))


class Oracle:
    """Answers like a model that sees the scene: what holds the point, then something about another point."""

    def __init__(self, cut: list[Cut], codec: Lookup) -> None:
        self.cut, self.asked = cut, list[tuple[int, int]]()
        self.codes = codec.encode(np.stack([one.cropped(64) for one in cut]))

    def stream(self, name: str) -> tuple[int, Stream]:
        return 0, Stream(name, "sequence", WORDS.vocab, 290)

    def predict(self, given: Any, target: str, how: Decoding, *, prompts: Any, **_: Any) -> list[np.ndarray]:
        found = []
        for prompt in prompts:
            y, x = (cell[1] for t in prompt[1:] if (cell := split_coordinate(int(t))) is not None)
            self.asked.append((y, x))
            shown = [i for i, one in enumerate(self.cut) if one.contains(y / 999, x / 999)]
            own = [t for i in shown for t in (POLYGON, *write_box(self.cut[i].box), *write_codes(self.codes[i]))]
            found.append(
                np.array([*prompt, *(own or [NONE]), POINT, coordinate(0, 5), coordinate(1, 5), NONE], np.uint16)
            )
        return found


def test_all_that_is_in_the_picture_once() -> None:
    codec = Lookup()
    cut = cut_instances(scene(1), View(0, 0, 90, 90))
    oracle = Oracle(cut, codec)
    tokenizer = SequenceTokenizer("sam_instance", 290, WORDS, codec)
    lexicon: Any = SimpleNamespace(tokenizer=lambda name: tokenizer, allowed=lambda name: None)
    (ids,) = dense_instances(oracle, lexicon, "tok_sam_instance", {}, Decoding(), ["a"], 12)  # type: ignore[arg-type]
    assert sorted(set(oracle.asked)) == sorted(points(12)) and len(oracle.asked) == 144
    found, wanted = tokenizer.decode([ids])[0], picture_of(cut, int(SIDE))
    seen = [
        w for w, one in zip(wanted, sorted(cut, key=lambda c: -c.mask.sum()), strict=True) if _asked(one, oracle.asked)
    ]
    table = mask_overlap(found, seen)
    assert len(found) <= len(seen) and (table.max(axis=0) > 0.7).all(), "each that a point fell on, or one like it"
    others = mask_overlap(found, found) - np.eye(len(found))
    assert (others <= 0.75).all(), "and none twice"


def _asked(one: Cut, asked: list[tuple[int, int]]) -> bool:
    return any(one.contains(y / 999, x / 999) for y, x in asked)


def test_an_answer_ends_where_the_next_point_begins_and_nothing_is_none() -> None:
    assert first_answer([POINT, 1, 2, POLYGON, 3, POINT, 4], POINT) == [POINT, 1, 2, POLYGON, 3]
    assert first_answer([POINT, 1, 2, NONE], POINT) == [POINT, 1, 2, NONE]
    tokenizer = SequenceTokenizer("sam_instance", 290, WORDS, Lookup())
    answer = [POINT, coordinate(0, 9), coordinate(1, 9), NONE]
    assert merge(tokenizer, [answer, answer]).tolist() == answer
    assert tokenizer.decode([merge(tokenizer, [answer])]) == [[]]


def test_a_model_is_asked_with_prompts_it_can_go_on_from() -> None:
    """A random network through the real decoding: whatever it says is read without an error."""
    stream = Stream("tok_sam_instance", "sequence", WORDS.vocab, 290)
    edges = Stream("tok_canny_edge", "image", 8, 4, (2, 2))
    predictor = Predictor(tiny_model([edges, stream]), {})
    codec = Lookup()
    codec.encode(np.ones((4, 64, 64), bool))
    tokenizer = SequenceTokenizer("sam_instance", 290, WORDS, codec)
    allowed = np.array([POINT, POLYGON, NONE, 3, *(coordinate(a, v) for a in range(4) for v in range(4))])
    lexicon: Any = SimpleNamespace(tokenizer=lambda name: tokenizer, allowed=lambda name: allowed)
    given = {"tok_canny_edge": [np.zeros(4, np.uint16)]}
    (ids,) = dense_instances(predictor, lexicon, "tok_sam_instance", given, Decoding(temperature=1.0), ["a"], 3)
    asked = {coordinate(axis, value) for point in points(3) for axis, value in enumerate(point)}
    assert ids[0] == POINT and set(ids.tolist()) <= set(allowed.tolist()) | asked
