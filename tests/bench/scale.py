"""`status` and `plan` over a million commits: 10,000 shards of 100 modalities, synthetic, packed as a run leaves them.

Data files and commit objects are empty files; what a commit says is in the packs, as it would be at that size. The
measured process is a fresh one, so that its memory is its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.commits import commit_key
from pipeline.dataset import INDEX_SCHEMA, Dataset
from pipeline.records import RGB_RECIPE, Commit, IndexRow, folder_of, recipe_id, shard_name
from pipeline.shards import write_parquet
from pipeline.survey import row_of, write_rows

SHARDS, MODALITIES = 10_000, 100

MEASURED = """
import json, sys, time
from pipeline.dataset import Dataset
from pipeline.memory import peak_resident
from pipeline.plan import Step
from pipeline.run import make_plan
from pipeline.status import status
ds = Dataset.open(sys.argv[1])
start = time.perf_counter()
found = status(ds)
said = time.perf_counter()
rgb = ("rgb", ds.current("rgb"))
steps = [Step(n, (rgb,), ((n, r),)) for n, r in ds.manifest().modalities.items() if n != "rgb"]
items = make_plan(ds, steps)
done = time.perf_counter()
print(json.dumps({"status": said - start, "plan": done - said, "todo": len(items), "samples": found["samples"],
    "committed": sum(m["committed"] for m in found["modalities"].values()),
    "mib": peak_resident() / 2**20}))
"""


def build(root: Path, shards: int, modalities: int) -> None:
    """The synthetic data set; one commit is missing, for the plan to find."""
    ds = Dataset.create(str(root), "scale", 1000)
    rgb = ds.put_recipe(RGB_RECIPE)
    current = {"rgb": rgb}
    for m in range(modalities - 1):
        recipe = {**RGB_RECIPE, "modality": f"fake{m:02d}", "labeler": "fake", "reads": {"rgb": rgb}}
        current[recipe["modality"]] = ds.put_recipe(recipe)
    (root / "index").mkdir()
    first = root / "index" / shard_name(0, "parquet")
    write_parquet(
        first, pa.Table.from_pylist([asdict(IndexRow("0" * 32, "file:///x", "0" * 64, 8, 8, 1))], INDEX_SCHEMA)
    )
    for k in range(1, shards):
        (root / "index" / shard_name(k, "parquet")).touch()  # never opened: the counts are in the rgb commits
    for name, recipe_name in current.items():
        folder = root / folder_of(name, recipe_name)
        (folder / "_commits").mkdir(parents=True)
        commits = []
        for k in range(shards):
            digest = recipe_id({"m": name, "k": k}) * 8
            inputs = {} if name == "rgb" else {"rgb": recipe_id({"m": "rgb", "k": k}) * 8}
            commit = Commit(name, recipe_name, k, shard_name(k, "tar"), 1000, 0, digest, inputs, {}, 1.5, 1)
            if (name, k) == ("fake07", 77):
                continue
            for path in (folder / commit.file, folder / "_commits" / shard_name(k, "json")):
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            commits.append(commit)
        listed = ds.storage.list(f"{folder.name}/_commits")
        keys = [commit_key(name, recipe_name, c.shard) for c in commits]
        rows = [row_of(key, listed[key], c) for key, c in zip(keys, commits, strict=True)]
        write_rows(folder / "_commits" / "pack-synthetic.arrow", rows)
    ds.update_manifest(current)


def million(folder: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Seconds and peak memory of `status` and of `plan`."""
    build(folder / "ds", SHARDS, MODALITIES)
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder / "ds")], capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout)
    assert found["todo"] == 1, found
    assert found["committed"] == SHARDS * MODALITIES - 1, found
    how = f"{SHARDS} shards x {MODALITIES} modalities, packed commits, local file system, a fresh process"
    for name in ("status", "plan"):
        yield f"{name}_million_commits_s", (found[name], "s", "< 20", found[name] < 20, how)
    yield "million_commits_peak_mib", (found["mib"], "MiB", "< 1024", found["mib"] < 1024, how)
