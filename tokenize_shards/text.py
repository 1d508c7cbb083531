"""The text vocabulary of a data set: one for all its sequences, learned from captions and a corpus, or imported.

It is kept as a tokenizer of plain text, under the name "text" in the manifest. A new one is given to every sequence
tokenizer that is fitted already: codecs of poses and masks stay as they are, the ids change, and so do their tokens.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labelers.core.modality import Null
from labelers.core.registry import all_modalities
from pipeline.config import Config
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.records import canonical_json, file_sha256
from pipeline.storage.places import here
from tokenize_shards.holdout import held_out
from tokenize_shards.sequence import SequenceTokenizer
from tokenize_shards.tokenizer import FitReport, Tokenizer, load_tokenizer
from tokenize_shards.wordpiece import UNK, WordPiece

NAME = "text"
COLUMNS = ("text", "caption")  # of a .parquet or .jsonl file, the first that is there
LIMIT = 256  # tokens of a text
_MEASURED = 2000  # texts on which the report counts


def vocabulary(ds: Dataset, config: Config) -> WordPiece:
    """The vocabulary of the data set; where it has none yet, the one its configuration asks for."""
    sha256 = ds.manifest().tokenizers.get(NAME)
    if sha256 is None:
        return fit_text(ds, config)[0]
    found = load_tokenizer(ds.weights_path(sha256))
    assert isinstance(found, SequenceTokenizer)
    return found.words


def fit_text(ds: Dataset, config: Config) -> tuple[WordPiece, dict[str, Any]]:
    """Learn or import the vocabulary anew, and keep it; (vocabulary, report)."""
    start, settings = time.monotonic(), config.tokens.text
    if settings.file:
        words, source = read_vocabulary(here(settings.file), settings.vocab_size), settings.file
    else:
        try:
            words = WordPiece.fit(texts(ds, config), settings.vocab_size, settings.min_frequency)
        except ValueError as error:
            raise ConfigError(f"tokens.text: {error}") from None
        source = ", ".join(["captions that may be learned from", *settings.corpus])
    metrics, used = _measure(words, ds, config)
    report = FitReport("sequence", 0, time.monotonic() - start, metrics=metrics, codebook_used=used)
    plain = SequenceTokenizer(NAME, LIMIT, words, grammar="caption")
    record = _keep(ds, NAME, plain, {**report.to_json(), "tokens": None, "source": source})
    _give(ds, words)
    return words, record


def read_vocabulary(path: Path, vocab_size: int) -> WordPiece:
    """A tokenizer.json in the layout of 4M, or the pieces of a BERT vocab.txt. ConfigError for anything else."""
    try:
        return WordPiece.from_vocab_file(path, vocab_size) if path.suffix == ".txt" else WordPiece.load(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"tokens.text.file: {path}: {error}") from None


def texts(ds: Dataset, config: Config) -> Iterator[str]:
    """Captions of photos that may be learned from, then the corpus, one text at a time."""
    yield from captions(ds, config)
    for name in config.tokens.text.corpus:
        yield from read_texts(here(name))


def captions(ds: Dataset, config: Config, held: bool = False) -> Iterator[str]:
    """The captions of photos that may be learned from, or of the others."""
    if "caption" not in ds.manifest().modalities:
        return
    for k in ds.shards():
        labels = ds.labels(all_modalities()["caption"], k)
        for label, out in zip(labels, held_out(ds.ids(k), config.tokens.holdout), strict=True):
            if bool(out) == held and not isinstance(label, Null):
                yield label


def read_texts(path: Path) -> Iterator[str]:
    """The texts of a file: lines of a .txt, one column of a .parquet, one key of the objects of a .jsonl; the first and
    the last may be gzipped. ConfigError for what cannot be read.
    """
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind not in (".txt", ".jsonl", ".parquet"):
        raise ConfigError(f"tokens.text.corpus: {path}: use .txt, .jsonl (or either with .gz) or .parquet")
    try:
        yield from _parquet(path) if kind == ".parquet" else _lines(path, kind)
    except (OSError, ValueError) as error:
        raise ConfigError(f"tokens.text.corpus: {path}: {' '.join(str(error).split())}") from None


def _lines(path: Path, kind: str) -> Iterator[str]:
    reader = gzip.open if path.suffix == ".gz" else open
    with reader(path, "rt", encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if kind == ".txt":
                yield line
            elif line.strip():
                found = json.loads(line)
                yield str(found[_column(found, f"line {number}")])


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        name = _column(file.schema_arrow.names, "the file")
        for batch in file.iter_batches(columns=[name]):
            yield from (text for text in batch.column(0).to_pylist() if text)


def _column(names: Any, where: str) -> str:
    found = next((name for name in COLUMNS if name in names), None)
    if found is None:
        raise ValueError(f"{where} has none of {', '.join(COLUMNS)}, but {', '.join(map(str, names))}")
    return found


def _measure(words: WordPiece, ds: Dataset, config: Config) -> tuple[dict[str, float], float]:
    """How long held-out captions (all captions where none are held out) are in tokens, and the share of ids in use."""
    for held in (True, False):
        chosen = [text for text, _ in zip(captions(ds, config, held), range(_MEASURED), strict=False)]
        ids = [words.encode(text) for text in chosen]
        count = sum(map(len, ids))
        if count:
            letters = sum(len(text) for text in chosen)
            unknown = sum(token == UNK for row in ids for token in row)
            metrics = {"characters_a_token": letters / count, "unknown_share": unknown / count}
            return metrics, len({token for row in ids for token in row}) / words.vocab
    return {}, 0.0


def _give(ds: Dataset, words: WordPiece) -> None:
    """Every fitted sequence tokenizer again with these words."""
    for name, sha256 in ds.manifest().tokenizers.items():
        old: Tokenizer | None = load_tokenizer(ds.weights_path(sha256)) if name.startswith("tok_") else None
        if isinstance(old, SequenceTokenizer) and old.words.digest != words.digest:
            new = SequenceTokenizer(old.modality, old.limit, words, old.codec, old.seed, old.grammar)
            report = json.loads(ds.storage.read_bytes(f"_fits/{sha256}.json"))
            _keep(ds, name, new, report)


def _keep(ds: Dataset, name: str, tokenizer: Tokenizer, report: dict[str, Any]) -> dict[str, Any]:
    """Store a tokenizer by digest and its report beside it, and let the manifest name it."""
    with ds.storage.scratch() as folder:
        path = folder / name
        tokenizer.save(path)
        sha256 = file_sha256(path)
        ds.put_weights(path, sha256)
    record = {**report, "sha256": sha256, "vocab": tokenizer.vocab}
    ds.storage.put_if_absent(f"_fits/{sha256}.json", canonical_json(record))
    ds.update_manifest(tokenizers={name: sha256})
    return record
