"""Ingest: candidates to samples. Normalise, find duplicates, quarantine what cannot be used, append index and rgb
shards.

A shard is written in this order: rgb tar, rgb commit, index. The index comes last and is what makes the shard exist, so
a crash before it leaves a shard that the next run writes again, and a crash after it leaves nothing to do. Ids are the
first 32 hex digits of the sha256 of the source bytes: the same photo has the same id wherever it comes from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from labelers.core.ahead import ahead
from labelers.core.images import BadImage, decode, encode_png
from pipeline.commits import Verified, retract
from pipeline.dataset import IMAGE_EXTS, Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.ingest.again import recorded
from pipeline.ingest.candidate import Candidate, Unusable
from pipeline.ingest.quarantine import Entry, append_quarantine
from pipeline.ingest.sources import open_source
from pipeline.lock import exclusive
from pipeline.records import RGB_RECIPE, Commit, IndexRow, shard_name
from pipeline.shard_task import replace
from pipeline.shards import HEADER, NULL_EXT, iter_tar, read_inputs, write_tar
from pipeline.survey import write_pack

EXT_OF = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
THREADS = 4  # reading waits for the disk, and Pillow decodes outside the interpreter's lock
AHEAD = 31  # candidates that are read early

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Taken:
    """One candidate, read and normalised. members: what the rgb shard holds of it, by extension."""

    row: IndexRow
    members: dict[str, bytes]


@dataclass
class IngestReport:
    """samples, shards: in the data set now. new: added by this run. known: seen again at the same place. duplicates:
    (uri, uri of the first with the same bytes). quarantined: (uri, reason, error).
    """

    samples: int = 0
    new: int = 0
    known: int = 0
    shards: int = 0
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    quarantined: list[Entry] = field(default_factory=list)


def take(candidate: Candidate) -> Taken | Entry:
    """Read, decode and normalise one candidate, or say why it cannot be used. Errors of the system itself are raised."""
    try:
        payload = candidate.read()
        decoded = decode(payload.data)
    except (Unusable, BadImage) as error:
        return candidate.uri, error.reason, error.detail
    sha256 = hashlib.sha256(payload.data).hexdigest()
    height, width = decoded.image.shape[:2]
    ext, data = (EXT_OF[decoded.format], payload.data) if decoded.canonical else ("png", encode_png(decoded.image))
    row = IndexRow(sha256[:32], candidate.uri, sha256, width, height, len(payload.data))
    return Taken(row, {ext: data, **payload.sidecars})


def ingest(ds: Dataset, specs: Sequence[str], progress: Progress = lambda *_: None) -> IngestReport:
    """Append what is new in the sources to the data set. ConfigError where they hold no usable image and the data set
    neither.
    """
    sources = [recorded(ds, spec, open_source(spec, exclude=ds.storage.url)) for spec in specs]
    report = take_in(ds, chain.from_iterable(sources), progress)
    if not report.samples:
        bad = report.quarantined
        found = f"{len(bad)} files, none usable; the first: {', '.join(bad[0][:2])}" if bad else "no image"
        raise ConfigError(f"{', '.join(specs)}: {found}. Name a folder, tar or list with images in it.")
    return report


def take_in(ds: Dataset, candidates: Iterator[Candidate], progress: Progress = lambda *_: None) -> IngestReport:
    """Append the candidates that are new, in full shards and a last one; quarantine what cannot be used."""
    recipe = ds.put_recipe(RGB_RECIPE)
    ds.update_manifest({"rgb": recipe})
    spine = _Spine(ds, recipe)
    report, waiting, seen = IngestReport(), dict[str, Taken](), 0
    for result in ahead(take, candidates, THREADS, AHEAD):
        seen += 1
        if isinstance(result, tuple):
            report.quarantined.append(result)
        elif (uri := spine.known.get(result.row.sha256)) is not None:
            _seen_before(report, result.row, uri)
        elif result.row.sha256 in waiting:
            _seen_before(report, result.row, waiting[result.row.sha256].row.uri)
        else:
            waiting[result.row.sha256] = result
        if len(waiting) == ds.shard_size:
            spine.append(waiting, report)
            waiting = {}
        progress("ingest", seen, 0, "")
    if waiting:
        spine.append(waiting, report)
    progress("ingest", seen, seen, "")
    append_quarantine(ds, report.quarantined)
    if report.new:
        write_pack(ds.storage, "rgb", recipe)
    spine.catch_up()
    report.samples, report.shards = len(spine.known), spine.shards
    return report


def _seen_before(report: IngestReport, row: IndexRow, uri: str) -> None:
    if uri == row.uri:
        report.known += 1
    else:
        report.duplicates.append((row.uri, uri))


class _Spine:
    """The index as this run knows it. known: sha256 -> uri of every sample of the first `shards` shards."""

    def __init__(self, ds: Dataset, recipe: str) -> None:
        self.ds, self.recipe = ds, recipe
        self.known: dict[str, str] = {}
        self.shards = 0
        self.catch_up()

    def catch_up(self) -> None:
        """Learn what was appended since, by this run or by another at the same time."""
        for k in self.ds.shards()[self.shards :]:
            self.known |= {row.sha256: row.uri for row in self.ds.index(k)}
            self.shards = k + 1

    def append(self, waiting: Mapping[str, Taken], report: IngestReport) -> None:
        """Write the next shard: rgb, its commit, and last the index; less what another run brought in meanwhile."""
        with exclusive(self.ds.storage, "ingest"):
            self.catch_up()
            for sha256 in waiting.keys() & self.known.keys():
                _seen_before(report, waiting[sha256].row, self.known[sha256])
            taken = [t for sha256, t in waiting.items() if sha256 not in self.known]
            if taken:
                self._write(self.shards, taken)
                report.new += len(taken)
                self.catch_up()

    def _write(self, k: int, taken: Sequence[Taken]) -> None:
        ids = [t.row.id for t in taken]
        draft = Commit("rgb", self.recipe, k, shard_name(k, "tar"), 0, 0, "")
        # What a run left that ended before its index: no label was made from it, and adopted, it would bring back old side-cars.
        retract(self.ds.storage, draft)
        write = partial(write_tar, modality="rgb", samples=[(t.row.id, t.members) for t in taken], inputs={})
        replace(self.ds, draft, write, verify_rgb, ids)
        if not self.ds.publish_index(k, [t.row for t in taken]):
            raise DamageError(f"{self.ds.storage.url}: index shard {k} appeared although this run holds the lock.")


def verify_rgb(path: Path) -> Verified:
    """Re-open a finished rgb shard: every sample has exactly one image, or the reason why it has none any more."""
    ids, nulls = [], {}
    for key, members in iter_tar(path):
        if key == HEADER:
            continue
        if set(members) == {NULL_EXT}:
            nulls[key] = members[NULL_EXT].decode()
        elif sum(ext in IMAGE_EXTS for ext in members) != 1:
            raise DamageError(f"{path.name}: sample {key} has {sorted(members)} where one image is expected")
        ids.append(key)
    return Verified(ids, nulls, read_inputs(path))
