"""Finds labelers: every module directly in `labelers`, then packages with the entry point `manymodal.labelers`.

A third-party package declares, in its pyproject.toml:

    [project.entry-points."manymodal.labelers"]
    my_depth = "my_pkg:MyDepth"
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import entry_points

import labelers
from labelers.core.labeler import Labeler
from labelers.core.modality import Modality


def _in_module(module_name: str) -> list[type[Labeler]]:
    module = importlib.import_module(module_name)
    return [
        cls for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Labeler) and cls.__module__ == module_name and not inspect.isabstract(cls)
    ]  # fmt: skip


@lru_cache(maxsize=1)
def all_labelers() -> dict[str, type[Labeler]]:
    """Every known labeler by name, built-in ones first. Raises ValueError where two share a name."""
    found: dict[str, type[Labeler]] = {}
    classes: list[type[Labeler]] = []
    for info in pkgutil.iter_modules(labelers.__path__):
        if not info.ispkg:
            classes += _in_module(f"labelers.{info.name}")
    for entry in entry_points(group="manymodal.labelers"):
        classes.append(entry.load())
    for cls in classes:
        if cls.name in found and found[cls.name] is not cls:
            raise ValueError(f"two labelers are named {cls.name!r}: {found[cls.name]!r} and {cls!r}; rename one")
        found[cls.name] = cls
    _agree(found.values())
    return found


def _agree(classes: Iterable[type[Labeler]]) -> None:
    """Raise ValueError where two labelers mean different things by one modality: readers know it by its name alone."""
    owner: dict[str, tuple[Modality, type[Labeler]]] = {}
    for cls in classes:
        for modality in cls.produces:
            first, maker = owner.setdefault(modality.name, (modality, cls))
            if first is not modality:
                raise ValueError(
                    f"{maker!r} and {cls!r} both produce {modality.name!r}, each with a definition of its own; import one "
                    "from the other (labelers.core holds those that several backends share), or rename one"
                )


def get_labeler(name: str) -> type[Labeler]:
    """The labeler of that name. Raises KeyError naming the nearest one."""
    known = all_labelers()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"no labeler is named {name!r}{hint} Known: {', '.join(sorted(known))}.")
    return known[name]


def all_modalities() -> dict[str, Modality]:
    """Every modality some labeler produces, by name; labelers that produce the same one share its definition."""
    return {m.name: m for cls in all_labelers().values() for m in cls.produces}


def producers_of(modality: str) -> list[type[Labeler]]:
    """Every labeler that produces the modality, in the registry's order. KeyError, naming the nearest, where none does."""
    found = [cls for cls in all_labelers().values() if any(m.name == modality for m in cls.produces)]
    if found:
        return found
    near = difflib.get_close_matches(modality, all_modalities(), n=1)
    raise KeyError(f"no labeler produces {modality!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
