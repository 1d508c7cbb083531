"""The plan is what is desired minus what is committed."""

from __future__ import annotations

from dataclasses import replace

from pipeline.plan import Item, Ref, Step, plan
from pipeline.records import Commit

RGB, DEPTH, META = ("rgb", "r0"), ("depth", "d0"), ("metadata", "m0")
STEPS = [Step("depth", (RGB,), (DEPTH,)), Step("metadata", (RGB, DEPTH), (META,))]


def commit(ref: Ref, k: int, inputs: dict[str, str] | None = None) -> Commit:
    return Commit(*ref, k, "f", 1, 1, f"{ref[0]}{k}", inputs or {})


def world() -> dict[Ref, dict[int, Commit]]:
    """Two shards, everything committed."""
    return {
        RGB: {k: commit(RGB, k) for k in (0, 1)},
        DEPTH: {k: commit(DEPTH, k, {"rgb": f"rgb{k}"}) for k in (0, 1)},
        META: {k: commit(META, k, {"rgb": f"rgb{k}", "depth": f"depth{k}"}) for k in (0, 1)},
    }


def test_complete_plan_is_empty() -> None:
    assert plan(STEPS, [0, 1], world()) == []


def test_missing_shard_and_what_reads_it_are_redone_in_order() -> None:
    held = world()
    del held[DEPTH][1]
    assert plan(STEPS, [0, 1], held) == [
        Item("depth", 1, "missing"), Item("metadata", 1, "stale", (("depth", 1),)),
    ]  # fmt: skip


def test_changed_input_makes_stale() -> None:
    held = world()
    held[DEPTH][0] = replace(held[DEPTH][0], sha256="other")
    assert plan(STEPS, [0, 1], held) == [Item("metadata", 0, "stale")]


def test_new_recipe_plans_only_itself_and_its_readers() -> None:
    new = [Step("depth", (RGB,), (("depth", "d1"),)), Step("metadata", (RGB, ("depth", "d1")), (("metadata", "m1"),))]
    items = plan(new, [0], world())
    assert [(i.step, i.why, i.after) for i in items] == [
        ("depth", "missing", ()),
        ("metadata", "missing", (("depth", 0),)),
    ]


def test_new_shard_after_growth() -> None:
    held = world()
    held[RGB][2] = commit(RGB, 2)
    assert [(i.step, i.shard) for i in plan(STEPS, [0, 1, 2], held)] == [("depth", 2), ("metadata", 2)]
