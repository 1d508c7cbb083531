"""What a run will take, before it starts: parameters, memory, arithmetic, and time at the speed of a real step.

Arithmetic counts the products of matrices alone, twice forward for backward, and not what is recomputed: it is the
model's, so that utilisation can be compared between machines.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch

from pipeline.errors import ConfigError
from pipeline.memory import peak_resident
from trainer.config import TrainConfig
from trainer.model import SIZES, Model, Size
from trainer.streams import Stream

# Dense 16-bit floating point, as the makers' data sheets say, by a part of the device's name.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12, "V100": 125e12}
GIB = 1 << 30
# Floats that a block keeps for its backward pass, a token, in units of the width: 13.4 and 22.1 to 23.1 measured, of the
# arrays that autograd held after a float32 step's forward pass of the smallest size on a CPU.
ENCODER_KEEPS, DECODER_KEEPS = 14, 23


@dataclass(frozen=True)
class Estimate:
    """parameters, trunk: numbers. bytes: memory a process needs at its peak. flops: of a step, all processes together.
    seconds: of a step, 0 where it was not measured. peak: operations a second one process can do at most.
    """

    parameters: int
    trunk: int
    bytes: int
    flops: float
    seconds: float = 0.0
    peak: float = 0.0

    def words(self, steps: int) -> str:
        from pipeline.gallery.cells import duration

        said = f"{self.parameters / 1e6:.1f} M parameters ({self.trunk / 1e6:.1f} M trunk), {self.bytes / GIB:.2g} GiB"
        return (
            said
            if not self.seconds
            else f"{said}, {self.seconds:.3g} s a step measured, {duration(steps * self.seconds)}"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def skeleton(streams: Sequence[Stream], size: Size, tied: bool) -> Model:
    """The model without memory, to count."""
    with torch.device("meta"):
        return Model(streams, size, tied)


def trunk_flops(size: Size, n_in: int, n_out: int) -> float:
    """Forward and backward of one sample through encoder, decoder and the projection between them."""
    d, hidden = size.dim, int(2 * 4 * size.dim / 3)
    block = 4 * d * d + 3 * d * hidden
    encoder = size.encoder * (n_in * block + 2 * n_in * n_in * d)
    cross = n_out * 2 * d * d + n_in * 2 * d * d + 2 * n_out * n_in * d
    decoder = size.decoder * (n_out * block + 2 * n_out * n_out * d + cross)
    return 6.0 * (encoder + decoder + n_in * d * d)


def head_flops(size: Size, logits: float) -> float:
    """Forward and backward of some logits."""
    return 6.0 * size.dim * logits


def memory(model: Model, config: TrainConfig, world: int) -> int:
    """Bytes a process needs: weights, gradients, two moments, the average, what blocks keep, and logits."""
    parameters = sum(p.numel() for p in model.parameters())
    share = world if config.strategy == "fsdp" else 1
    state = parameters * (16 + (4 if config.ema else 0)) / share
    samples = max(1, config.batch // (world * config.accumulate))
    size = SIZES[config.size]
    kept = size.encoder * config.n_in * (1 if config.recompute else ENCODER_KEEPS)
    kept += size.decoder * config.n_out * (1 if config.recompute else DECODER_KEEPS)
    if config.recompute:
        kept += max(config.n_in, config.n_out) * DECODER_KEEPS
    width = 4 if precision(config, torch.device("cpu")) is None else 3  # the sums between blocks stay float32
    return int(state + samples * size.dim * width * kept + parameters * 4 / share * 0.5)


class Precise(Protocol):
    """Settings that say what products are computed in."""

    @property
    def precision(self) -> str: ...


def precision(config: Precise, device: torch.device) -> torch.dtype | None:
    """What products are computed in, None for float32. "auto": bfloat16 where the device multiplies it by itself."""
    if config.precision == "auto":
        able = device.type == "cuda"
        if device.type == "cpu":
            able = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
        return torch.bfloat16 if able else None
    return torch.bfloat16 if config.precision == "bf16" else None


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had, on a machine that says so; else a very large number."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 1 << 62


def check_memory(needed: int, config: TrainConfig, device: torch.device, world: int) -> None:
    """ConfigError where the run cannot fit. Processes on one CPU machine share its memory."""
    near = world if device.type == "cpu" and config.launcher == "local" else 1
    free = free_memory(device)
    if needed * near > free:
        more = "" if config.recompute else ", set train.recompute: true"
        raise ConfigError(
            f"train: size {config.size} with {config.batch // (world * config.accumulate)} samples at a time needs about "
            f"{needed * near / GIB:.1f} GiB, {free / GIB:.1f} GiB are free on {device}; choose a smaller size, raise "
            f"train.accumulate{more}, or divide it over more workers with train.strategy: fsdp"
        )


@lru_cache(maxsize=8)
def peak_rate(device: torch.device, dtype: torch.dtype | None) -> tuple[float, str]:
    """Operations a second, and where the figure is from: the data sheet of a known GPU, else a product that was timed."""
    if device.type == "cuda" and dtype is not None:
        name = torch.cuda.get_device_name(device)
        for part, rate in PEAKS.items():
            if part in name:
                return rate, f"data sheet of {part}"
    return matmul_rate(device, dtype or torch.float32), "a 1024-cubed product timed here"


def matmul_rate(device: torch.device, dtype: torch.dtype, tries: int = 6, clock: Any = time.perf_counter) -> float:
    """Operations a second of a 1024-cubed product: the best of some tries."""
    a, b = (torch.randn(1024, 1024, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(tries):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = clock()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2.0 * 1024**3 / max(clock() - start, 1e-9))
    return best


def peak_memory(device: torch.device) -> int:
    """Bytes this process has held at most."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return peak_resident()
