"""Where a worker goes: pure arithmetic over what nodes have, what is on them, and what failed there. Knows nothing of Ray.

Resources are by Ray's names: "CPU", "GPU", and whatever else a node declares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Need = Mapping[str, float]
TINY = 1e-6
BAD_STARTS = 3  # times the workers of a step could not be made, after which it may be given up


def place(need: Need, nodes: Mapping[str, Need], placed: Sequence[tuple[str, Need]]) -> str | None:
    """The node for one more worker, or None where no node has room.

    nodes: what each has in all; placed: (node, need) of the workers that are there. Work without a GPU goes to the node
    with most CPUs to spare, to one without GPUs first; work with one to the node whose GPUs are fullest, so that shares
    of one GPU end up on one GPU.
    """
    best: tuple[tuple[float, ...], str] | None = None
    on: dict[str, list[Need]] = {}
    for node, other in placed:
        on.setdefault(node, []).append(other)
    for node, total in nodes.items():
        there = on.get(node, [])
        if not fits(need, total, there):
            continue
        cpus, gpus = (_left(kind, total, there) for kind in ("CPU", "GPU"))
        rank = (gpus, -cpus) if need.get("GPU", 0) > 0 else (total.get("GPU", 0), -cpus)
        if best is None or (rank, node) < best:
            best = rank, node
    return best[1] if best else None


def fits(need: Need, total: Need, there: Sequence[Need]) -> bool:
    """Whether a node with `total` can hold one more worker beside those that are there."""
    if any(_left(kind, total, there) + TINY < amount for kind, amount in need.items() if amount > 0):
        return False
    return _gpus_suffice([*there, need], total.get("GPU", 0.0))


def _left(kind: str, total: Need, there: Sequence[Need]) -> float:
    return total.get(kind, 0.0) - sum(other.get(kind, 0.0) for other in there)


def _gpus_suffice(needs: Sequence[Need], gpus: float) -> bool:
    """Whether the GPU shares fit onto whole GPUs: 0.6 and 0.6 do not fit onto two halves of two."""
    free = [1.0] * int(gpus + TINY)
    for share in sorted((need.get("GPU", 0.0) for need in needs), reverse=True):
        if share >= 1:
            whole = [i for i, left in enumerate(free) if left >= 1 - TINY][: round(share)]
            if len(whole) < round(share):
                return False
            free = [left for i, left in enumerate(free) if i not in whole]
        elif share > 0:
            room = [i for i, left in enumerate(free) if left + TINY >= share]
            if not room:
                return False
            tightest = min(room, key=lambda i: free[i])
            free[tightest] -= share
    return True


def capacity(need: Need, nodes: Mapping[str, Need], most: int) -> int:
    """How many such workers empty nodes could hold together, counted up to `most`."""
    return min(most, sum(_capacity(need, total, most) for total in nodes.values()))


def _capacity(need: Need, total: Need, most: int) -> int:
    bounds = [int(total.get(kind, 0.0) / amount + TINY) for kind, amount in need.items() if amount > 0]
    share = need.get("GPU", 0.0)
    if 0 < share < 1:
        bounds.append(int(total.get("GPU", 0.0) + TINY) * int(1 / share + TINY))
    return min(bounds, default=most)


class Starts:
    """Where workers could not be made, by step. Such a node is tried again only while no other could do the step."""

    def __init__(self) -> None:
        self._failed: dict[str, dict[str, int]] = {}  # step -> node -> times, since a worker made there did it
        self._why: dict[str, str] = {}
        self._worked: set[str] = set()

    def failed(self, step: str, node: str, why: str) -> int:
        """How often it has now."""
        failed = self._failed.setdefault(step, {})
        failed[node], self._why[step] = failed.get(node, 0) + 1, why
        return failed[node]

    def worked(self, step: str, node: str) -> None:
        self._worked.add(step)
        self._failed.get(step, {}).pop(node, None)

    def may(self, step: str, node: str, need: Need, nodes: Mapping[str, Need]) -> bool:
        """Whether to try the step on a node."""
        failed = self._failed.get(step, {})
        return node not in failed or (sum(failed.values()) < BAD_STARTS and not self._others(step, need, nodes))

    def hopeless(self, step: str, need: Need, nodes: Mapping[str, Need]) -> str:
        """Why the step is to be given up once nobody is at it, or ''. One that was done somewhere is not, as long as a
        node is left, or all are away, on which it did not fail.
        """
        failed = self._failed.get(step, {})
        stuck = not failed.keys().isdisjoint(nodes) and not self._others(step, need, nodes)
        return self._why[step] if sum(failed.values()) >= BAD_STARTS and (stuck or step not in self._worked) else ""

    def _others(self, step: str, need: Need, nodes: Mapping[str, Need]) -> bool:
        return any(node not in self._failed[step] and fits(need, total, []) for node, total in nodes.items())
