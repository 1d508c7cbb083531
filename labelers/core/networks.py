"""Networks of the transformers library, loaded from a local folder and nothing else: no hub, no remote code, no pickle.

A labeler that runs one names its class and its input, and gets device, precision, compilation and batches from here.
Weights that do not fill the network are refused: half a random network would label without complaint.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from labelers.core.labeler import Labeler, Params
from labelers.core.pixels import Preparation, in_batches

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
U = TypeVar("U")
THREADS = 4  # of the processor, for one GPU's images
COMPUTED = r".*\.(num_batches_tracked|position_ids|relative_position_index)"  # tables that older files lack, made anew
TOKENIZERS = ("tokenizer.json", "spiece.model", "vocab.txt", "vocab.json")


class NetworkParams(Params):
    """precision: number format of the network's weights and activations, on a GPU and a CPU alike; labels made with
    another are another recipe. compile: torch.compile, which pays on a GPU after the first batches.
    """

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False


def device() -> torch.device:
    """The GPU this process may use, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars and its report of weights that were left out on purpose."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def load(architecture: str, folder: Path, precision: str = "float32", unused: str = "") -> Any:
    """A network of transformers with the weights of a folder, ready for inference on `device()`.

    architecture: the class, "DetrForObjectDetection". The folder holds config.json and model.safetensors, whole or in
    parts (pytorch_model.bin where there is no other; torch reads it without unpickling code). unused: a pattern of weights
    that may be missing, because the class has them and its forward pass does not use them. ValueError where it is no such
    checkpoint, does not fill the network, or was made for a class of another kind.
    """
    import torch
    import transformers

    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no config.json; name the folder of a transformers checkpoint, or hf:org/name@revision"
        )
    with quiet():
        try:
            network, report = getattr(transformers, architecture).from_pretrained(
                str(folder), dtype=getattr(torch, precision), local_files_only=True, output_loading_info=True
            )
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # each means the same of the folder; transformers' own words may name a hub
            raise ValueError(
                f"{folder} is no checkpoint of {architecture} ({type(error).__name__}: {error})"
            ) from error
    lacks = {what: sorted(map(str, report.get(what) or ())) for what in ("missing_keys", "mismatched_keys")}
    fine = re.compile(f"{COMPUTED}|{unused}" if unused else COMPUTED)
    wrong = {what: left for what, names in lacks.items() if (left := [n for n in names if not fine.fullmatch(n)])}
    if wrong:
        what, names = next(iter(wrong.items()))
        raise ValueError(
            f"{folder} does not fill {architecture}: {len(names)} {what.replace('_', ' ')}, first {names[0]}"
        )
    return network.to(device()).eval().requires_grad_(False)


def load_tokenizer(folder: Path) -> Any:
    """The text tokenizer of a checkpoint's folder. ValueError where it holds none: transformers would make one up."""
    import transformers

    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ValueError(f"{folder} holds no tokenizer: none of {', '.join(TOKENIZERS)}; fetch the whole checkpoint")
    with quiet():
        try:
            return transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except ImportError:
            raise
        except Exception as error:
            raise ValueError(
                f"{folder} holds no tokenizer that transformers reads ({type(error).__name__}: {error})"
            ) from error


class NetworkLabeler(Labeler):
    """Base of labelers with one network of transformers in the weight slot "model".

    architecture: its class. unused: see `load`. compiled: path of the part of it that torch.compile takes, where the forward
    pass of the whole is not what is called. prepare: the input where the checkpoint does not say. Subclasses implement
    `label` with `self.batched`, whose `read` turns the network's output into one result an image.
    """

    architecture: ClassVar[str]
    unused: ClassVar[str] = ""
    compiled: ClassVar[str] = ""
    prepare: ClassVar[Preparation] = Preparation()
    default_on = False
    Params = NetworkParams

    def setup(self) -> None:
        import torch

        network = load(self.architecture, self.files["model"], self.params.precision, self.unused)
        if self.params.compile and self.compiled:
            owner, _, part = self.compiled.rpartition(".")
            whole = network.get_submodule(owner)
            setattr(whole, part, torch.compile(getattr(whole, part)))
        elif self.params.compile:
            network = torch.compile(network)
        self.network: Any = network
        self.preparation = Preparation.read(self.files["model"], self.prepare)
        self.device = device()

    @property
    def step(self) -> int:
        """Images a forward pass: a CPU gains nothing from several."""
        return self.resources.batch if self.device.type == "cuda" else 1

    def pixels(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """uint8 (n, h, w, 3), prepared in size -> the network's input."""
        return self.preparation.tensor(images, self.device, self.network.dtype)

    def run(self, pixels: torch.Tensor) -> Any:
        """The network's output for a batch of inputs."""
        return self.network(pixels)

    def forward(self, batch: NDArray[np.uint8], read: Callable[[Any], Sequence[T]]) -> Sequence[T]:
        """Images of the input's size, uint8 (n, h, w, 3), through the network; `read` turns its output into n results."""
        import torch

        with torch.inference_mode():
            return read(self.run(self.pixels(batch)))

    def each(self, work: Callable[[U], T], items: Sequence[U]) -> list[T]:
        """`work` on each item, in order; in threads beside a GPU, which would wait for one core's resizing otherwise."""
        if self.device.type != "cuda" or len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(THREADS, len(items))) as pool:
            return list(pool.map(work, items))

    def batched(
        self, images: Sequence[NDArray[np.uint8]], read: Callable[[Any], Sequence[T]], full: bool = False
    ) -> list[T]:
        """One result for each image of any size: resized, grouped by size, run, and `read` from the network's output."""
        prepared = self.each(self.preparation.resized, images)
        return in_batches(prepared, lambda batch: self.forward(batch, read), self.step, full)
