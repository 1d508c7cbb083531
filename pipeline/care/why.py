"""Why does this sample have this label? The chain from the image's source to the label and the tokens, from records alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.plan import Ref
from pipeline.records import IndexRow


def find_sample(ds: Dataset, text: str) -> tuple[int, int, IndexRow]:
    """(shard, place, index row) of the sample whose id begins with `text`, or whose URI ends with it. ConfigError where
    that is none or more than one.
    """
    found: list[tuple[int, int, IndexRow]] = []
    for k in ds.shards():
        for place, row in enumerate(ds.index(k)):
            if row.id == text:
                return k, place, row
            names = (row.uri, unquote(row.uri, errors="surrogateescape"))  # as it is kept, and as a person types it
            if any(name.endswith(text) for name in names) or (len(text) >= 4 and row.id.startswith(text)):
                found.append((k, place, row))
    if len(found) != 1:
        some = ", ".join(row.id for _, _, row in found[:3])
        fit = f"{len(found)} samples fit, e.g. {some}" if found else "no sample has this id or file name"
        raise ConfigError(f"{text}: {fit}.")
    return found[0]


def why(ds: Dataset, text: str, ref: Ref) -> dict[str, Any]:
    """One JSON-ready object: the sample, the modality's link, the links it was made from, and the tokens made of it."""
    k, place, row = find_sample(ds, text)
    return {
        "sample": {
            "id": row.id, "uri": row.uri, "sha256": row.sha256, "width": row.width, "height": row.height,
            "shard": k, "place": place,
        },
        "label": _link(ds, ref, k, row.id),
        "made_from": [_link(ds, source, k, row.id) for source in _sources(ds, ref)],
        "tokens": [_link(ds, token, k, row.id) for token in _tokens(ds, ref)],
    }  # fmt: skip


def _sources(ds: Dataset, ref: Ref) -> Iterator[Ref]:
    """What a recipe reads, directly or through others, nearest first, each once."""
    seen: dict[Ref, None] = {}
    queue = [ref]
    while queue:
        for source in ds.recipe(queue.pop(0)[1])["reads"].items():
            if source not in seen:
                seen[source] = None
                queue.append(source)
    yield from seen


def _tokens(ds: Dataset, ref: Ref) -> list[Ref]:
    """The current token modalities that read this recipe, or compute it on the view."""
    found = []
    for name, recipe in ds.manifest().modalities.items():
        if name.startswith("tok_"):
            record = ds.recipe(recipe)
            reads = {**record["reads"], **record["params"].get("computed", {})}
            if reads.get(ref[0]) == ref[1]:
                found.append((name, recipe))
    return found


def _link(ds: Dataset, ref: Ref, k: int, sample: str) -> dict[str, Any]:
    """One modality's part in the chain: who made it, with what, and what its commit says of this sample."""
    recipe, commit = ds.recipe(ref[1]), ds.commit_of(*ref, k)
    link: dict[str, Any] = {
        "modality": ref[0], "recipe": ref[1], "current": ds.manifest().modalities.get(ref[0]) == ref[1],
        "labeler": recipe["labeler"], "version": recipe["version"], "backend": recipe["backend"],
        "params": recipe["params"], "weights": recipe["weights"], "reads": recipe["reads"],
        "committed": commit is not None,
    }  # fmt: skip
    if commit is not None:
        link |= {
            "file": commit.file, "sha256": commit.sha256, "inputs": dict(commit.inputs), "attempt": commit.attempt,
            "seconds_a_shard": commit.seconds, "null": commit.nulls.get(sample),
        }  # fmt: skip
    return link


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The chain as text, from the image to the tokens."""
    sample = found["sample"]
    yield f"sample {sample['id']}, place {sample['place']} of shard {sample['shard']}"
    yield f"  from {sample['uri']}"
    yield f"  sha256 {sample['sha256']}, {sample['width']} x {sample['height']} pixels"
    for link in [*reversed(found["made_from"]), found["label"], *found["tokens"]]:
        name = link["modality"] if link["modality"] == "rgb" else f"{link['modality']}@{link['recipe']}"
        yield f"-> {name}{'' if link['current'] else ' (not current)'}: {link['backend']}"
        yield f"     {link['labeler']} version {link['version']}, params {link['params'] or 'none'}"
        for slot, weight in link["weights"].items():
            yield f"     {slot} {weight['url'].split('#')[0]}, sha256 {weight['sha256']}"
        if not link["committed"]:
            yield "     this shard is not committed (computed on the view, or still to do)"
            continue
        inputs = ", ".join(f"{n} {digest[:12]}" for n, digest in link["inputs"].items())
        made = f", made from {inputs}" if inputs else ""
        yield f"     {link['file']} sha256 {link['sha256'][:12]}{made}, attempt {link['attempt']}"
        if link["null"]:
            yield f"     null: {link['null']}"
