"""Starts the processes of a run and has each of them call `train`: on this machine, by torchrun, or as a Ray Train job.

The report of process 0 comes back as a file; what a person should know of a failure is the one sentence of the process
that failed first.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, DamageError, Incomplete, ManymodalError, StorageError
from pipeline.leave import leave
from trainer.config import TrainConfig
from trainer.parallel import Group, current_device, joined
from trainer.train import Progress, TrainReport, train

ERRORS: dict[str, type[ManymodalError]] = {
    e.__name__: e for e in (ConfigError, DamageError, Incomplete, ManymodalError, StorageError)
}


def silent(*_: Any) -> None:
    """Progress of all processes but the first."""


def start(
    ds: Dataset, config: TrainConfig, progress: Progress, *, again: bool = False, dry: bool = False
) -> TrainReport:
    """Train as the settings say: here, in processes of this machine, or on the cluster."""
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:  # started by torchrun
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        return in_group(ds.storage.url, config, rank, world, "env://", progress, again, dry)
    if config.launcher == "ray":
        return on_ray(ds.storage.url, config, again, dry)
    if config.workers == 1:
        return train(ds, config, progress, again=again, dry=dry)
    return on_this_machine(ds, config, again, dry)


def in_group(
    root: str, config: TrainConfig, rank: int, world: int, rendezvous: str, progress: Progress, again: bool, dry: bool
) -> TrainReport:
    """One process of several. ConfigError where there are more or fewer than the settings say."""
    if world != config.workers:
        raise ConfigError(f"train.workers: is {config.workers}, and {world} processes were started")
    with joined(rank, world, rendezvous) as group:
        return one_of(root, config, group, progress if group.first else silent, again, dry)


def one_of(root: str, config: TrainConfig, group: Group, progress: Progress, again: bool, dry: bool) -> TrainReport:
    return train(Dataset.open(root), config, progress, again=again, group=group, dry=dry)


def on_this_machine(ds: Dataset, config: TrainConfig, again: bool, dry: bool) -> TrainReport:
    """config.workers processes, one for each GPU where there are any. They print lines, not bars."""
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory(prefix="manymodal-train-") as name:
        folder = Path(name)
        given = (config.workers, config.model_dump(mode="json"), ds.storage.url, str(folder), again, dry)
        context = mp.start_processes(_process, given, nprocs=config.workers, join=False, start_method="spawn")
        try:
            while not context.join(grace_period=5.0):
                pass
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
            raise explain(folder, error) from None
        return TrainReport(**json.loads((folder / "report.json").read_bytes()))


def on_ray(root: str, config: TrainConfig, again: bool, dry: bool) -> TrainReport:
    """A Ray Train job. The data set, and the folder of its models, must be reachable from all its machines."""
    import torch

    from pipeline.execution.ray_train import run_workers

    settings = {"root": root, "config": config.model_dump(mode="json"), "again": again, "dry": dry}
    gpu = torch.cuda.is_available() if config.gpus is None else config.gpus
    said = run_workers(ray_worker, settings, config.workers, gpu)
    if "error" in said:
        raise ERRORS.get(said["error"], ManymodalError)(said["text"])
    return TrainReport(**said)


def ray_worker(root: str, config: dict[str, Any], again: bool, dry: bool) -> dict[str, Any]:
    """One process of a Ray Train job, in which torch.distributed is set up. Errors with an exit code that come before the
    first step are results: all processes meet them alike. One that comes later ends the others too.
    """
    import torch.distributed as dist

    group, began = Group(dist.get_rank(), dist.get_world_size(), current_device()), False

    def progress(step: str, done: int, total: int, note: str) -> None:
        nonlocal began
        began = True
        (lines if group.first else silent)(step, done, total, note)

    try:
        report = one_of(root, TrainConfig(**config), group, progress, again, dry)
    except (ConfigError, DamageError, StorageError) as error:
        if began:
            raise
        return {"error": type(error).__name__, "text": str(error)}
    return asdict(report)


def _process(rank: int, world: int, values: dict[str, Any], root: str, folder: str, again: bool, dry: bool) -> None:
    """The whole life of one process."""
    os.environ["LOCAL_RANK"] = str(rank)
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // world))
    config = TrainConfig(**values)
    try:
        report = in_group(
            root, config, rank, world, f"file://{folder}/meet", lines if rank == 0 else silent, again, dry
        )
    except ManymodalError as error:
        said = {"type": type(error).__name__, "text": str(error)}
        (Path(folder) / f"error-{rank}.json").write_text(json.dumps(said))
        raise
    if rank == 0:
        (Path(folder) / "report.json").write_text(json.dumps(asdict(report)))
    leave()


def explain(folder: Path, error: Exception) -> ManymodalError:
    """The sentence of the process that failed, or what torch says of one that died."""
    for path in sorted(folder.glob("error-*.json")):
        said = json.loads(path.read_bytes())
        return ERRORS.get(said["type"], ManymodalError)(said["text"])
    last = [line for line in str(error).splitlines() if line.strip()][-1:]
    return Incomplete(f"train: a process died ({''.join(last)}); run the same command again to go on")


def lines(step: str, done: int, total: int, note: str) -> None:
    """Progress of process 0, to the terminal they share."""
    import sys

    if note:
        sys.stderr.write(f"  {step}: {done}/{total} - {note}\n")
        sys.stderr.flush()
