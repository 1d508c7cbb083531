"""One thing that is wrong with a data set, in words a person can act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.records import SOURCE

Kind = Literal[
    "missing",  # committed, but the file is not there
    "length",  # the file has another length than committed: cut, or something appended
    "digest",  # the bytes are not the committed ones
    "swapped",  # the bytes are those of another shard of the recipe
    "commit",  # the commit record is unreadable, or that of another shard
    "uncommitted",  # a file of the current manifest's recipe without a commit
    "not made",  # an index shard for which the current recipe has neither
    "order",  # ids are not those of the index, in order
    "content",  # ids, count and digest agree, but the labels are not of these images
    "inputs",  # made from other bytes than are committed now
    "removed",  # an image that somebody asked to forget is still there
    "index",  # the index shard itself
]


@dataclass(frozen=True)
class Finding:
    """modality, recipe: "index" and "" for the index. sha256: what was committed, "" where unknown."""

    modality: str
    recipe: str
    shard: int
    kind: Kind
    what: str
    sha256: str = ""

    def sentence(self) -> str:
        name = (
            f"{self.modality}@{self.recipe}"
            if self.recipe and (self.modality, self.recipe) != SOURCE
            else self.modality
        )
        return f"{name} shard {self.shard}: {self.kind}: {self.what}"
