"""Ingest: candidates to samples. Normalise, find duplicates, quarantine what cannot be used, append index and rgb
shards.

A shard is written in this order: rgb tar, rgb commit, index. The index comes last and is what makes the shard exist, so
a crash before it leaves a shard that the next run writes again, and a crash after it leaves nothing to do. Ids are the
first 32 hex digits of the sha256 of the source bytes: the same photo has the same id wherever it comes from.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from labelers.core.images import BadImage, decode, encode_png
from pipeline.commits import Verified, retract
from pipeline.dataset import IMAGE_EXTS, Dataset
from pipeline.errors import ConfigError, DamageError
from pipeline.ingest.candidate import Candidate, Unusable
from pipeline.ingest.quarantine import Entry, append_quarantine
from pipeline.ingest.sources import open_source
from pipeline.recipes import RGB_RECIPE
from pipeline.records import Commit, IndexRow, shard_name
from pipeline.shard_task import replace
from pipeline.shards import HEADER, NULL_EXT, iter_tar, read_inputs, write_tar

EXT_OF = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
THREADS = 4  # reading waits for the disk, and Pillow decodes outside the interpreter's lock
AHEAD = 32

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


def _in_order(candidates: Iterator[Candidate]) -> Iterator[Taken | Entry]:
    """`take` on a few threads, results in the order of the candidates, at most AHEAD of them in memory."""
    with ThreadPoolExecutor(THREADS) as pool:
        window: deque[Future[Taken | Entry]] = deque()
        try:
            for candidate in candidates:
                window.append(pool.submit(take, candidate))
                if len(window) >= AHEAD:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()


def ingest(ds: Dataset, specs: Sequence[str], progress: Progress = lambda *_: None) -> IngestReport:
    """Append what is new in the sources to the data set. ConfigError where they hold no usable image and the data set
    neither.
    """
    root = Path(ds.storage.url) if "://" not in ds.storage.url else None
    recipe = ds.put_recipe(RGB_RECIPE)
    ds.update_manifest({"rgb": recipe})
    first = {row.sha256: row.uri for k in ds.shards() for row in ds.index(k)}
    report, pending, seen = IngestReport(samples=len(first)), list[Taken](), 0
    for result in _in_order(chain.from_iterable([open_source(spec, exclude=root) for spec in specs])):
        seen += 1
        if isinstance(result, tuple):
            report.quarantined.append(result)
        elif result.row.sha256 in first:
            earlier = first[result.row.sha256]
            if earlier == result.row.uri:
                report.known += 1
            else:
                report.duplicates.append((result.row.uri, earlier))
        else:
            first[result.row.sha256] = result.row.uri
            pending.append(result)
        if len(pending) == ds.shard_size:
            _write_shard(ds, recipe, pending)
            report.new, pending = report.new + len(pending), []
        progress("ingest", seen, 0, "")
    if pending:
        _write_shard(ds, recipe, pending)
        report.new += len(pending)
    progress("ingest", seen, seen, "")
    append_quarantine(ds, report.quarantined)
    report.samples, report.shards = len(first), len(ds.shards())
    if not first:
        found = (
            f"{len(report.quarantined)} files, none usable; the first: {': '.join(report.quarantined[0][:2])}"
            if seen
            else "no image"
        )
        raise ConfigError(f"{', '.join(specs)}: {found}. Name a folder, tar or list with images in it.")
    return report


def _write_shard(ds: Dataset, recipe: str, taken: Sequence[Taken]) -> None:
    """The next shard: rgb, its commit, and last the index."""
    k = len(ds.shards())
    orphan = ds.commit_of("rgb", recipe, k)
    if orphan is not None:
        retract(ds.storage, orphan)  # of a run that ended before its index: no label can have been made from it
    ids = [t.row.id for t in taken]
    draft = Commit("rgb", recipe, k, shard_name(k, "tar"), 0, 0, "")
    write = partial(write_tar, modality="rgb", samples=[(t.row.id, t.members) for t in taken], inputs={})
    replace(ds, draft, write, verify_rgb, ids)
    if not ds.publish_index(k, [t.row for t in taken]):
        raise DamageError(
            f"{ds.storage.url}: index shard {k} was written by another ingest meanwhile. Run the command again."
        )


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
