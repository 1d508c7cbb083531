"""The processes of a run, and the model divided over them: one process, DDP, or FSDP2. The loop sees no difference.

Every process takes its rows of each batch; what a target weighs comes from the whole batch, so that the sum of what the
processes compute is the loss of one process on all of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainer.loss import forward_loss
from trainer.model import Model

Strategy = Literal["single", "ddp", "fsdp"]


@dataclass(frozen=True)
class Group:
    """This process among `world`. device: where it computes."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def alike(self, value: int) -> bool:
        """Whether all processes have the same value; none returns before all have asked."""
        both = torch.tensor([value, -value], dtype=torch.int64, device=self.device)
        if self.world > 1:
            dist.all_reduce(both, dist.ReduceOp.MAX)
        return int(both[0]) == -int(both[1])

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()


def local_device() -> torch.device:
    """The GPU of this process, by LOCAL_RANK where several are on one machine, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def current_device() -> torch.device:
    """The GPU that was chosen for this process, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@contextlib.contextmanager
def joined(rank: int, world: int, rendezvous: str) -> Iterator[Group]:
    """A process group while the block runs. rendezvous: "env://", "tcp://..." or "file://..."."""
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", init_method=rendezvous, rank=rank, world_size=world
    )
    try:
        yield Group(rank, world, device)
    finally:
        dist.destroy_process_group()


class Scored(nn.Module):
    """Encode, decode and score in one forward, which is what DDP and FSDP2 hook into."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Any], weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        loss = forward_loss(self.model, batch, weight)
        return loss.mean, loss.total, loss.count


class Divided:
    """A model over the processes of a group. net: what is called, with a batch, as `Scored`. model: the bare model."""

    def __init__(self, model: Model, group: Group, strategy: Strategy) -> None:
        self.model, self.group, self.strategy = model, group, strategy
        self.net: nn.Module = Scored(model)
        if strategy == "ddp":
            on_gpu = group.device.type == "cuda"
            self.net = nn.parallel.DistributedDataParallel(
                self.net, [group.device.index] if on_gpu else None, forward_sync_buffers=False
            )
        elif strategy == "fsdp":
            self._shard()

    def _shard(self) -> None:
        """Blocks are gathered one at a time; tables, heads and norms with the whole."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.group.device.type, (self.group.world,))
        for block in (*self.model.encoder, *self.model.decoder):
            fully_shard(block, mesh=mesh)
        fully_shard(self.net, mesh=mesh)

    def score(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Score a batch that every process has; with FSDP2 all of them must ask at once."""
        judge = self.net if self.strategy == "fsdp" else Scored(self.model)
        found: tuple[Tensor, Tensor, Tensor] = judge(batch)
        return found

    @contextlib.contextmanager
    def part(self, last: bool) -> Iterator[None]:
        """Around one part of an accumulated batch: gradients travel with the last one only."""
        if self.strategy == "fsdp":
            self.net.set_requires_gradient_sync(last)  # type: ignore[operator]
        if self.strategy == "ddp" and not last:
            with self.net.no_sync():  # type: ignore[operator]
                yield
        else:
            yield

    def clip(self, limit: float) -> float:
        """Scale the gradients down to a norm of at most `limit`; the norm they had, the same on every process."""
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        value = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if value > limit:  # else every gradient would be multiplied by 1
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return value


def whole(value: Tensor) -> Tensor:
    """All of a tensor, on the CPU. Every process must call it."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu().contiguous()


def own(value: Tensor) -> Tensor:
    """This process' part of a tensor, the same memory."""
    value = value.detach()
    return value.to_local() if isinstance(value, DTensor) else value


def choose(strategy: str, world: int) -> Strategy:
    """The strategy of a run: DDP where nothing else is said and there are several processes."""
    if world == 1:
        return "single"
    return "fsdp" if strategy == "fsdp" else "ddp"
