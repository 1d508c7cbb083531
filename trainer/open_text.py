"""A text-only corpus read with the vocabulary of a data set."""

from __future__ import annotations

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tokenize_shards.sequence import SequenceTokenizer
from tokenize_shards.tokenizer import load_tokenizer
from trainer.config import TextSource
from trainer.corpus import Corpus
from trainer.text_corpus import text_corpus


def open_text(ds: Dataset, corpus: Corpus, source: TextSource) -> Corpus:
    """The texts of a source as samples of its stream. ConfigError where the data set has no such sequence."""
    stream = next((s for s in corpus.streams if s.name == source.stream and s.kind == "sequence"), None)
    if stream is None:
        names = [s.name for s in corpus.streams if s.kind == "sequence"]
        raise ConfigError(
            f"train.text: {source.stream!r} is no sequence modality of this training; "
            f"choose one of {', '.join(names) or 'none'}"
        )
    weights = ds.recipe(corpus.recipes[stream.name])["weights"]
    tokenizer = load_tokenizer(ds.weights_path(weights["tokenizer"]["sha256"])) if "tokenizer" in weights else None
    if not isinstance(tokenizer, SequenceTokenizer):
        raise ConfigError(f"train.text: {source.stream} was not made by a tokenizer of text; run `manymodal fit` again")
    return text_corpus(source.path, tokenizer.words, stream, source.column, corpus.makers[stream.name])
