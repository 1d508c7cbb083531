"""The feed: the same masks however many processes share a batch, batches ahead, errors where they are met."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.corpus import open_world, tiny_model
from trainer.feed import Feed, Item
from trainer.loader import Blend, Corpus, Loader
from trainer.masking import Masker
from trainer.mixture import published
from trainer.streams import Stream

BATCH = 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return open_world(tmp_path_factory.mktemp("feed"))


def feed_of(corpus: Corpus, rank: int = 0, world: int = 1, parts: int = 1, block: int | None = 4) -> Feed:
    masker = Masker(corpus.streams, published(), 10, 12, Blend([corpus]).has())
    return Feed(
        Loader(corpus, BATCH, 3),
        masker,
        tiny_model(corpus.streams),
        3,
        rank=rank,
        world=world,
        parts=parts,
        block=block,
    )


def joined(items: list[Item]) -> dict[str, torch.Tensor]:
    parts = [part for item in items for part in item.parts]
    return {name: torch.cat([part[name] for part in parts]) for name in ("in_ids", "in_pos", "out_ids", "out_stream")}


@pytest.mark.parametrize(("world", "parts"), [(2, 1), (3, 2), (1, 5), (5, 1), (4, 3)])
def test_processes_and_parts_make_up_the_batch_of_one(corpus: Corpus, world: int, parts: int) -> None:
    """Also where the blocks that are masked together lie across two processes."""
    one = feed_of(corpus)
    several = [feed_of(corpus, rank, world, parts) for rank in range(world)]
    for _ in range(3):
        whole, pieces = one.make(), [feed.make() for feed in several]
        wanted, got = joined([whole]), joined(pieces)
        for name, value in wanted.items():
            assert torch.equal(value, got[name]), name
        assert torch.equal(sum((p.count for p in pieces[1:]), pieces[0].count), whole.count)
        assert {str(p.state) for p in pieces} == {str(whole.state)}
        assert sum(p.logits for p in pieces) == whole.logits


def test_it_goes_on_at_any_step(corpus: Corpus) -> None:
    feed = feed_of(corpus)
    items = [feed.next() for _ in range(5)]
    again = feed_of(corpus)
    again.go_to(3, items[2].state)
    for wanted in items[3:]:
        assert torch.equal(joined([again.next()])["in_ids"], joined([wanted])["in_ids"])
    feed.close()
    again.close()


def test_what_goes_wrong_on_the_thread_is_raised_where_the_batch_is_wanted(corpus: Corpus) -> None:
    feed = feed_of(corpus)
    calls = iter(range(10))

    def breaks() -> Item:
        if next(calls) == 1:
            raise OSError("the disk is gone")
        return Feed.make(feed)

    feed.make = breaks  # type: ignore[method-assign]
    feed.next()
    with pytest.raises(OSError, match="the disk is gone"):
        feed.next()
    feed.close()


def test_it_says_whether_all_inputs_are_real(corpus: Corpus) -> None:
    part = feed_of(corpus).make().parts[0]
    assert part["full"] == bool(part["in_mask"].all())
    order, sizes = part["heads"]
    assert sum(sizes) == len(order) == BATCH * 12 and sizes[0] == int((~part["out_mask"]).sum())


def test_a_mixture_that_fits_no_stream_of_a_data_set_is_refused() -> None:
    streams = [Stream("tok_rgb", "image", 8, 4, (2, 2)), Stream("tok_caption", "sequence", 300, 4)]
    from trainer.mixture import from_one

    with pytest.raises(ValueError, match="no mixture component both shows and asks for streams of data set 1"):
        Masker(streams, [from_one("tok_rgb")], 4, 4, np.array([[True, True], [False, True]]))


def test_another_seed_is_another_stream(tmp_path: Path) -> None:
    corpus = open_world(tmp_path)
    first, other = (Feed(Loader(corpus, 4, seed), feed_of(corpus).masker, tiny_model(), seed) for seed in (1, 2))
    assert not torch.equal(joined([first.make()])["in_ids"], joined([other.make()])["in_ids"])
