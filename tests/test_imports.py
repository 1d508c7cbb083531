"""The house rules that a machine can check: imports point one way, the core stays light, files stay short.

labelers <- pipeline <- tokenize_shards <- trainer. Only the command line sees all of them, and only inside functions.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
ROOMS = ("labelers", "pipeline", "tokenize_shards", "trainer")
MAX_LINES = 330
TOP_LEVEL = {*ROOMS, "infra", "tests", "pyproject.toml", "constraints.txt", "README.md", "Makefile", "LICENSE"}

# Decides what is aligned, committed, cut, masked and shuffled: no ray, no torch, not even inside a function.
PURE_CORE = (
    "labelers/core/modality.py",
    "labelers/core/labeler.py",
    "labelers/core/registry.py",
    "labelers/core/show.py",
    "pipeline/commits.py",
    "pipeline/errors.py",
    "pipeline/plan.py",
    "pipeline/records.py",
    "pipeline/storage/interface.py",
    "pipeline/storage/local.py",
    "tokenize_shards/holdout.py",
    "tokenize_shards/views.py",
    "trainer/masking.py",
)
HEAVY = {"ray", "torch", "transformers", "segment_anything"}


@dataclass(frozen=True)
class Import:
    """One import: the dotted name, its line, and whether it runs when the module is loaded."""

    name: str
    line: int
    at_load: bool


def imports_of(tree: ast.AST, package: str = "", at_load: bool = True) -> Iterator[Import]:
    """Every import below `tree`, importlib.import_module("...") with a literal name among them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (Import(f"{base}.{alias.name}", node.lineno, at_load) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield Import(first.value, node.lineno, at_load)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports_of(node, package, at_load and not inside)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPO / folder).rglob("*.py"))


def imports_in(path: Path) -> list[Import]:
    package = ".".join(path.relative_to(REPO).parent.parts)
    return list(imports_of(ast.parse(path.read_text(encoding="utf-8"), str(path)), package))


def test_the_reader_of_imports_sees_all_of_them() -> None:
    text = (
        "import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g\n"
        "def h():\n  import i\n  importlib.import_module('j.k')\nif x:\n  import l\n"
    )
    found = {(i.name, i.at_load) for i in imports_of(ast.parse(text), "p.q")}
    at_load = {("a.b", True), ("c.d", True), ("p.q.e", True), ("p.f.g", True), ("l", True)}
    assert found == at_load | {("i", False), ("j.k", False)}


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sources(*ROOMS):
        where = path.relative_to(REPO)
        command_line = where.parts[:2] == ("pipeline", "cli")
        for found in imports_in(path):
            room = found.name.split(".")[0]
            against = room == "tests" or (room in ROOMS and ROOMS.index(room) > ROOMS.index(where.parts[0]))
            if against and (found.at_load or not command_line):
                wrong.append(f"{where}:{found.line} imports {found.name}")
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_the_command_line() -> None:
    wrong = [
        f"{path.relative_to(REPO)}:{found.line} imports {found.name}"
        for path in sources(*ROOMS)
        if path.relative_to(REPO).parts[:2] != ("pipeline", "cli")
        for found in imports_in(path)
        if (found.name + ".").startswith("pipeline.cli.")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", PURE_CORE)
def test_pure_core_names_neither_ray_nor_torch(name: str) -> None:
    heavy = [found for found in imports_in(REPO / name) if found.name.split(".")[0] in HEAVY]
    assert not heavy, f"{name} imports {heavy}"


def test_pure_core_loads_neither_ray_nor_torch() -> None:
    """Not by way of another module either: all of them, and all labelers, in a fresh interpreter."""
    modules = [name.removesuffix(".py").replace("/", ".") for name in PURE_CORE]
    code = (
        f"import importlib, pkgutil, sys, labelers\nfor m in {modules!r}: importlib.import_module(m)\n"
        "for m in pkgutil.iter_modules(labelers.__path__): importlib.import_module('labelers.' + m.name)\n"
        f"print(*sorted(set(sys.modules) & {HEAVY!r}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_ray_stays_in_three_files() -> None:
    """What runs, what watches, and what starts Ray Train. The command line may ask ray for its version, in a function."""
    users = {
        str(path.relative_to(REPO))
        for path in sources(*ROOMS)
        if path.relative_to(REPO).parts[:2] != ("pipeline", "cli")
        and any(found.name.split(".")[0] == "ray" for found in imports_in(path))
    }
    allowed = {f"pipeline/execution/{name}.py" for name in ("ray_executor", "ray_watch", "ray_train")}
    assert users <= allowed, users - allowed


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(REPO)): count
        for path in sources(*ROOMS, "tests")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"longer than {MAX_LINES} lines: {long}"


def test_top_level_holds_the_rooms_and_nothing_else() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git repository with committed files")
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL
