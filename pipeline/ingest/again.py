"""Sources read again: for samples whose stored image is damaged, and for inputs that could not be used the first time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.ingest.candidate import Candidate
from pipeline.ingest.sources import open_source
from pipeline.run import reports_of


def absolute(spec: str) -> str:
    """A source as it can be named from anywhere."""
    return spec if "://" in spec else os.path.abspath(os.path.expanduser(spec))


def recorded(ds: Dataset, spec: str, candidates: Iterator[Candidate]) -> Iterator[Candidate]:
    """The candidates of a source, of which the name is kept before the first one is read: a run may be killed, or end with
    nothing but quarantined ones. A source without any is not kept.
    """
    for number, candidate in enumerate(candidates):
        if number == 0:
            data = json.dumps({"source": absolute(spec)}).encode()  # ASCII: bytes that are no UTF-8 come back, too
            ds.storage.put_if_absent(f"_sources/{hashlib.sha256(data).hexdigest()[:16]}.json", data)
        yield candidate


def known_sources(ds: Dataset, also: Sequence[str] = ()) -> list[str]:
    """Every source that was named to `ingest`, then `also`; each once."""
    kept = [json.loads(ds.storage.read_bytes(key))["source"] for key in ds.storage.list("_sources")]
    # Data sets made before this had its folder keep them in the reports of the runs.
    older = [spec for report in reports_of(ds, "ingest") for spec in report.get("sources", ())]
    return list(dict.fromkeys(map(absolute, [*kept, *older, *also])))


def candidates_of(ds: Dataset, uris: Collection[str], sources: Sequence[str]) -> Iterator[Candidate]:
    """The candidates with these URIs, from the sources that still exist; walks no further than the last of them."""
    wanted = set(uris)
    for spec in sources:
        if not wanted:
            return
        try:
            for candidate in open_source(spec, exclude=ds.storage.url):
                if candidate.uri in wanted:
                    wanted.discard(candidate.uri)
                    yield candidate
                    if not wanted:
                        return
        except ConfigError:
            continue  # moved, deleted or damaged since
