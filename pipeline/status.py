"""What a data set holds: samples, shards, and for each modality its recipe, backend, weights and what is committed,
missing, stale.
"""

from __future__ import annotations

from typing import Any

from pipeline.dataset import Dataset
from pipeline.plan import Step, inputs_of


def status(ds: Dataset) -> dict[str, Any]:
    """One JSON-ready object. Counts are shards; `nulls` counts labels. damage: sentences, empty where all is sound.

    `missing`: index shards without a sound commit. `stale`: commits made from other bytes than are committed now.
    `stored` is False for modalities that are computed when they are tokenized, and have no label shards.
    """
    shards, manifest = ds.shards(), ds.manifest()
    held = {(name, recipe): ds.commits(name, recipe) for name, recipe in manifest.modalities.items()}
    modalities, damage = {}, list[str]()
    for (name, recipe_id), commits in held.items():
        recipe = ds.recipe(recipe_id)
        stored = bool(commits) or _stored(name)
        reads = tuple(recipe["reads"].items())
        stale = 0
        for k, commit in commits.items():
            inputs = inputs_of(
                Step(name, reads, ()), k, {**held, **{ref: ds.commits(*ref) for ref in reads if ref not in held}}
            )
            stale += inputs is not None and name != "rgb" and dict(commit.inputs) != inputs
        damage += ds.damaged(name, recipe_id)
        modalities[name] = {
            "recipe": recipe_id,
            "labeler": recipe["labeler"],
            "backend": recipe["backend"],
            "weights": {slot: {"url": w["url"], "sha256": w["sha256"]} for slot, w in recipe["weights"].items()},
            "stored": stored,
            "committed": len(commits),
            "samples": sum(c.count for c in commits.values()),
            "nulls": sum(len(c.nulls) for c in commits.values()),
            "null_reasons": _reasons(commits.values()),
            "stale": stale,
            "missing": len(shards) - len(commits) if stored else 0,
        }
    samples = sum(len(ds.index(k)) for k in shards)
    return {
        "root": ds.storage.url, "name": ds.name, "samples": samples, "shards": len(shards), "manifest": manifest.version,
        "modalities": modalities, "damage": damage,
    }  # fmt: skip


def _stored(name: str) -> bool:
    from labelers.core.registry import all_modalities

    known = all_modalities().get(name)
    return known is None or known.stored


def _reasons(commits: Any) -> dict[str, int]:
    """How often each reason stands for a null, most frequent first; what follows a colon is left out."""
    counts: dict[str, int] = {}
    for commit in commits:
        for reason in commit.nulls.values():
            head = reason.split(":")[0]
            counts[head] = counts.get(head, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))
