"""Where workers go: shares of GPUs on whole GPUs, custom resources, nodes of several kinds."""

from __future__ import annotations

import pytest

from pipeline.execution.placement import BAD_STARTS, Need, Starts, capacity, fits, place

CPU, GPU = {"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}
NODES = {"plain": CPU, "cards": GPU}


def filled(need: Need, nodes: dict[str, dict[str, float]], placed: list[tuple[str, Need]]) -> list[str]:
    """Nodes of as many workers as there is room for."""
    where = []
    while (node := place(need, nodes, placed)) is not None:
        placed.append((node, need))
        where.append(node)
    return where


def test_work_without_a_gpu_leaves_the_gpu_nodes_for_last() -> None:
    assert filled({"CPU": 4.0, "GPU": 0.0}, NODES, []) == ["plain", "plain", "cards", "cards"]


def test_shares_of_a_gpu_never_span_two() -> None:
    assert len(filled({"CPU": 1.0, "GPU": 0.6}, {"cards": GPU}, [])) == 2
    assert len(filled({"CPU": 1.0, "GPU": 0.5}, {"cards": GPU}, [])) == 4
    assert not fits({"GPU": 1.0}, GPU, [{"GPU": 0.1}, {"GPU": 1.0}])
    assert fits({"GPU": 1.0}, GPU, [{"GPU": 0.1}, {"GPU": 0.9}])
    assert fits({"GPU": 2.0}, GPU, [])


def test_several_labelers_share_a_gpu_before_they_open_another_node() -> None:
    nodes = {"a": {"CPU": 8.0, "GPU": 1.0}, "b": {"CPU": 8.0, "GPU": 1.0}}
    first = place({"CPU": 1.0, "GPU": 0.25}, nodes, [])
    assert first is not None
    assert place({"CPU": 1.0, "GPU": 0.5}, nodes, [(first, {"CPU": 1.0, "GPU": 0.25})]) == first


def test_custom_resources_are_counted_like_any_other() -> None:
    nodes = {"a": CPU, "b": {**CPU, "licence": 2.0}}
    assert filled({"CPU": 1.0, "licence": 1.0}, nodes, []) == ["b", "b"]
    assert place({"CPU": 1.0, "other": 1.0}, nodes, []) is None


@pytest.mark.parametrize(
    ("need", "count"),
    [
        ({"CPU": 1.0}, 16),
        ({"CPU": 3.0}, 4),
        ({"CPU": 1.0, "GPU": 0.6}, 2),
        ({"CPU": 0.0, "GPU": 0.25}, 8),
        ({"CPU": 9.0}, 0),
    ],
)
def test_capacity_is_what_placing_finds(need: Need, count: int) -> None:
    assert capacity(need, NODES, 100) == count == len(filled(need, NODES, []))
    assert capacity(need, NODES, 1) == min(count, 1)


def test_a_node_where_workers_cannot_be_made_is_left_out() -> None:
    starts, need = Starts(), {"CPU": 1.0}
    for _ in range(BAD_STARTS):
        starts.failed("a", "plain", "full")
    assert not starts.may("a", "plain", need, NODES) and starts.may("a", "cards", need, NODES)
    assert starts.may("b", "plain", need, NODES)
    assert starts.hopeless("a", need, NODES) == "full", "nobody has done it anywhere"
    starts.worked("a", "cards")
    assert not starts.hopeless("a", need, NODES)
    assert starts.hopeless("a", need, {"plain": CPU}) == "full", "no node is left"
    assert not starts.hopeless("a", need, {}), "nodes may come back"


def test_where_there_is_no_other_node_it_is_tried_again() -> None:
    starts, need, alone = Starts(), {"CPU": 1.0}, {"plain": CPU, "small": {"CPU": 0.5}}
    for times in range(1, BAD_STARTS + 1):
        assert starts.may("a", "plain", need, alone) and not starts.hopeless("a", need, alone)
        assert starts.failed("a", "plain", "full") == times
    assert not starts.may("a", "plain", need, alone) and starts.hopeless("a", need, alone)
    starts.worked("a", "plain")
    assert starts.may("a", "plain", need, alone) and not starts.hopeless("a", need, alone)
