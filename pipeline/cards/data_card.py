"""The data card of a data set (README.md with Hugging Face metadata), made from what is committed and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labelers.core.registry import all_modalities
from pipeline.cards.croissant import croissant
from pipeline.dataset import Dataset
from pipeline.licences import licence_of
from pipeline.records import canonical_json
from pipeline.status import status

CARD, CROISSANT = "README.md", "croissant.json"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip


def write_cards(ds: Dataset) -> list[str]:
    """Bring README.md and croissant.json of the data set up to date; the keys that changed."""
    found = status(ds)
    made = {CARD: data_card(found).encode(), CROISSANT: canonical_json(croissant(ds, found))}
    changed = []
    for key, data in made.items():
        if ds.storage.exists(key) and ds.storage.read_bytes(key) == data:
            continue
        ds.storage.delete(key)  # made anew from what is committed: nothing is lost if a run dies here
        ds.storage.put_if_absent(key, data)
        changed.append(key)
    return changed


def data_card(found: Mapping[str, Any]) -> str:
    """Markdown. found: what `status` says."""
    from huggingface_hub import DatasetCardData

    size = next((name for most, name in _SIZES if found["samples"] < most), "n>1B")
    head = DatasetCardData(
        pretty_name=found["name"], license="other", size_categories=[size], annotations_creators=["machine-generated"],
        tags=["manymodal", "multimodal", "any-to-any", *sorted(m for m in found["modalities"] if not m.startswith("tok_"))],
    )  # fmt: skip
    labels = {n: m for n, m in found["modalities"].items() if not n.startswith("tok_")}
    tokens = {n: m for n, m in found["modalities"].items() if n.startswith("tok_")}
    restricted = sorted(n for n, m in labels.items() if (terms := licence_of(m)) and not terms.commercial)
    parts = [
        f"---\n{head.to_yaml().strip()}\n---\n\n# {found['name']}\n",
        f"{found['samples']} images in {found['shards']} shards, aligned in every modality: shard k of each holds the same "
        "samples in the same order. A label that could not be made is a null with its reason.\n",
        "The images keep the licences of their sources, which this card cannot know. Labels are predictions of the "
        "backends below, under the licences named.\n",
        _terms(restricted),
        "## Labels\n",
        _table(labels, found["samples"]),
        "## Tokens\n\n" + _token_list(tokens) if tokens else "",
        "## Reading it\n\nLabel shards are plain WebDataset tars and Parquet, token shards Arrow IPC. Trust a shard only "
        "where its commit in `_commits/` exists; it has count, length and sha256. `croissant.json` describes the files.\n",
    ]
    return "\n".join(part for part in parts if part)


def _terms(restricted: list[str]) -> str:
    if not restricted:
        return ""
    return f"**Not for commercial use**: {', '.join(restricted)}, by the licence of the weights that made them.\n"


def _table(labels: Mapping[str, Any], samples: int) -> str:
    rows = ["| modality | what it is | made by | weights | licences (code / weights) | recipe | labels | nulls |",
            "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    known = all_modalities()
    for name, m in labels.items():
        terms = licence_of(m)
        licences = f"{terms.code} / {terms.weights}" if terms else "of the source"
        weights = ", ".join(f"`{w['sha256'][:12]}`" for w in m["weights"].values()) or "-"
        about = known[name].about if name in known else "the source image, upright, 8-bit RGB" if name == "rgb" else ""
        count = f"{m['samples'] - m['nulls']} of {samples}" if m["stored"] else "computed when tokenized"
        cells = (name, about, m["backend"], weights, licences, f"`{m['recipe']}`", count, m["nulls"])
        rows.append("| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
    return "\n".join(rows) + "\n"


def _token_list(tokens: Mapping[str, Any]) -> str:
    lines = [
        f"- `{n}` by {m['backend']}, recipe `{m['recipe']}`: {m['samples'] - m['nulls']} samples"
        for n, m in tokens.items()
    ]
    return "\n".join(lines) + "\n"
