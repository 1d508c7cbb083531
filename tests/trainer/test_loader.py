"""The loader: joined by position, nothing lost, resumed anywhere by any number of workers; damage is named."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.commits import data_key
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.records import Commit, shard_name
from pipeline.shard_task import replace
from tests.trainer.corpus import (
    CAPTION,
    EDGES,
    METADATA,
    RGB,
    SPECS,
    STREAMS,
    add_tokens,
    lacks,
    number_and_view,
    numbers,
    open_world,
    sample_id,
    tokens_of,
    write_world,
)  # fmt: skip
from tokenize_shards.holdout import held_out
from tokenize_shards.shards import Row, TokenMeta, verify_tokens, write_tokens
from trainer.loader import Column, Corpus, Loader, part_of
from trainer.open_corpus import open_corpus
from trainer.streams import Batch, Stream

SIZES = (7, 5, 4)
TOTAL = sum(SIZES)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return open_world(tmp_path_factory.mktemp("loader"))


def seen(batch: Batch) -> list[tuple[int, int]]:
    return number_and_view(batch["tok_rgb"].ids)


def check_joined(batch: Batch) -> None:
    """Every stream of a row holds the tokens of the one sample and view that RGB says, or lacks it."""
    for row, (number, view) in enumerate(seen(batch)):
        for stream in STREAMS:
            tokens = batch[stream.name]
            assert tokens.valid[row] == (not lacks(stream.name, number))
            wanted = tokens_of(stream.name, number, view).tolist() if tokens.valid[row] else []
            assert tokens.ids[row, : tokens.length[row]].tolist() == wanted


def test_streams_are_joined_by_sample_and_view(corpus: Corpus) -> None:
    assert corpus.streams == STREAMS
    loader = Loader(corpus, 5, seed=1)
    for _ in range(12):
        check_joined(loader.next())


def test_every_sample_once_an_epoch_and_every_view_in_as_many_epochs(corpus: Corpus) -> None:
    loader, epochs = Loader(corpus, TOTAL, seed=3), []
    for _ in range(2):
        batch = seen(loader.next())
        assert sorted(number for number, _ in batch) == list(range(TOTAL))
        epochs += batch
    assert Counter(epochs) == {(n, v): 1 for n in range(TOTAL) for v in range(2)}
    assert loader.epoch == 2


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_the_stream_of_samples_does_not_depend_on_the_number_of_workers(corpus: Corpus, world: int) -> None:
    one = Loader(corpus, 4, seed=5)
    workers = [Loader(corpus, 4, seed=5, rank=rank, world=world) for rank in range(world)]
    for _ in range(9):
        wanted = seen(one.next())
        parts = [worker.next() for worker in workers]
        for rank, part in enumerate(parts):
            check_joined(part)
            assert seen(part) == wanted[part_of(len(wanted), rank, world)]
        assert len({str(worker.state()) for worker in workers}) == 1


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1), (3, 2)])
def test_killed_in_mid_epoch_and_resumed_with_another_number_of_workers(
    corpus: Corpus, before: int, after: int
) -> None:
    """F23: the same stream of ids."""
    whole, wanted = Loader(corpus, 6, seed=7), []
    for _ in range(10):
        wanted += seen(whole.next())
    got: list[tuple[int, int]] = []
    state: dict[str, int] | None = None
    for world, steps in ((before, 4), (after, 6)):
        workers = [Loader(corpus, 6, seed=7, rank=rank, world=world) for rank in range(world)]
        for worker in workers:
            if state is not None:
                worker.restore(state)
        for _ in range(steps):
            batch: list[tuple[int, int]] = [(-1, -1)] * 6
            for rank, worker in enumerate(workers):
                batch[part_of(6, rank, world)] = seen(worker.next())
            got += batch
        state = workers[-1].state()
    assert got == wanted


def test_a_state_of_other_data_or_another_seed_is_refused(corpus: Corpus) -> None:
    loader = Loader(corpus, 4, seed=1)
    with pytest.raises(ConfigError, match="seed 2, now it is 1"):
        loader.restore({**loader.state(), "seed": 2})
    with pytest.raises(ConfigError, match=rf"samples \[99\], now it is \[{TOTAL}\]"):
        loader.restore({**loader.state(), "samples": [99]})
    assert loader.position == 0


def test_held_out_samples_are_never_trained_on(tmp_path: Path) -> None:
    corpus = open_world(tmp_path, holdout=0.3)
    held: set[int] = set()
    for k in range(3):
        out = held_out([sample_id(n) for n in numbers(SIZES, k)], 0.3)
        held |= {n for n, is_out in zip(numbers(SIZES, k), out, strict=True) if is_out}
    assert len(held) >= 3
    loader = Loader(corpus, TOTAL - len(held), seed=0)
    assert sorted(n for n, _ in seen(loader.next())) == sorted(set(range(TOTAL)) - held)
    shard, row, view = corpus.held_out(2 * len(held))
    batch = corpus.gather(shard, row, view)
    check_joined(batch)
    assert Counter(seen(batch)) == {(n, v): 1 for n in held for v in range(2)}
    assert {v for _, v in seen(corpus.gather(*(a[: len(held)] for a in (shard, row, view))))} == {0}
    assert len(corpus.held_out(1)[0]) == 1


def test_tokens_are_the_mapped_files_and_cannot_be_written(corpus: Corpus) -> None:
    for shard in corpus.shards:
        for column in shard.values():
            assert not column.ids.flags.owndata and not column.ids.flags.writeable


def test_texts_longer_than_the_stream_are_cut() -> None:
    column = Column(np.arange(10, dtype=np.uint16), np.array([True, False, True]), np.array([0, 6, 6, 10]))
    taken = column.take(np.array([2, 0, 1]), np.zeros(3, np.int64), 5)
    assert taken.length.tolist() == [4, 5, 0] and taken.valid.tolist() == [True, True, False]
    assert taken.ids[1].tolist() == [0, 1, 2, 3, 4] and taken.ids[0, :4].tolist() == [6, 7, 8, 9]


def test_a_modality_with_one_view_goes_with_every_view(tmp_path: Path) -> None:
    ds = write_world(tmp_path, SIZES, 3, (RGB,))
    add_tokens(ds, METADATA, SIZES, 1)
    corpus = open_corpus(ds, 0.0)
    batch = corpus.gather(np.zeros(3, np.int64), np.full(3, 5), np.arange(3))
    assert seen(batch) == [(5, 0), (5, 1), (5, 2)]
    assert [batch["tok_metadata"].ids[i, :6].tolist() for i in range(3)] == [
        tokens_of("tok_metadata", 5, 0).tolist()
    ] * 3


def test_named_modalities_only_and_unknown_ones_refused(tmp_path: Path) -> None:
    ds = write_world(tmp_path)
    assert [s.name for s in open_corpus(ds, 0.0, ["tok_caption", "tok_rgb"]).streams] == ["tok_caption", "tok_rgb"]
    with pytest.raises(ConfigError, match=r"'tok_depth' has no tokens\. There are: .*tok_rgb"):
        open_corpus(ds, 0.0, ["tok_rgb", "tok_depth"])


def test_nothing_tokenized_or_not_all_of_it(tmp_path: Path) -> None:
    ds = write_world(tmp_path, specs=())
    with pytest.raises(ConfigError, match="no token modality to train on"):
        open_corpus(ds, 0.0)
    add_tokens(ds, RGB, SIZES, 2, only=[0, 2])
    with pytest.raises(ConfigError, match="tok_rgb: shard 1 is not tokenized"):
        open_corpus(ds, 0.0)


def test_a_modality_that_no_sample_has_is_left_out(tmp_path: Path) -> None:
    ds = write_world(tmp_path, (1, 1), 1, (RGB,))
    ds.publish_index(2, [])  # an empty shard does no harm either
    assert lacks("tok_caption", 2) and not lacks("tok_caption", 1)
    all_lack = write_world(tmp_path / "two", (4,), 1, ())
    only_null = [n for n in range(4) if lacks("tok_caption", n)]
    assert only_null == [2]
    add_tokens(all_lack, RGB, (4,), 1)
    write_other_ids(all_lack, CAPTION.name, None)
    assert [s.name for s in open_corpus(all_lack, 0.0).streams] == ["tok_rgb"]


def write_other_ids(ds: Dataset, name: str, ids: list[str] | None) -> None:
    """Commit shard 0 of a caption modality that is null throughout, with these ids."""
    from labelers.core.modality import Null

    recipe = add_tokens(ds, CAPTION, (4,), 1, salt=9, only=[])
    keys = ids or ds.ids(0)
    meta, rows = TokenMeta(name, 1, None, 260, recipe), list[Row]([Null("none")] * len(keys))
    draft = Commit(name, recipe, 0, shard_name(0, "arrow"), 0, 0, "")
    replace(ds, draft, partial(write_tokens, meta=meta, ids=keys, rows=rows), verify_tokens, ids=keys)


def test_shards_in_another_order_than_the_index_are_damage(tmp_path: Path) -> None:
    ds = write_world(tmp_path, (4,), 1, (RGB,))
    write_other_ids(ds, CAPTION.name, ds.ids(0)[::-1])
    with pytest.raises(DamageError, match="ids are not those of index shard 0, in order"):
        open_corpus(ds, 0.0)


def test_flipped_bytes_are_damage(tmp_path: Path) -> None:
    ds = write_world(tmp_path)
    commit = ds.commits("tok_rgb", ds.current("tok_rgb"))[1]
    path = ds.storage.local(data_key(commit))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(DamageError, match="sha256"):
        open_corpus(Dataset.open(str(tmp_path)), 0.0)


def test_a_modality_regenerated_while_a_reader_trains(tmp_path: Path) -> None:
    """F21: the reader keeps its manifest."""
    ds = write_world(tmp_path)
    corpus = open_corpus(ds, 0.0)
    loader = Loader(corpus, 4, seed=0)
    check_joined(loader.next())
    add_tokens(Dataset.open(str(tmp_path)), EDGES, SIZES, 2, salt=3)
    for _ in range(4):
        check_joined(loader.next())
    later = open_corpus(Dataset.open(str(tmp_path)), 0.0)
    assert later.manifest == corpus.manifest + 1
    assert later.recipes["tok_canny_edge"] != corpus.recipes["tok_canny_edge"]
    edges = later.gather(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))["tok_canny_edge"]
    assert edges.ids[0].tolist() == tokens_of("tok_canny_edge", 0, 0, salt=3).tolist()


IMAGE = Stream("tok_a", "image", 8, 4, (2, 2))
WORDS = Stream("tok_b", "sequence", 300, 4)
GOOD = Column(np.zeros((2, 1, 4), np.uint16), np.ones(2, np.bool_))
HELD = [np.zeros(2, np.bool_)]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (Column(np.zeros((3, 1, 4), np.uint16), np.ones(3, np.bool_)), "has 3 samples where others have 2"),
        (Column(np.zeros((2, 1, 5), np.uint16), np.ones(2, np.bool_)), "has 5 tokens a view, expected 4"),
        (Column(np.full((2, 1, 4), 8, np.uint16), np.ones(2, np.bool_)), "token 8, its vocabulary ends at 7"),
        (Column(np.zeros(4, np.uint16), np.ones(2, np.bool_), np.array([0, 2, 4])), "another kind than image"),
    ],
)
def test_columns_that_do_not_fit_are_damage(column: Column, said: str) -> None:
    with pytest.raises(DamageError, match=rf"tok_a, token shard 0.*{said}"):
        Corpus([IMAGE], [{"tok_a": column}], HELD)


def test_what_cannot_be_trained_on_is_said_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match="no token modality"):
        Corpus([], [], [])
    with pytest.raises(ConfigError, match=r"no sample to train on.*lower tokens\.holdout"):
        Corpus([IMAGE], [{"tok_a": GOOD}], [np.ones(2, np.bool_)])
    two, three = (Column(np.zeros((2, views, 4), np.uint16), np.ones(2, np.bool_)) for views in (2, 3))
    with pytest.raises(ConfigError, match="has 2 views where others have 3"):
        Corpus([IMAGE, Stream("tok_c", "vector", 8, 4)], [{"tok_a": two, "tok_c": three}], HELD)


def test_the_specs_of_the_world_make_its_streams() -> None:
    assert [spec.name for spec in SPECS] == [stream.name for stream in STREAMS]


@pytest.mark.parametrize(("views", "asked", "trained"), [(4, None, 3), (3, None, 3), (3, 1, 2), (3, 0, 3), (8, 2, 6)])
def test_held_out_views_are_never_handed_out(tmp_path: Path, views: int, asked: int | None, trained: int) -> None:
    """By default one of four or more; in as many epochs as there are training views, each of these comes once."""
    corpus = open_corpus(write_world(tmp_path, SIZES, views), 0.2, heldout_views=asked)
    assert (corpus.views, corpus.train_views) == (views, trained)
    loader = Loader(corpus, corpus.samples, seed=1)
    met = Counter(pair for _ in range(trained) for pair in seen(loader.next()))
    learned = {n for n, _ in met}
    assert met == {(n, v): 1 for n in learned for v in range(trained)} and len(learned) == corpus.samples
    apart = seen(corpus.gather(*corpus.held_views(1000)))
    assert set(apart) == {(n, v) for n in learned for v in range(trained, views)} and len(apart) == len(set(apart))
    if trained < views:
        assert len(corpus.held_views(3)[0]) == 3


def test_holding_out_every_view_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"heldout_views: 2 of 2 views held out leave none.*use 0\.\.1"):
        open_corpus(write_world(tmp_path, SIZES), 0.0, heldout_views=2)
