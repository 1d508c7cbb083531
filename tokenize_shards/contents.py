"""Every content by its name: what the rows of the token table and the files of tokenizers say."""

from __future__ import annotations

from tokenize_shards.content import Content, Edges, Features, Pixels
from tokenize_shards.content_maps import Classes, Depth, Masks, Normals

CONTENTS = ("pixels", "edges", "features", "classes", "depth", "normals", "masks")


def make_content(name: str, channels: int, settings: dict[str, float]) -> Content:
    """The content of that name, one of CONTENTS, with saved settings. channels: of features; of classes, how many."""
    if name == "features":
        return Features(channels, **settings)
    if name == "classes":
        return Classes(channels)
    kinds: dict[str, type[Content]] = {
        "pixels": Pixels, "edges": Edges, "depth": Depth, "normals": Normals, "masks": Masks,
    }  # fmt: skip
    if name not in kinds:
        raise ValueError(f"unknown content {name!r}; known: {', '.join(CONTENTS)}")
    return kinds[name](**settings)
