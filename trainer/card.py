"""The card of a checkpoint (README.md with Hugging Face metadata): what it is, what made its data, how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.dataset import Dataset
from pipeline.licences import licence_of

CARD = "README.md"


def model_card(ds: Dataset, record: Mapping[str, Any]) -> str:
    """Markdown. record: the checkpoint's train.json."""
    from huggingface_hub import ModelCardData

    rows = [_row(ds, stream, record.get("recipes", {}).get(stream["name"])) for stream in record["streams"]]
    restricted = sorted(row[0] for row in rows if row[-1])
    published = record.get("weights")
    head = ModelCardData(
        library_name="manymodal", tags=["manymodal", "any-to-any", "4M"], license="other", pipeline_tag="any-to-any",
        model_name=record["config"]["name"], datasets=None if published else [ds.name],
    )  # fmt: skip
    about = (
        f"A published 4M model, from {published['url']} (sha256 `{published['sha256'][:16]}`)."
        if published
        else f"Size {record['config']['size']}, {record['step']} steps on `{ds.name}` ({_samples(ds)} images), manifest "
        f"{record['manifest']}, seed {record['config'].get('seed')}."
    )
    parts = [
        f"---\n{head.to_yaml().strip()}\n---\n\n# {record['config']['name']}\n",
        f"A masked any-to-any model of {len(record['streams'])} modalities in the manner of 4M-21. {about}\n",
        f"**Not for commercial use**: it learned from {', '.join(restricted)}.\n" if restricted else "",
        "## Modalities\n\n| modality | kind | vocabulary | tokens | label made by | licences (code / weights) | recipe |\n"
        "|---|---|---|---|---|---|---|\n" + "".join("| " + " | ".join(row[:-1]) + " |\n" for row in rows),
        _heldout("new views of known photos", record.get("heldout_views") or {}),
        _heldout("new photos", record.get("heldout") or {}),
        "## Limits\n\nIt repeats the errors and biases of the backends above and of the images it saw. Predictions of people, "
        "poses and captions are guesses, not facts.\n",
    ]
    return "\n".join(part for part in parts if part)


def _samples(ds: Dataset) -> int:
    return sum(len(ds.index(k)) for k in ds.shards())


def _row(ds: Dataset, stream: Mapping[str, Any], recipe: str | None) -> tuple[Any, ...]:
    """The cells of one modality, and whether its labels may not be used commercially."""
    maker, licences, restricted = "-", "-", False
    if recipe is not None:
        made = ds.recipe(recipe)
        for name, read in [*made["reads"].items(), *made["params"].get("computed", {}).items()]:
            source = ds.recipe(read)
            maker = str(source["backend"]) if name != "rgb" or maker == "-" else maker
            if terms := licence_of(source):
                licences, restricted = f"{terms.code} / {terms.weights}", not terms.commercial
    cells = (stream["name"], stream["kind"], stream["vocab"], stream["length"], maker, licences, f"`{recipe or '-'}`")
    return (*(str(cell).replace("|", "\\|") for cell in cells), restricted)


def _heldout(what: str, heldout: Mapping[str, Mapping[str, Any]]) -> str:
    if not heldout:
        return ""
    rows = "".join(
        f"| {name} | {h['given']} | {h['loss']:.3f} | {h['unigram']:.3f} | {h['uniform']:.3f} |\n"
        for name, h in heldout.items()
    )
    return (
        f"## Loss on {what}, nats a token\n\n| modality | given | model | unigram | uniform |\n|---|---|---|---|---|\n"
        + rows
    )
