"""The text vocabulary: ids where 4M has them, text that comes back, and nothing in a caption that acts as a control."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenize_shards.wordpiece import (
    CLASS,
    COCO_CLASSES,
    EOS,
    KEYWORDS,
    MAX_VOCAB,
    MAX_WORD,
    PAD,
    SENTINEL,
    SENTINELS,
    SOS,
    UNK,
    WORDS,
    WordPiece,
    base_pieces,
    coordinate,
    normalise,
    reserved,
    split_coordinate,
)

TEXTS = ["A dog runs on the beach.", "Two dogs and a person on the beach", "the dog's ball, 3.5 cm", "el niño corre"]
WORD = WordPiece.fit(TEXTS, min_frequency=1)


def test_the_fixed_part_is_that_of_4m() -> None:
    names = WORD.names
    assert (PAD, UNK, SOS, EOS) == (0, 1, 2, 3)
    assert names[:5] == ("[PAD]", "[UNK]", "[SOS]", "[EOS]", "[S_0]")
    assert (SENTINEL, names[SENTINEL + SENTINELS - 1]) == (4, "[S_199]")
    assert [names.index(f"v{axis}=0") for axis in range(4)] == [204, 1204, 2204, 3204]
    assert (names[1203], names[4203]) == ("v0=999", "v3=999")
    assert (CLASS, WORDS) == (4204, 4284)
    assert names[CLASS:WORDS] == COCO_CLASSES and list(COCO_CLASSES) == sorted(COCO_CLASSES)
    assert len(set(COCO_CLASSES)) == 80
    assert names[WORDS : WORDS + len(KEYWORDS)] == KEYWORDS
    assert names[:WORDS] == reserved() and WORD.vocab == len(names) <= MAX_VOCAB


@given(st.integers(0, 3), st.integers(0, 999))
def test_coordinates_come_back(axis: int, value: int) -> None:
    token = coordinate(axis, value)
    assert split_coordinate(token) == (axis, value)
    assert WORD.names[token] == f"v{axis}={value}"


@pytest.mark.parametrize(("axis", "value"), [(-1, 0), (4, 0), (0, -1), (0, 1000)])
def test_there_are_no_other_coordinates(axis: int, value: int) -> None:
    with pytest.raises(ValueError, match="no coordinate token"):
        coordinate(axis, value)


@pytest.mark.parametrize("token", [-1, 0, 203, CLASS, WORDS, 10**6])
def test_other_ids_are_no_coordinates(token: int) -> None:
    assert split_coordinate(token) is None


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("A dog runs on the beach.", "a dog runs on the beach."),
        ("The dog's ball (3.5 cm), isn't it?", "the dog's ball (3.5 cm), isn't it?"),
        ("El niño corre — über Straße!", "el nino corre — uber straße!"),
        ("line\nbreak\ttab  blanks", "line break tab blanks"),
        ("a teddy bear", "a teddy bear"),
        ("", ""),
    ],
)
def test_text_comes_back_normalised(text: str, back: str) -> None:
    assert WORD.decode(WORD.encode(text)) == back
    assert WORD.encode(WORD.decode(WORD.encode(text))) == WORD.encode(text)


@given(st.text(st.characters(max_codepoint=0x24F), max_size=60))
def test_latin_text_is_never_unknown(text: str) -> None:
    ids = WORD.encode(text)
    assert UNK not in ids
    assert "".join(WORD.decode(ids).split()) == "".join(normalise(text).split())


@given(st.text(max_size=60))
def test_no_text_makes_a_control_or_coordinate_token(text: str) -> None:
    assert all(token == UNK or token >= CLASS for token in WORD.encode(text))


@pytest.mark.parametrize("text", ["[EOS]", "[PAD] [SOS]", "[S_3]", "v0=17", "v1 = 5 [UNK]"])
def test_words_that_look_like_controls_are_plain_text(text: str) -> None:
    ids = WORD.encode(text)
    assert min(ids) >= CLASS
    assert "".join(WORD.decode(ids).split()) == "".join(text.lower().split())


def test_a_strange_character_is_unknown_by_itself() -> None:
    ids = WORD.encode("a dog\U0001f436runs")
    assert ids.count(UNK) == 1
    assert ids == [*WORD.encode("a dog"), UNK, *WORD.encode("runs")]
    assert WORD.decode(ids) == "a dog \ufffd runs"


def test_the_longest_word_and_the_limit() -> None:
    long = "x" * (2 * MAX_WORD + 7)
    assert UNK not in WORD.encode(long)
    assert "".join(WORD.decode(WORD.encode(long)).split()) == long
    assert WORD.encode(long, 5) == WORD.encode(long)[:5]


def test_decoding_leaves_out_what_is_no_text() -> None:
    dog = WORD.encode("dog")
    assert WORD.decode([SOS, *dog, coordinate(2, 5), SENTINEL, PAD, WORD.vocab, 65535, EOS]) == "dog"
    assert WORD.decode([CLASS + COCO_CLASSES.index("hot dog")]) == "hot dog"


def test_fitting_learns_words_and_any_order_gives_the_same() -> None:
    assert len(WORD.encode("the dog on the beach")) == 5, "seen words are whole"
    assert len(WORD.encode("zyxwv")) > 1
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    again = WordPiece.fit(shuffled, min_frequency=1)
    assert (again.digest, again.names) == (WORD.digest, WORD.names)
    assert WordPiece.fit(TEXTS[:1], min_frequency=1).digest != WORD.digest
    assert WordPiece.fit([]).pieces == base_pieces()


def test_fitting_keeps_to_its_size_and_learns_new_letters() -> None:
    small = WORDS + len(base_pieces()) + 10
    fitted = WordPiece.fit(["собака бежит", "собака спит"], vocab_size=small, min_frequency=1)
    assert fitted.vocab <= small and "с" in fitted.ids
    assert UNK not in WordPiece.fit(["собака бежит"], min_frequency=1).encode("бежит собака")
    for wrong in (WORDS, MAX_VOCAB + 1):
        with pytest.raises(ValueError, match="vocab_size is"):
            WordPiece.fit([], vocab_size=wrong)


def test_a_saved_vocabulary_is_any_tokenizers_file(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    WORD.save(tmp_path / "a.json")
    again = WordPiece.load(tmp_path / "a.json")
    assert again.digest == WORD.digest and again.to_json() == WORD.to_json()
    plain = Tokenizer.from_file(str(tmp_path / "a.json"))
    for text in TEXTS:
        assert plain.encode(text).ids == WORD.encode(text)


def test_a_bert_vocabulary_comes_after_ours(tmp_path: Path) -> None:
    lines = ["[PAD]", "[unused0]", "[CLS]", "!", "dog", "##gy", "human", "dog", "person", "doghouse"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    taken = WordPiece.from_vocab_file(tmp_path / "vocab.txt")
    assert taken.pieces[len(base_pieces()) :] == ("##gy", "doghouse"), "the classes dog and person are there already"
    least = WORDS + len(base_pieces())
    assert WordPiece.from_vocab_file(tmp_path / "vocab.txt", least + 1).vocab == least + 1


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (("human",), "not whole pieces"),
        ((*base_pieces(), "dogs", "dogs"), "occur twice"),
        ((*base_pieces(), "[EOS]"), "occur twice or are reserved"),
        ((*base_pieces(), *(f"w{i}" for i in range(MAX_VOCAB))), "at most 30000"),
    ],
)
def test_vocabularies_that_cannot_be_are_refused(pieces: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WordPiece(pieces)


def changed(**ids: int) -> str:
    """The vocabulary's file with some ids changed."""
    parsed = json.loads(WORD.to_json())
    parsed["model"]["vocab"] |= ids
    return json.dumps(parsed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a vocabulary"),
        ("[]", "not a vocabulary"),
        ("{}", "not a vocabulary"),
        (changed(human=3), "ids are not 0..n-1"),
        (changed(**{"[PAD]": 1, "[UNK]": 0}), r"id 0 is '\[UNK\]' where the 4M layout has '\[PAD\]'"),
        (json.dumps({"model": {"vocab": {"[PAD]": 0}}}), "fewer than the 4284"),
    ],
)
def test_files_that_are_no_such_vocabulary_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        WordPiece.load(tmp_path / "a.json")
    assert "a.json" in str(caught.value)
