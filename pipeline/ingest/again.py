"""Sources read again: for samples whose stored image is damaged, and for inputs that could not be used the first time."""

from __future__ import annotations

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


def known_sources(ds: Dataset, also: Sequence[str] = ()) -> list[str]:
    """Every source the data set was filled from, newest run first, then `also`; each once."""
    recorded = [spec for report in reversed(reports_of(ds, "ingest")) for spec in report.get("sources", ())]
    return list(dict.fromkeys([*map(absolute, recorded), *map(absolute, also)]))


def candidates_of(ds: Dataset, uris: Collection[str], sources: Sequence[str]) -> Iterator[Candidate]:
    """The candidates with these URIs, from the sources that still exist; walks no further than the last of them."""
    wanted = set(uris)
    for spec in sources:
        if not wanted:
            return
        try:
            found = open_source(spec, exclude=ds.storage.url)
        except ConfigError:
            continue  # moved or deleted since
        for candidate in found:
            if candidate.uri in wanted:
                wanted.discard(candidate.uri)
                yield candidate
                if not wanted:
                    return
