"""What a data set holds: samples, shards, and for each modality its recipe, backend, weights and what is committed,
missing, stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.dataset import Dataset
from pipeline.plan import Ref, Step, is_stale
from pipeline.survey import Survey


def status(ds: Dataset) -> dict[str, Any]:
    """One JSON-ready object. Counts are shards; `nulls` counts labels. damage: sentences, empty where all is sound.

    `missing`: index shards without a sound commit. `stale`: commits made from other bytes than are committed now, and
    all tokens of what is not current any more. `stored` is False for modalities that are computed when they are
    tokenized, and have no label shards.
    """
    shards, manifest = ds.shards(), ds.manifest()
    surveys = {ref: ds.survey(*ref) for ref in manifest.modalities.items()}
    held = {ref: found.commits for ref, found in surveys.items()}
    modalities, damage = {}, list[str]()
    for (name, recipe_id), found in surveys.items():
        recipe = ds.recipe(recipe_id)
        reads = tuple(recipe["reads"].items())
        for ref in reads:
            if ref not in held:
                held[ref] = ds.commits(*ref)
        kept = bool(found.commits) or stored(name)
        step = Step(name, reads, ((name, recipe_id),))
        outdated = _outdated(name, recipe, manifest.modalities)
        damage += found.damage.values()
        modalities[name] = {
            "recipe": recipe_id,
            "labeler": recipe["labeler"],
            "backend": recipe["backend"],
            "weights": {slot: {"url": w["url"], "sha256": w["sha256"]} for slot, w in recipe["weights"].items()},
            "stored": kept,
            "committed": len(found.commits),
            "samples": sum(c.count for c in found.commits.values()),
            "nulls": sum(len(c.nulls) for c in found.commits.values()),
            "null_reasons": _reasons(found.commits.values()),
            "stale": sum(name != "rgb" and (outdated or is_stale(step, k, held)) for k in found.commits),
            "missing": len(shards) - len(found.commits) if kept else 0,
        }
    return {
        "root": ds.storage.url, "name": ds.name, "samples": _samples(ds, surveys), "shards": len(shards),
        "manifest": manifest.version, "modalities": modalities, "damage": damage,
    }  # fmt: skip


def _samples(ds: Dataset, surveys: Mapping[Ref, Survey]) -> int:
    """Samples of all index shards; the count of an rgb commit saves opening the index shard it belongs to."""
    rgb = next((found.commits for (name, _), found in surveys.items() if name == "rgb"), {})
    return sum(rgb[k].count if k in rgb else len(ds.index(k)) for k in ds.shards())


def _outdated(name: str, recipe: Mapping[str, Any], current: Mapping[str, str]) -> bool:
    """Whether `tokenize` would make tokens by another recipe: what they were made from, or computed, is not current."""
    used = {**recipe["reads"], **recipe["params"].get("computed", {})}
    return name.startswith("tok_") and any(current.get(source, read) != read for source, read in used.items())


def stored(name: str) -> bool:
    """Whether a modality has label shards; others are computed when they are tokenized."""
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
