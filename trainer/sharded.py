"""Checkpoints of a model that is divided over processes: each writes its own rows, and any number of processes reads
them back.

FSDP2 divides every tensor by its rows. shard-0000-of-0002.safetensors holds the rows of process 0 under names such as
"model/encoder.0.attn.q.weight"; the record says which rows they are. torch's own distributed format is not used, as its
index is a pickle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from pipeline.errors import ConfigError, DamageError
from pipeline.records import file_sha256
from trainer.atomic import finish
from trainer.parallel import Divided, own

REMEDY = "Restore the folder from a copy, or delete it: the checkpoint before it is then gone on from."
WHOLE = {  # where one process keeps what: kind -> file, and what is added to the parameter's name
    "model": ("model.safetensors", ""), "average": ("average.safetensors", ""),
    "exp_avg": ("optimizer.safetensors", ".exp_avg"), "exp_avg_sq": ("optimizer.safetensors", ".exp_avg_sq"),
    "step": ("optimizer.safetensors", ".step"),
}  # fmt: skip


def rows_here(parameter: Tensor) -> tuple[int, int]:
    """The rows [lo, hi) of a parameter that this process holds. ValueError where it is not divided by rows."""
    if not isinstance(parameter, DTensor):
        return 0, len(parameter)
    if any(not (isinstance(p, Shard) and p.dim == 0) for p in parameter.placements):
        raise ValueError(f"a tensor is divided as {parameter.placements}, not by its rows")
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return (offset[0], offset[0] + shape[0]) if shape[0] else (0, 0)


def like(part: Tensor, parameter: Tensor) -> Tensor:
    """This process' rows as a tensor that is divided as the parameter is."""
    if not isinstance(parameter, DTensor):
        return part
    return DTensor.from_local(
        part, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )


def save(
    folder: Path, divided: Divided, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the parts of all processes beside each other, then the record, then the name."""
    group, aside = divided.group, folder.parent / f".{folder.name}.parts"
    if group.first:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    group.wait()
    tensors, rows = {}, {}
    for name, parameter in divided.model.named_parameters():
        rows[name] = rows_here(parameter)
        tensors[f"model/{name}"] = own(parameter)
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = own(value)
        if name in average:
            tensors[f"average/{name}"] = average[name]
    mine = f"shard-{group.rank:04d}-of-{group.world:04d}"
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, aside / f"{mine}.safetensors")
    said = {"file": f"{mine}.safetensors", "sha256": file_sha256(aside / f"{mine}.safetensors"), "rows": rows}
    (aside / f"{mine}.json").write_text(json.dumps(said))
    group.wait()
    if group.first:
        parts = [json.loads(path.read_bytes()) for path in sorted(aside.glob("shard-*.json"))]
        for path in aside.glob("shard-*.json"):
            path.unlink()
        if len(parts) != group.world:
            raise ConfigError(
                f"{aside}: holds the parts of {len(parts)} of {group.world} processes: each machine has a folder of its own. "
                "Let MANYMODAL_CACHE, or the data set's root, be a folder that all of them see."
            )
        layout = [{"file": part["file"], "rows": part["rows"]} for part in parts]
        finish(aside, folder, {**record, "layout": layout}, {part["file"]: part["sha256"] for part in parts})
    group.wait()


class Stored:
    """Reads rows of the tensors of a checkpoint, whichever way it is laid out. Digests are checked at the first use of
    a file; DamageError where one is not as it was saved.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.folder, self.digests, self.layout = folder, record["sha256"], record.get("layout")
        self._files: dict[str, Any] = {}

    def _open(self, name: str) -> Any:
        if name not in self._files:
            path = self.folder / name
            if not path.is_file() or file_sha256(path) != self.digests.get(name):
                raise DamageError(f"{path}: is missing or is not the file that was saved. {REMEDY}")
            try:
                self._files[name] = safe_open(path, "pt")
            except SafetensorError as error:
                raise DamageError(f"{path}: cannot be read ({error}). {REMEDY}") from error
        return self._files[name]

    def has(self, kind: str, name: str) -> bool:
        if self.layout:
            return f"{kind}/{name}" in self._open(self.layout[0]["file"]).keys()  # noqa: SIM118
        file, suffix = WHOLE[kind]
        return file in self.digests and f"{name}{suffix}" in self._open(file).keys()  # noqa: SIM118

    def read(self, kind: str, name: str, lo: int, hi: int) -> Tensor:
        """Rows [lo, hi) of a tensor; of a number without rows all."""
        if not self.layout:
            file, suffix = WHOLE[kind]
            return _rows(self._open(file), f"{name}{suffix}", lo, hi)
        parts: list[Tensor] = []
        for part in self.layout:
            first, last = part["rows"][name]
            file = self._open(part["file"])
            if kind == "step":
                return _rows(file, f"step/{name}", 0, 0)
            if max(lo, first) < min(hi, last) or (lo == hi and not parts):
                a, b = max(lo, first) - first, min(hi, last) - first
                parts.append(_rows(file, f"{kind}/{name}", min(a, max(a, b)), max(a, b)))
        return torch.cat(parts) if len(parts) != 1 else parts[0]


def _rows(file: Any, key: str, lo: int, hi: int) -> Tensor:
    piece = file.get_slice(key)
    found: Tensor = file.get_tensor(key) if not piece.get_shape() else piece[lo:hi]
    return found
