"""Several data sets as one: in proportion, each in its own order, what one lacks is missing; and text-only corpora."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from tests.trainer.corpus import CAPTION, EDGES, RGB, number_and_view, open_world, write_world
from tokenize_shards.wordpiece import WordPiece, base_pieces
from trainer import text_corpus as module
from trainer.corpus import Column, Corpus
from trainer.loader import Blend, Loader
from trainer.masking import Masker
from trainer.mixture import published
from trainer.open_corpus import open_corpus
from trainer.streams import Stream
from trainer.text_corpus import text_corpus

WORDS = WordPiece(base_pieces())
CAPTIONS = Stream("tok_caption", "sequence", WORDS.vocab, 8)


@pytest.fixture
def blend(tmp_path: Path) -> Blend:
    """Five modalities of 16 samples, and two of 9."""
    one = open_world(tmp_path / "one")
    two = open_corpus(write_world(tmp_path / "two", (5, 4), 2, (EDGES, RGB)), 0.0)
    return Blend([one, two], [3.0, 1.0])


def test_samples_come_in_proportion_and_each_data_set_in_its_own_order(blend: Blend) -> None:
    loader = Loader(blend, 16, seed=1)
    alone = [Loader(corpus, 1, seed=1 + c) for c, corpus in enumerate(blend.corpora)]
    seen: Counter[int] = Counter()
    for _ in range(12):
        picks = loader.plan()
        batch = blend.gather(picks)
        seen.update(picks.source.tolist())
        for source, sample in zip(picks.source, number_and_view(batch["tok_rgb"].ids), strict=True):
            assert number_and_view(alone[source].next()["tok_rgb"].ids)[0][0] == sample[0]
        assert not batch["tok_caption"].valid[picks.source == 1].any()
        assert batch["tok_caption"].valid[picks.source == 0].any()
    assert abs(seen[0] / seen.total() - 0.75) < 0.02, "spread evenly, not only on average"


def test_the_state_is_small_and_goes_on_anywhere(blend: Blend) -> None:
    loader = Loader(blend, 6, seed=4)
    for _ in range(7):
        loader.plan()
    state = loader.state()
    assert len(str(state)) < 1000
    other = Loader(blend, 6, seed=4, position=loader.position)
    assert other.taken == loader.taken, "counted, without a state"
    wanted = loader.plan()
    restored = Loader(blend, 6, seed=4)
    restored.restore(state)
    for again in (restored.plan(), other.plan()):
        assert np.array_equal(again.row, wanted.row) and np.array_equal(again.source, wanted.source)


def test_components_are_drawn_only_where_they_can_be_used(tmp_path: Path) -> None:
    image = open_corpus(write_world(tmp_path, (6,), 1, (RGB, EDGES, CAPTION)), 0.0)
    words = Stream("tok_caption", "sequence", image.streams[1].vocab, 8)
    assert words == image.streams[1]
    texts = Column(np.full(40, 210, np.uint16), np.ones(8, np.bool_), np.arange(0, 41, 5))
    blend = Blend([image, Corpus([words], [{"tok_caption": texts}], [np.zeros(8, np.bool_)])])
    masker = Masker(blend.streams, published(), 8, 8, blend.has())
    loader, drawn = Loader(blend, 32, 0), Counter[tuple[int, str]]()
    for step in range(20):
        picks = loader.plan()
        masked = masker(blend.gather(picks), np.random.default_rng(step), picks.source)
        drawn.update(zip(picks.source.tolist(), [masker.mixture.names[c] for c in masked.component], strict=True))
        text = picks.source == 1
        assert masked.out_mask[text].any(axis=1).all()
    assert {name for source, name in drawn if source == 0} == set(masker.mixture.names)
    assert all(name.startswith("all2all") for source, name in drawn if source == 1)


def test_tokens_of_one_name_that_mean_different_things_are_refused(tmp_path: Path) -> None:
    ids = Column(np.zeros((2, 1, 4), np.uint16), np.ones(2, np.bool_))
    held = [np.zeros(2, np.bool_)]
    stream = Stream("tok_a", "vector", 8, 4)
    same = [Corpus([stream], [{"tok_a": ids}], held, makers={"tok_a": maker}) for maker in ("x", "y")]
    with pytest.raises(ConfigError, match="tok_a: two data sets have it by different tokenizers"):
        Blend(same)
    assert Blend([same[0], same[0]]).samples == 4
    with pytest.raises(ConfigError, match="each must be above 0"):
        Blend(same[:1], [0.0])


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.setenv("MANYMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LINES", 3)
    return [" ".join(f"{chr(97 + (i + j) % 26)}" for j in range(1 + 5 * i)) for i in range(7)]


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_every_document_is_a_sample_and_each_epoch_takes_its_next_stretch(
    texts: list[str], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"t.{kind}"
    if kind == "txt":
        path.write_text("\n".join(texts))  # without an end of the last line
    else:
        pq.write_table(pa.table({"body": texts}), path, row_group_size=3)
    corpus = text_corpus(str(path), WORDS, CAPTIONS, "body")
    assert corpus.sizes == [3, 3, 1]
    shard, row = np.array([0, 0, 0, 1, 1, 1, 2]), np.array([0, 1, 2, 0, 1, 2, 0])
    read = [list[int]() for _ in texts]
    for view in range(5):
        tokens = corpus.gather(shard, row, np.full(7, view))["tok_caption"]
        for i, text in enumerate(texts):
            stretches = -(-len(text.split()) // CAPTIONS.length)
            if view < stretches:
                read[i] += tokens.ids[i, : tokens.length[i]].tolist()
    assert [WORDS.decode(ids) for ids in read] == texts
    monkeypatch.setattr(module, "encode", None)  # the second time it comes from the disk
    again = text_corpus(str(path), WORDS, CAPTIONS, "body")
    assert again.gather(shard, row, np.zeros(7, np.int64))["tok_caption"].valid.all()


def test_texts_that_cannot_be_read_are_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"names no \.parquet or \.txt file"):
        text_corpus(str(tmp_path / "none-*.txt"), WORDS, CAPTIONS)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ConfigError, match="holds no document"):
        text_corpus(str(tmp_path / "empty.txt"), WORDS, CAPTIONS)
    pq.write_table(pa.table({"body": texts}), tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match="has no column 'text' of text. There are: body"):
        text_corpus(str(tmp_path / "t.parquet"), WORDS, CAPTIONS)
