"""Workers that learn together: the same function in several processes joined by torch.distributed, under Ray Train.

The other file that knows Ray; it knows nothing of tokenizers or models. A worker that dies ends the run: what is fitted
or trained keeps snapshots of its own and goes on by the same command.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import Incomplete
from pipeline.execution.ray_executor import start_ray
from pipeline.execution.ray_watch import last_line


def run_workers(function: Callable[..., Any], settings: Mapping[str, Any], workers: int, gpu: bool) -> Any:
    """Call function(**settings) in `workers` processes, each with a GPU where `gpu`; torch.distributed is initialised
    (nccl with GPUs, gloo without), and the worker's GPU is the current device. Incomplete where one of them fails.

    function: of a module that workers can import. settings: plain values. Returns what worker 0 returned, which JSON
    must hold.
    """
    start_ray()
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    answer = Queue(maxsize=1)  # Ray Train gives metrics back with checkpoints of its own only
    with tempfile.TemporaryDirectory(prefix="manymodal-ray-train-") as folder:
        trainer = TorchTrainer(
            _enter, train_loop_config={"function": function, "settings": dict(settings), "answer": answer},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
            run_config=RunConfig(storage_path=folder),
        )  # fmt: skip
        try:
            trainer.fit()
        except Exception as error:
            raise Incomplete(
                f"a worker failed: {last_line(error)}. The same command goes on from its snapshot."
            ) from error
    found = None if answer.empty() else json.loads(answer.get())
    answer.shutdown()
    return found


def _enter(config: dict[str, Any]) -> None:
    import ray.train
    import torch
    from ray.train.torch import get_device

    if torch.cuda.is_available():
        torch.cuda.set_device(get_device())
    found = config["function"](**config["settings"])
    if found is not None and ray.train.get_context().get_world_rank() == 0:
        config["answer"].put(json.dumps(found))
