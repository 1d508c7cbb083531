"""The sentence embedding of captions, against published numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelers.core.labeler import Sample
from labelers.core.modality import Null
from labelers.core.weights import resolve_all
from labelers.minilm_caption import EMBEDDING, MinilmCaption, load_network

EMPTY = np.zeros((0, 0, 3), np.uint8)


@pytest.fixture(scope="module")
def minilm() -> MinilmCaption:
    labeler = MinilmCaption(files={slot: weight.path for slot, weight in resolve_all(MinilmCaption.weights).items()})
    labeler.setup()
    return labeler


def sample(caption: object) -> Sample:
    return Sample("0" * 32, EMPTY, labels={"caption": caption})


def test_published_similarities(minilm: MinilmCaption) -> None:
    """The first example in the documentation of sentence-transformers, for this model."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = np.stack([minilm.embed(text) for text in texts])
    published = [[1.0000, 0.6660, 0.1046], [0.6660, 1.0000, 0.1411], [0.1046, 0.1411, 1.0000]]
    np.testing.assert_allclose(vectors @ vectors.T, published, atol=1e-4)


def test_labels_are_unit_vectors_whatever_the_batch(minilm: MinilmCaption) -> None:
    captions = ["a cat", "two dogs that run over wet grass", "\u732b \U0001f408", "word " * 2000]
    together = minilm.label([sample(caption) for caption in captions])
    for caption, label in zip(captions, together, strict=True):
        vector = label["minilm_caption"]
        EMBEDDING.check(vector)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        (alone,) = minilm.label([sample(caption)])
        assert alone["minilm_caption"].tobytes() == vector.tobytes()
        assert EMBEDDING.decode(EMBEDDING.encode(vector)).tobytes() == vector.tobytes()


def test_what_lies_beyond_the_limit_is_cut(minilm: MinilmCaption) -> None:
    assert np.array_equal(minilm.embed("dog " * 254), minilm.embed("dog " * 300))
    assert not np.array_equal(minilm.embed("dog " * 253), minilm.embed("dog " * 254))


def test_no_caption_is_a_null_with_the_reason(minilm: MinilmCaption) -> None:
    first, second = minilm.label([sample(Null("no_caption")), sample("  \n")])
    assert first == {"minilm_caption": Null("no caption: no_caption")}
    assert second == {"minilm_caption": Null("the caption is empty")}


def test_other_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="does not hold the weights of all-MiniLM-L6-v2"):
        load_network(tmp_path / "model.safetensors")
