"""Two processes that fit together make what one makes of both their batches; the command's work runs in them too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from pipeline.dataset import Dataset
from pipeline.leave import leave
from tests.tokenize_shards.small import small_config, small_table
from tests.tokenize_shards.test_vit_vq import MAPS, data
from tokenize_shards.fit import fit_as_worker, fit_report
from tokenize_shards.tokenizer import load_tokenizer
from tokenize_shards.vit_vq import ViTVQ
from tokenize_shards.world import Worker, first_of, mean_of, this_worker

ALONE = replace(MAPS, batch=8)


class Last(ViTVQ):
    """Keeps the last weights it sees, so that what is compared was learned."""

    looks = 0

    def _watch(self, x: torch.Tensor) -> float:
        self.looks += 1
        return -float(self.looks)


def _process(rank: int, folder: str, root: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    assert this_worker() == Worker(rank, 2)
    assert mean_of(float(rank), torch.device("cpu")) == 0.5 and first_of(float(rank), torch.device("cpu")) == 0
    tokenizer = Last(replace(ALONE, batch=4))
    tokenizer.fit(data(MAPS, 24), data(MAPS, 0), steps=6)
    tokenizer.save(Path(folder) / str(rank))
    with small_table():
        fit_as_worker(small_config(Path(root)).model_dump(), ["tok_small_map", "tok_small_vector"], False)
    torch.distributed.destroy_process_group()
    leave()


@pytest.fixture(scope="module")
def folder(_labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("two")
    shutil.copytree(_labelled, found / "ds")
    start: Callable[..., Any] = mp.start_processes
    start(_process, args=(str(found), str(found / "ds")), nprocs=2, start_method="spawn")
    return found


def test_two_workers_make_what_one_makes_of_both_batches(folder: Path) -> None:
    assert (folder / "0").read_bytes() == (folder / "1").read_bytes(), "and both end with the same"
    alone = Last(ALONE)
    alone.fit(data(MAPS, 24), data(MAPS, 0), steps=6)
    together = load_tokenizer(folder / "0").tensors()
    start = Last(ALONE)
    start.fit(data(MAPS, 24), data(MAPS, 0), steps=1)
    for name, value in alone.tensors().items():
        np.testing.assert_allclose(together[name], value, atol=2e-4, err_msg=name)
    moved = max(float(np.abs(value - start.tensors()[name]).max()) for name, value in alone.tensors().items())
    assert moved > 2e-3, "the fit did change something"


def test_the_first_worker_keeps_the_tokenizers_of_a_data_set(folder: Path) -> None:
    ds = Dataset.open(str(folder / "ds"))
    assert set(ds.manifest().tokenizers) == {"tok_small_map", "tok_small_vector"}
    for name in ds.manifest().tokenizers:
        report = fit_report(ds, name)
        assert report is not None and report["steps"] == 2 and ds.storage.exists(f"_fits/{report['sha256']}.html")


def test_alone_nothing_is_exchanged() -> None:
    assert this_worker() == Worker(0, 1)
    assert mean_of(3.0, torch.device("cpu")) == 3 and first_of(2.0, torch.device("cpu")) == 2
