"""The workers of a distributed fit, by torch.distributed; with one process every function here does nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Worker:
    """This process: number `rank` of `size`."""

    rank: int = 0
    size: int = 1


def this_worker() -> Worker:
    """Who this process is; alone unless a process group has been made (by Ray Train, torchrun, or a test)."""
    if dist.is_available() and dist.is_initialized():
        return Worker(dist.get_rank(), dist.get_world_size())
    return Worker()


def add_up(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over the workers."""
    if this_worker().size > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def take_from_first(*tensors: Tensor) -> None:
    """Replace each tensor by worker 0's."""
    if this_worker().size > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def mean_of(value: float, device: torch.device) -> float:
    """The mean of a number over the workers."""
    size = this_worker().size
    if size == 1:
        return value
    total = torch.tensor([value], dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
    add_up(total)
    return float(total) / size


def first_of(value: float, device: torch.device) -> float:
    """Worker 0's number."""
    if this_worker().size == 1:
        return value
    told = torch.tensor([value], dtype=torch.float32, device=device)
    take_from_first(told)
    return float(told)
