"""The text vocabulary of a data set: learned, imported, and given to the tokenizers that are fitted already."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tests.tokenize_shards.small import small_config
from tokenize_shards.fit import fit_all
from tokenize_shards.sequence import SequenceTokenizer
from tokenize_shards.text import NAME, captions, read_texts, vocabulary
from tokenize_shards.tokenize import tokenize
from tokenize_shards.tokenizer import load_tokenizer
from tokenize_shards.wordpiece import MAX_VOCAB, WORDS, WordPiece, coordinate

SCRIPTS = ("Ein Hund läuft", "собака бежит", "犬が走る", "كلب يجري", "कुत्ता दौड़ता है", "σκύλος", "개가 달린다", "🐕 runs")


def quiet(*_: object) -> None:
    """No progress."""


def words_of(ds: Dataset, name: str) -> WordPiece:
    found = load_tokenizer(ds.weights_path(ds.manifest().tokenizers[name]))
    assert isinstance(found, SequenceTokenizer)
    return found.words


def test_fit_text_learns_from_captions_and_corpus(labelled: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join([*SCRIPTS, "xylograph xylograph xylograph"] * 3))
    ds, config = Dataset.open(str(labelled)), small_config(labelled)
    config.tokens.text.corpus = [str(corpus)]
    report = fit_all(ds, config, ["text"], False, quiet)["text"]
    words = vocabulary(ds, config)
    assert report["vocab"] == words.vocab and report["metrics"]["unknown_share"] == 0
    assert words.encode("xylograph") == [words.ids["xylograph"]], "a frequent word of the corpus is one piece"
    for text in SCRIPTS:
        assert 1 not in words.encode(text), "every letter of the corpus has a piece"
    assert words.ids["v0=0"] == coordinate(0, 0) == 204 and words.ids["airplane"] == 4204
    held = set(captions(ds, config, held=True))
    assert held and not held & set(captions(ds, config))


def test_all_sequences_share_the_vocabulary_and_follow_a_new_one(fitted: Path, tmp_path: Path) -> None:
    ds, config = Dataset.open(str(fitted)), small_config(fitted)
    names = [name for name in ds.manifest().tokenizers if name in ("tok_caption", "tok_color_palette", "tok_metadata")]
    old = vocabulary(ds, config)
    assert len(names) == 3 and {words_of(ds, name).digest for name in names} == {old.digest}
    tokenize(ds, config, names)
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\nbulldozer\n##ing\nbeside\n")
    config.tokens.text.file = str(path)
    assert fit_all(ds, config, ["text"], False, quiet) == {}, "it has one"
    fit_all(ds, config, ["text"], True, quiet)
    new = vocabulary(ds, config)
    assert "bulldozer" in new.pieces and new.digest != old.digest
    assert {words_of(ds, name).digest for name in names} == {new.digest}
    assert tokenize(ds, config, names).done == 3 * len(ds.shards()), "tokens of the old words are stale, and no others"
    ids = load_tokenizer(ds.weights_path(ds.manifest().tokenizers["tok_caption"])).encode(
        [("A Bulldozer", None, "", 0)]
    )
    assert new.decode(ids[0]) == "a bulldozer"


def test_a_vocabulary_is_imported_from_a_tokenizer_file(labelled: Path, tmp_path: Path) -> None:
    given = WordPiece.fit(["a gazebo by a lagoon"], min_frequency=1)
    given.save(tmp_path / "tokenizer.json")
    ds, config = Dataset.open(str(labelled)), small_config(labelled)
    config.tokens.text.file = str(tmp_path / "tokenizer.json")
    assert vocabulary(ds, config).digest == given.digest
    assert NAME in ds.manifest().tokenizers
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokens.text.file: .*is not a vocabulary in the 4M layout"):
        fit_all(ds, config, ["text"], True, quiet)


def test_files_of_text_are_read_one_by_one(tmp_path: Path) -> None:
    lines = ["one two", "three"]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps({"caption": line, "id": 3}) for line in lines))
    pq.write_table(pa.table({"id": [1, 2], "text": lines}), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("\n".join(lines))
    for name in ("a.jsonl.gz", "a.parquet", "a.txt"):
        assert [text.strip() for text in read_texts(tmp_path / name)] == lines, name
    pq.write_table(pa.table({"words": lines}), tmp_path / "b.parquet")
    for name, message in (("b.parquet", "has none of text, caption"), ("c.txt", "No such file"), ("a.doc", "use .txt")):
        with pytest.raises(ConfigError, match=message):
            list(read_texts(tmp_path / name))


def test_a_large_corpus_fills_the_published_size() -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lexicon = ["".join(rng.choice(letters, n)) for n in rng.integers(3, 9, 12_000)]
    words = WordPiece.fit([" ".join([word] * 2) for word in lexicon])
    assert words.vocab == MAX_VOCAB == 30_000
    assert words.names[:4] == ("[PAD]", "[UNK]", "[SOS]", "[EOS]") and words.names[WORDS] == "human"
