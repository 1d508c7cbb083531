"""The tokenizer of sequences: each modality's grammar behind one interface and in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelers.core.labeler import Sample
from labelers.core.modality import Null
from labelers.metadata import describe
from tokenize_shards.mlp_pq import MLPPQ, MLPPQConfig
from tokenize_shards.sequence import SIDE, SequenceTokenizer
from tokenize_shards.table import GRAMMARS
from tokenize_shards.tokenizer import load_tokenizer
from tokenize_shards.views import View
from tokenize_shards.wordpiece import WordPiece, coordinate

ID = "ab" * 16
LEFT = View(0, 0, 100, 100)
WORDS = WordPiece.fit(["a red boat on a lake"], min_frequency=1)
PALETTES = [np.arange(3 * n, dtype=np.uint8).reshape(n, 3) for n in range(1, 8)]


@pytest.fixture(scope="module")
def pose() -> MLPPQ:
    codec = MLPPQ(MLPPQConfig("human_poses", "landmarks", dim=99, heads=8, codes=1024, latent=8, width=16))
    bodies = np.random.default_rng(0).normal(0, 0.3, (20, 99)).astype(np.float32)
    codec.fit(bodies, bodies[:0], steps=1)
    return codec


def person(*box: float) -> dict[str, Any]:
    body = np.random.default_rng(1).normal(0, 0.3, (33, 3)).astype(np.float32)
    return {"box": np.array(box, np.float32), "score": 0.9, "keypoints": np.abs(body) * 50, "keypoints_3d": body}


def one(tokenizer: SequenceTokenizer, label: Any, view: View = LEFT, number: int = 0) -> np.ndarray:
    (found,) = tokenizer.encode([(label, view, ID, number)])
    assert found.dtype == np.uint16 and found.ndim == 1
    return found


def test_captions_are_cut_at_the_limit() -> None:
    tokenizer = SequenceTokenizer("caption", 3, WORDS)
    ids = one(tokenizer, "A red boat on a lake")
    assert tokenizer.decode([ids]) == ["a red boat"]
    assert one(SequenceTokenizer("caption", 256, WORDS), "A red boat on a lake").tolist()[:3] == ids.tolist()


def test_no_text_is_a_null() -> None:
    (found,) = SequenceTokenizer("caption", 9, WORDS).decode([[coordinate(0, 5)]])
    assert isinstance(found, Null) and found.reason


def test_a_palette_depends_on_seed_and_view_number_alone() -> None:
    tokenizer, other = (SequenceTokenizer("color_palette", 23, WORDS, seed=seed) for seed in (0, 1))
    drawn = [one(tokenizer, PALETTES, number=n).tolist() for n in range(12)]
    assert drawn == [one(tokenizer, PALETTES, View(5, 5, 9, 9, True), n).tolist() for n in range(12)]
    assert drawn != [one(other, PALETTES, number=n).tolist() for n in range(12)]
    assert len({len(ids) for ids in drawn}) > 2
    for ids, found in zip(drawn, tokenizer.decode(drawn), strict=True):
        assert np.array_equal(found[0], PALETTES[(len(ids) - 1) // 3 - 1])


def test_metadata_comes_back() -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    label = describe(Sample(ID, image, {}, {"caption": "a boat. a lake.", "human_poses": []}))
    tokenizer = SequenceTokenizer("metadata", 42, WORDS)
    (back,) = tokenizer.decode([one(tokenizer, label)])
    assert (back["values"]["original_width"], back["values"]["original_height"]) == (96, 64)
    assert back["values"]["caption_sentences"] == 2 and back["values"]["human_count"] == 0
    assert back["values"].keys() == label["values"].keys()


def test_people_follow_the_view(pose: MLPPQ) -> None:
    tokenizer = SequenceTokenizer("human_poses", 275, WORDS, pose)
    people = [person(10, 20, 30, 60)]
    plain, flipped = (tokenizer.decode([one(tokenizer, people, View(0, 0, 100, 100, f))])[0][0] for f in (False, True))
    assert np.allclose(plain["box"], np.array([10, 20, 30, 60]) * SIDE / 100, atol=0.2)
    assert np.allclose(flipped["box"], np.array([70, 20, 90, 60]) * SIDE / 100, atol=0.2)
    assert plain["keypoints"][:, :2].min(0).tolist() == pytest.approx(plain["box"][:2].tolist())
    away = View(100, 100, 200, 200)
    assert one(tokenizer, people, away).tolist() == [WORDS.keyword("none")]
    assert tokenizer.decode([one(tokenizer, people, away)]) == [[]]


@pytest.mark.parametrize("modality", [name for name in GRAMMARS if name != "sam_instance"])
def test_a_file_holds_the_whole_tokenizer(tmp_path: Path, pose: MLPPQ, modality: str) -> None:
    codec = pose if modality == "human_poses" else None
    tokenizer = SequenceTokenizer(modality, 50, WORDS, codec, seed=3)
    tokenizer.save(tmp_path / "a")
    again = load_tokenizer(tmp_path / "a")
    assert isinstance(again, SequenceTokenizer)
    assert (again.modality, again.limit, again.seed, again.vocab, again.tokens) == (modality, 50, 3, WORDS.vocab, None)
    assert again.words.digest == WORDS.digest
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    if codec:
        assert np.array_equal(one(tokenizer, [person(1, 2, 60, 70)]), one(again, [person(1, 2, 60, 70)]))


def test_the_report_counts_what_is_used() -> None:
    tokenizer = SequenceTokenizer("caption", 9, WORDS)
    report = tokenizer.fit([("a boat", LEFT, ID, 0)], [("a red boat", LEFT, ID, 0)])
    assert report.metrics == {"mean_tokens": 2.5}
    assert report.codebook_used == 3 / WORDS.vocab
    assert tokenizer.fit([], []).metrics == {}
    assert tokenizer.encode([]) == []


def test_modalities_without_a_grammar_or_codec_are_refused() -> None:
    with pytest.raises(ValueError, match="depth: has no grammar"):
        SequenceTokenizer("depth", 5, WORDS)
    with pytest.raises(ValueError, match="needs a fitted codec"):
        SequenceTokenizer("human_poses", 5, WORDS)
