"""What tokenizers look at: each modality of a sample cut by the same views, and networks run on the view itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from labelers.canny_edge import CannyEdge
from labelers.core.labeler import Sample
from labelers.core.modality import Label, Null
from pipeline.dataset import Dataset
from tests.tokenize_shards.small import DARK, SIDE, SILENT, WORDS, SmallNet, number_of, photo
from tokenize_shards import inputs
from tokenize_shards.inputs import Cut, ShardViews
from tokenize_shards.table import specs
from tokenize_shards.views import cut_edges, cut_image, view_of

NUMBERS, SEED = range(4), 7


def cut(root: Path, k: int, name: str, numbers: Sequence[int] = NUMBERS, rows: list[int] | None = None) -> list[Cut]:
    ds, spec = Dataset.open(str(root)), specs()[name]
    return ShardViews(ds, k, numbers, SEED, rows).cut(spec, ds.current(spec.modality))


def views(ds: Dataset, k: int, row: int, numbers: Sequence[int] = NUMBERS) -> list[inputs.View]:
    """The views as anyone can work them out from the index."""
    sample = ds.index(k)[row]
    return [view_of(sample.id, SEED, v, sample.width, sample.height) for v in numbers]


def test_pictures_and_edges_are_cut_at_the_same_boxes(labelled: Path) -> None:
    ds = Dataset.open(str(labelled))
    for k in ds.shards():
        pictures, edges = cut(labelled, k, "tok_rgb"), cut(labelled, k, "tok_canny_edge")
        assert len(pictures) == len(edges) == len(ds.ids(k))
        for row, sample in enumerate(ds.index(k)):
            image = photo(number_of(ds, k, row))
            whole = CannyEdge().label([Sample(sample.id, image)])[0]["canny_edge"]
            boxes = views(ds, k, row)
            assert np.array_equal(pictures[row], [cut_image(image, box, SIDE) for box in boxes])
            assert np.array_equal(edges[row], [cut_edges(whole, box, SIDE) for box in boxes])
            assert len({box.side for box in boxes}) > 1


def test_sequences_get_label_view_id_and_number(labelled: Path) -> None:
    ds = Dataset.open(str(labelled))
    for k in ds.shards():
        captions, palettes = cut(labelled, k, "tok_caption", [2, 0]), cut(labelled, k, "tok_color_palette", [2, 0])
        for row, sample in enumerate(ds.ids(k)):
            number, boxes = number_of(ds, k, row), views(ds, k, row, [2, 0])
            assert [found[1:] for found in palettes[row]] == [(boxes[0], sample, 2), (boxes[1], sample, 0)]
            if number == SILENT:
                assert captions[row] == Null("no_caption")
            else:
                text = f"a {WORDS[number]} beside another {WORDS[number]} on a table"
                assert captions[row] == [(text, boxes[0], sample, 2), (text, boxes[1], sample, 0)]


def test_a_vector_of_the_whole_image_is_the_same_for_every_view(labelled: Path) -> None:
    ds = Dataset.open(str(labelled))
    for k in ds.shards():
        for row, found in enumerate(cut(labelled, k, "tok_small_vector")):
            wanted = SmallNet().label([Sample("", photo(number_of(ds, k, row)))])[0]["small_vector"]
            if isinstance(wanted, Null):
                assert found == wanted
            else:
                assert all(np.array_equal(one, wanted) for one in found) and len(found) == len(NUMBERS)


@pytest.mark.parametrize("name", ["tok_rgb", "tok_canny_edge"])
def test_a_view_does_not_depend_on_its_neighbours(labelled: Path, name: str) -> None:
    whole = cut(labelled, 0, name)
    some = cut(labelled, 0, name, numbers=[3, 1], rows=[2, 0])
    assert np.array_equal(some, [[whole[2][3], whole[2][1]], [whole[0][3], whole[0][1]]])


class Counting(SmallNet):
    """Remembers how many samples it was given at a time, and their sides."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.shapes: set[tuple[int, ...]] = set()

    def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
        self.calls.append(len(samples))
        self.shapes |= {s.image.shape for s in samples}
        return super().label(samples)


def test_networks_run_on_the_view_once_for_all_they_make(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "VIEW_BATCH", 5)
    ds, labeler = Dataset.open(str(labelled)), Counting()
    wanted = [specs()["tok_small_map"], specs()["tok_small_global"]]
    found = ShardViews(ds, 0, NUMBERS, SEED).on_view(labeler, wanted)
    assert list(found) == ["tok_small_map", "tok_small_global"]
    assert labeler.calls == [5, 5, 5, 1] and labeler.shapes == {(SIDE, SIDE, 3)}
    pictures, dark = cut(labelled, 0, "tok_rgb"), 0
    for row, (maps, vectors) in enumerate(zip(*found.values(), strict=True)):
        if number_of(ds, 0, row) == DARK:
            assert maps == vectors == Null("too_dark")
            dark += 1
            continue
        for view in NUMBERS:
            alone = SmallNet().label([Sample("", pictures[row][view])])[0]
            assert np.array_equal(maps[view], alone["small_map"])
            assert np.array_equal(vectors[view], alone["small_global"])
    assert dark == 1, "the dark photo is in shard 0"


def test_one_view_that_cannot_be_labelled_makes_the_row_null(labelled: Path) -> None:
    class Picky(SmallNet):
        def label(self, samples: Sequence[Sample]) -> list[dict[str, Label | Null]]:
            rows = super().label(samples)
            rows[2] = dict.fromkeys(rows[2], Null("odd"))  # the third view of the first row
            return rows

    ds = Dataset.open(str(labelled))
    found = ShardViews(ds, 0, NUMBERS, SEED).on_view(Picky(), [specs()["tok_small_global"]])["tok_small_global"]
    assert found[0] == Null("odd") and not isinstance(found[1], Null)


def test_a_removed_sample_stays_a_null(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = Dataset.open(str(labelled))
    whole = ds.samples(0)
    monkeypatch.setattr(ds, "stream", lambda k, **_: iter([whole[0], Null("removed"), *whole[2:]]))
    shard = ShardViews(ds, 0, NUMBERS, SEED)
    pictures = shard.cut(specs()["tok_rgb"], ds.current("rgb"))
    vectors = shard.on_view(SmallNet(), [specs()["tok_small_global"]])["tok_small_global"]
    assert pictures[1] == vectors[1] == Null("removed")
    assert np.array_equal(pictures[2], cut(labelled, 0, "tok_rgb")[2])
    assert np.array_equal(vectors[2][0], SmallNet().label([Sample("", pictures[2][0])])[0]["small_global"])
