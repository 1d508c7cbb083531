"""Which samples somebody asked to remove: a mark each, `_removed/<id>.json`, that every command honours from then on."""

from __future__ import annotations

from pipeline.dataset import Dataset

REMOVED = "removed"  # the reason of their nulls


def removed(ds: Dataset) -> set[str]:
    """Ids somebody asked to remove."""
    return {
        key.rsplit("/", 1)[-1].removesuffix(".json") for key in ds.storage.list("_removed") if key.endswith(".json")
    }
