"""Strict validation against a Kubernetes resource definition: unknown fields are errors, which a cluster would drop."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

KINDS: dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "object": dict,
    "array": list,
    "integer": int,
    "number": int | float,
}


@lru_cache
def schema_of(path: Path, version: str) -> dict[str, Any]:
    """The schema of one version of the definition in a file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(path.read_text(), Loader=loader)  # noqa: S506, a safe loader either way
    return next(v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == version)


def problems(value: Any, schema: dict[str, Any], where: str = "") -> Iterator[str]:
    """Everything in the value that the schema does not allow."""
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str):
            yield f"{where}: {value!r} is neither a number nor a text"
        return
    kind = schema.get("type")
    wrong = kind in KINDS and (not isinstance(value, KINDS[kind]) or (kind != "boolean" and isinstance(value, bool)))
    if wrong:
        yield f"{where}: {value!r} is no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if isinstance(value, list):
        for i, entry in enumerate(value):
            yield from problems(entry, schema.get("items", {}), f"{where}[{i}]")
    if isinstance(value, dict):
        yield from _fields(value, schema, where)


def _fields(value: dict[str, Any], schema: dict[str, Any], where: str) -> Iterator[str]:
    yield from (f"{where}.{name}: is missing" for name in schema.get("required", ()) if name not in value)
    known, other = schema.get("properties", {}), schema.get("additionalProperties")
    for name, entry in value.items():
        if name in known:
            yield from problems(entry, known[name], f"{where}.{name}")
        elif isinstance(other, dict):
            yield from problems(entry, other, f"{where}.{name}")
        elif known and not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{where}.{name}: there is no such field"
