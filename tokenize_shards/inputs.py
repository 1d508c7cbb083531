"""What tokenizers look at: the labels of a shard, cut by the views. Fitting and encoding go through here alike.

Labels made on the whole image (maps, boxes, keypoints) are cut by the view; network features are computed on the view
itself, by running their labeler on the cut pixels, once for all the modalities it makes.

Everything is read row by row, in the order of the shard, so that what is in memory does not grow with the shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from numpy.typing import NDArray

from labelers.core.ahead import ahead
from labelers.core.labeler import Labeler, Sample
from labelers.core.modality import Label, Modality, Null
from labelers.core.registry import all_modalities
from pipeline.batches import FAILED, KILLED, Batches, unguarded
from pipeline.dataset import Dataset
from pipeline.errors import DamageError, Incomplete
from pipeline.shards import read_stored
from pipeline.suspects import Suspects
from tokenize_shards.table import TokenSpec
from tokenize_shards.views import View, cut_edges, cut_image, cut_map, cut_normals, cut_values, view_of

Cut = Any  # what a tokenizer encodes: an array, or for sequences (label, View, id, view number)
Row = list[Cut] | Null  # one entry a view
VIEW_BATCH = 32  # views a call of a labeler
AHEAD = 32  # rows that are ready before they are asked for
T = TypeVar("T")


def cut_content(content: str, label: Label, view: View, size: int) -> NDArray[Any]:
    """A map under a view, as its tokenizer takes it: classes and any other numbers by the nearest pixel, what is
    continuous averaged, float32 with NaN (depth) or zero vectors (normals) where unknown.
    """
    if content == "edges":
        return cut_edges(label, view, size)
    if content == "depth":
        return cut_values(label.values, view, size)
    if content == "normals":
        return cut_normals(label, view, size)
    return cut_map(label, view, size)


@dataclass(frozen=True)
class Place:
    """One row of a shard. number: its place there. views: one for each of the numbers asked for."""

    number: int
    id: str
    views: tuple[View, ...]


class ShardViews:
    """One shard under views number `numbers` of a seed.

    rows: positions in the shard to look at (all where None). threads: that decode and cut. Results are one list a row,
    with one entry a view, or a Null for the row.
    """

    def __init__(
        self,
        ds: Dataset,
        k: int,
        numbers: Sequence[int],
        seed: int,
        rows: Sequence[int] | None = None,
        threads: int = 1,
    ) -> None:
        self.threads = threads
        self.ds, self.k, self.numbers, self.seed = ds, k, list(numbers), seed
        index = ds.index(k)
        self.rows = list(range(len(index))) if rows is None else list(rows)
        self.places = [
            Place(i, index[i].id, tuple(view_of(index[i].id, seed, v, index[i].width, index[i].height) for v in numbers))
            for i in self.rows
        ]  # fmt: skip
        self.ids = [place.id for place in self.places]
        self.views = [list(place.views) for place in self.places]
        self._samples: list[Sample | Null] | None = None

    # -- whole shards at once: for a few rows, or small labels

    def samples(self) -> list[Sample | Null]:
        """The decoded samples; a Null for one that was removed."""
        if self._samples is None:
            self._samples = list(self._chosen(self.ds.stream(self.k)))
        return self._samples

    def labels(self, modality: Modality, recipe: str) -> list[Label | Null]:
        stored = self._stored(modality, recipe)
        return [label if isinstance(label, Null) else modality.decode(label) for _, label in stored]

    def cut(self, spec: TokenSpec, recipe: str) -> list[Row]:
        """The inputs of one tokenizer whose modality is stored."""
        return list(self.stream(spec, recipe))

    def on_view(self, labeler: Labeler, specs: Sequence[TokenSpec]) -> dict[str, list[Row]]:
        """The inputs of tokenizers whose modalities one labeler computes on the view, by token modality."""
        runs = OnView(labeler, specs)
        found = runs.label(list(self.stream_pixels(runs)))
        runs.close()
        return found

    # -- row by row, decoded and cut by threads ahead of whoever takes them

    def stream(self, spec: TokenSpec, recipe: str) -> Iterator[Row]:
        """`cut`, one row at a time."""
        if spec.modality == "rgb":

            def cut_photo(row: tuple[Place, Sample | Null]) -> Row:
                place, sample = row
                return (
                    sample if isinstance(sample, Null) else [cut_image(sample.image, v, spec.size) for v in place.views]
                )

            yield from ahead(cut_photo, self._photos(recipe), self.threads, AHEAD)
            return
        modality = all_modalities()[spec.modality]

        def cut_label(row: tuple[Place, Any | Null]) -> Row:
            place, stored = row
            return stored if isinstance(stored, Null) else self._cut(spec, modality.decode(stored), place)

        yield from ahead(cut_label, self._stored(modality, recipe), self.threads, AHEAD)

    def stream_pixels(self, runs: OnView) -> Iterator[list[Sample] | Null]:
        """What a labeler is to look at, one row at a time."""
        yield from ahead(lambda row: runs.cut(*row), self._photos(), self.threads, AHEAD)

    def _cut(self, spec: TokenSpec, label: Label, place: Place) -> list[Cut]:
        if spec.kind == "sequence":
            return [(label, view, place.id, number) for number, view in zip(self.numbers, place.views, strict=True)]
        if spec.kind == "vit_vq":
            return [cut_content(spec.content, label, view, spec.size) for view in place.views]
        return [label] * len(place.views)  # a vector of the whole image

    def _photos(self, recipe: str | None = None) -> Iterator[tuple[Place, Sample | Null]]:
        samples = self._samples or self._chosen(self.ds.stream(self.k, recipe=recipe, threads=self.threads))
        return zip(self.places, samples, strict=True)

    def _stored(self, modality: Modality, recipe: str) -> Iterator[tuple[Place, Any | Null]]:
        """The labels of the rows as they are stored, ids checked."""
        path, _ = self.ds.open_shard(modality.name, recipe, self.k)
        for place, (key, stored) in zip(self.places, self._chosen(read_stored(path, modality)), strict=True):
            if key != place.id:
                raise DamageError(
                    f"{path}: row {place.number} is {key}, not {place.id} as in the index. Run `manymodal verify`."
                )
            yield place, stored

    def _chosen(self, everything: Iterable[T]) -> Iterator[T]:
        """Those of `rows`, in their order."""
        wanted = set(self.rows)
        found = ((i, item) for i, item in enumerate(everything) if i in wanted)
        if self.rows == sorted(self.rows):
            return (item for _, item in found)
        by_row = dict(found)
        return (by_row[i] for i in self.rows)


class OnView:
    """A labeler run on views, for the tokenizers of the modalities it makes; a bad view costs its row and no other.

    suspects: where the rows that the labeler is at are marked, once a worker has died; those that are poison are not
    tried. The first view stands for its row.
    """

    def __init__(self, labeler: Labeler, specs: Sequence[TokenSpec], suspects: Suspects | None = None) -> None:
        self.labeler, self.specs = labeler, list(specs)
        self._guard = suspects.at if suspects else unguarded
        self._poison = suspects.poison() if suspects else set()
        self._tried = self._failed = 0
        self._why = ""

    def cut(self, place: Place, sample: Sample | Null) -> list[Sample] | Null:
        """The views of a sample as samples of their own."""
        if isinstance(sample, Null):
            return sample
        size = self.specs[0].size
        views = [
            Sample(f"{sample.id}:{n}", cut_image(sample.image, view, size), sample.sidecars)
            for n, view in enumerate(place.views)
        ]
        return Null(f"{FAILED}{KILLED}") if views[0].id in self._poison else views

    def label(self, rows: Sequence[list[Sample] | Null]) -> dict[str, list[Row]]:
        """The labels of the views of some rows, by token modality; a row of which one view has none is that Null."""
        flat = [view for row in rows if not isinstance(row, Null) for view in row]
        made: Sequence[Mapping[str, Label | Null]] = []
        if flat:
            self._tried += 1
            try:
                with self._guard([row[0] for row in rows if not isinstance(row, Null)]):
                    made = Batches(self.labeler, VIEW_BATCH).label(flat)
            except Incomplete as error:  # on these; other rows may be better
                self._failed, self._why = self._failed + 1, str(error)
                lost = {m.name: Null(f"labeler failed on every view: {error}") for m in self.labeler.produces}
                made = [lost] * len(flat)
        found: dict[str, list[Row]] = {}
        for spec in self.specs:
            values = iter([label[spec.modality] for label in made])
            cut: list[Row] = [row if isinstance(row, Null) else [next(values) for _ in row] for row in rows]
            found[spec.name] = [
                row if isinstance(row, Null) else next((v for v in row if isinstance(v, Null)), row) for row in cut
            ]
        return found

    def close(self) -> None:
        """Incomplete where the labeler failed on everything: then it is broken, not the views."""
        if self._tried and self._failed == self._tried:
            raise Incomplete(self._why)


def chunks(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    """Lists of `size`, the last one shorter."""
    while chunk := list(islice(rows, size)):
        yield chunk
