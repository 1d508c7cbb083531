"""Processes of a training run as a Ray Train job: one worker each, anywhere in the cluster.

Ray Train places the workers and joins them with torch.distributed; what they do is the caller's function.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import Incomplete, ManymodalError
from pipeline.execution.ray_executor import last_line, start_ray

Work = Callable[[int, int, Mapping[str, Any]], Mapping[str, Any]]  # rank, world, what was given -> JSON-ready result


def run_workers(work: Work, given: Mapping[str, Any], workers: int, gpus: float, name: str) -> dict[str, Any]:
    """What worker 0 gives back, on the cluster RAY_ADDRESS names, or on this machine's own. gpus: of a worker.

    A ManymodalError of the work comes back as {"error": its type, "text"}. Incomplete where the job itself failed.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    start_ray()
    each = {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}
    with tempfile.TemporaryDirectory(prefix="manymodal-ray-") as folder:
        trainer = TorchTrainer(
            _worker, train_loop_config={"work": work, "given": dict(given)},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=each),
            run_config=RunConfig(name=name, storage_path=folder),
        )  # fmt: skip
        try:
            result = trainer.fit()
        except Exception as error:
            raise Incomplete(f"the Ray job failed: {last_line(error)}; run the same command again to go on") from error
    found: dict[str, Any] = json.loads((result.metrics or {})["result"])
    return found


def _worker(config: Mapping[str, Any]) -> None:
    """One worker; Ray Train has set up torch.distributed."""
    from ray import train

    context = train.get_context()
    try:
        found = dict(config["work"](context.get_world_rank(), context.get_world_size(), config["given"]))
    except ManymodalError as error:
        found = {"error": type(error).__name__, "text": str(error)}
    train.report({"result": json.dumps(found)})
