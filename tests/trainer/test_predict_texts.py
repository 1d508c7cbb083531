"""Predicted sequences are legal in their grammars, whatever the network; and right, once four photos are learned.

Networks are tiny: a random one, and one that has learned four made-up photos by heart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from labelers.core.modality import Null
from labelers.metadata import FIELDS
from tests.trainer.corpus import TINY, as_tensors
from tokenize_shards import grammar, grammar_people
from tokenize_shards.sequence import SIDE, SequenceTokenizer
from tokenize_shards.wordpiece import WordPiece
from trainer.generate.decoding import Decoding
from trainer.loader import Column, Corpus, Loader
from trainer.loss import forward_loss
from trainer.masking import Masker
from trainer.mixture import from_one
from trainer.model import Model
from trainer.predict import Predictor
from trainer.streams import Stream

PHOTOS = 4
CAPTIONS = ("a red ball", "waves by the sea", "two people", "snow")
WORDS = WordPiece.fit(CAPTIONS)
RGB = np.repeat(np.arange(PHOTOS, dtype=np.uint16), 4).reshape(PHOTOS, 1, 4)  # each photo has one colour
LIMITS = {"caption": 16, "color_palette": 13, "metadata": 8, "human_poses": 30}
STREAMS = (
    Stream("tok_rgb", "image", 16, 4, (2, 2)),
    *(Stream(f"tok_{m}", "sequence", WORDS.vocab, n, pairs=m == "metadata") for m, n in LIMITS.items()),
)


def metadata(i: int) -> dict[str, Any]:
    return {"values": {FIELDS[2].name: 10 + i, FIELDS[3].name: 2 + i}}  # characters and words of its caption


def texts() -> dict[str, list[list[int]]]:
    """What the four photos say of themselves: captions, palettes, metadata, and that there is nobody."""
    palettes = [
        [np.random.default_rng([i, n]).integers(0, 256, (n, 3)).astype(np.uint8) for n in range(1, 5)]
        for i in range(PHOTOS)
    ]
    return {
        "caption": [WORDS.encode(text) for text in CAPTIONS],
        "color_palette": [grammar.encode_palette(p, ("id", 0, i)) for i, p in enumerate(palettes)],
        "metadata": [grammar.encode_metadata(metadata(i)) for i in range(PHOTOS)],
        "human_poses": [[WORDS.keyword("none")]] * PHOTOS,
    }


def column(rows: list[list[int]]) -> Column:
    ids = np.array([token for row in rows for token in row], np.uint16)
    return Column(ids, np.ones(len(rows), np.bool_), np.cumsum([0, *map(len, rows)]))


@pytest.fixture(scope="module")
def random_one() -> Predictor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Predictor(Model(STREAMS, TINY, tied=True), {})


@pytest.fixture(scope="module")
def learned() -> Predictor:
    """Trained to say everything of each photo from RGB alone."""
    valid = np.ones(PHOTOS, np.bool_)
    shard = {"tok_rgb": Column(RGB, valid)}
    shard |= {f"tok_{name}": column(rows) for name, rows in texts().items()}
    corpus = Corpus(STREAMS, [shard], [np.zeros(PHOTOS, np.bool_)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(STREAMS, TINY).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    loader, masker = Loader(corpus, PHOTOS, 0), Masker(STREAMS, [from_one("tok_rgb")], 4, 40)
    for step in range(240):
        loss = forward_loss(model, as_tensors(masker(loader.next(), np.random.default_rng([0, step])))).mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Predictor(model, {})


def predict(predictor: Predictor, modality: str, temperature: float = 0.0) -> list[list[int]]:
    allowed = grammar.allowed_ids(modality, WORDS)
    given = {"tok_rgb": RGB[:, 0]}
    found = predictor.predict(given, f"tok_{modality}", Decoding(temperature=temperature), allowed=allowed)
    return [row.tolist() for row in found]


def decoder(modality: str) -> Callable[[list[int]], Any]:
    if modality == "human_poses":  # bodies that stand still: the codec of poses has tests of its own
        body = np.random.default_rng(0).normal(size=(1, 33, 3)).astype(np.float32)
        return lambda ids: grammar_people.decode_people(ids, SIDE, WORDS, lambda codes: body)
    tokenizer = SequenceTokenizer(modality, LIMITS[modality], WORDS)
    return lambda ids: tokenizer.decode([ids])[0]


def check_legal(modality: str, label: Any) -> None:
    """Whatever was written, what is decoded is a label of the modality, or a null with a reason."""
    if isinstance(label, Null):
        assert label.reason
    elif modality == "caption":
        assert isinstance(label, str) and label and "[" not in label
    elif modality == "color_palette":
        assert len(label) == 1 and label[0].dtype == np.uint8 and label[0].shape[1:] == (3,) and len(label[0]) >= 1
    elif modality == "metadata":
        assert set(label["values"]) == {field.name for field in FIELDS}
        assert all((value is None) == (name in label["reasons"]) for name, value in label["values"].items())
    else:
        assert all((p["box"] >= 0).all() and (p["box"] <= SIDE).all() and len(p["keypoints"]) == 33 for p in label)


@pytest.mark.parametrize("modality", LIMITS)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_what_a_random_network_writes_is_read_without_an_error(
    random_one: Predictor, modality: str, temperature: float
) -> None:
    allowed = set(grammar.allowed_ids(modality, WORDS).tolist())
    for ids in predict(random_one, modality, temperature):
        assert set(ids) <= allowed and len(ids) <= LIMITS[modality]
        check_legal(modality, decoder(modality)(ids))


def test_every_word_of_a_caption_is_allowed() -> None:
    assert set(WORDS.encode("a dog and a cat")) <= set(grammar.allowed_ids("caption", WORDS).tolist())


@pytest.mark.parametrize("modality", ["caption", "color_palette", "human_poses"])
def test_what_was_learned_by_heart_is_written_from_rgb_alone(learned: Predictor, modality: str) -> None:
    assert predict(learned, modality) == texts()[modality]


def test_pairs_learned_by_heart_are_each_written_once(learned: Predictor) -> None:
    for i, ids in enumerate(predict(learned, "metadata")):
        wanted = grammar.encode_metadata(metadata(i))
        assert sorted(zip(ids[::2], ids[1::2], strict=True)) == sorted(zip(wanted[::2], wanted[1::2], strict=True))
        assert decoder("metadata")(ids)["values"] == decoder("metadata")(wanted)["values"]


def test_each_photo_has_its_own_text(learned: Predictor) -> None:
    """Another order of photos gives the texts in that order: they come from the tokens that are given."""
    given = {"tok_rgb": RGB[::-1, 0]}
    found = learned.predict(given, "tok_caption", allowed=grammar.allowed_ids("caption", WORDS))
    assert [WORDS.decode(ids) for ids in found] == list(CAPTIONS[::-1])
