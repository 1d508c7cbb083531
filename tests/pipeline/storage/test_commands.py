"""Every command on a bucket as on a folder: the same digests, nothing on this machine but copies, no secret anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.care.garbage import tree
from pipeline.dataset import Dataset
from pipeline.storage import open_storage
from tests.pipeline.conftest import Command, Said
from tests.seaweed import KEY, SECRET
from tests.tokenize_shards.small import WORDS, photo, small_table

CONFIG = """
name: small
shard_size: 4
executor: local
sources: [{photos}]
tokens: {{views: 2, fit_steps: 2, holdout: 0.25}}
train: {{size: micro, steps: 3, batch: 2, n_in: 16, n_out: 8, save_every: 2}}
labelers:
{labelers}
"""
ON = ("canny_edge", "caption", "color_palette", "metadata", "small_net")


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[Path]:
    """Nine small photos with captions, and cheap labelers and tokenizers as long as the test lasts."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, word in enumerate(WORDS[:6]):
        Image.fromarray(photo(number)).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(f"a {word} beside another {word}")
    (folder / "broken.png").write_bytes(b"no image")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with small_table():
        yield folder
    torch.set_num_threads(threads)


def configure(root: str, photos: Path) -> None:
    from labelers.core.registry import all_labelers

    switches = "\n".join(f"  {name}: {{enabled: {str(name in ON).lower()}}}" for name in all_labelers())
    open_storage(root).put("manymodal.yaml", CONFIG.format(photos=photos, labelers=switches).encode())


def fill(command: Command, root: str) -> None:
    """From photos to a trained model."""
    for words in (("ingest", root), ("label", root), ("fit", root), ("tokenize", root), ("train", root)):
        said = command(*words)
        assert said.code == 0, said.err


def digests(root: str) -> dict[str, str]:
    """sha256 of every committed shard, by key; and those of the files of the model."""
    ds = Dataset.open(root)
    found = {
        f"{name}@{recipe}/{k}": commit.sha256
        for name, recipe in ds.manifest().modalities.items()
        for k, commit in ds.commits(name, recipe).items()
    }
    record = json.loads((ds.storage.fetch_folder("_models/model") / "train.json").read_text())
    return found | record["sha256"]


def test_every_command_on_a_bucket(s3: str, tmp_path: Path, photos: Path, command: Command) -> None:
    root, local = f"{s3}/lab/small", str(tmp_path / "local")
    said = command("init", root)
    assert said.code == 0 and f"{root}/manymodal.yaml" in said.err
    assert command("init", root).code == 2, "not overwritten"
    for where in (root, local):
        configure(where, photos)
        fill(command, where)
    assert len(digests(local)) > 20
    assert digests(root) == digests(local), "a bucket and a folder hold the same bytes"

    ds = Dataset.open(root)
    sample = ds.ids(0)[0]
    old = f"canny_edge@{ds.current('canny_edge')}"
    for words, says in (
        (("status", root), "6 samples in 2 shards"),
        (("plan", root), "0 shards to do"),
        (("verify", root), "all is as committed"),
        (("label", root), "0 shards to do"),
        (("tokenize", root), "0 shards to do"),
        (("why", root, sample, "tok_rgb"), sample),
        (("retry", root), "1 inputs tried again, 0 can be used now"),
        (("label", root, "--set", "labelers.canny_edge.params.low=10"), "canny_edge"),
        (("diff", root, old, "canny_edge"), f"{root}/diff-canny_edge"),
        (("promote", root, old), "is current"),
        (("forget", root, sample), "shards written again"),
        (("verify", root, "--relabel", "0"), "all is as committed"),
        (("gc", root, "--older-than", "-1"), "files deleted"),
        (("gallery", root, "--rows", "2"), f"{root}/gallery.html"),
        (("index", root, "--modality", "small_vector"), "small_vector"),
        (("generate", root, "--from", "rgb", "--to", "color_palette", "--rows", "1", "--steps", "1"), f"{root}/generated-"),
    ):  # fmt: skip
        done = command(*words)
        assert done.code == 0, (words, done.err)
        assert says in done.out + done.err, (words, done.out, done.err)
    assert ds.storage.read_bytes("gallery.html").startswith(b"<!")
    damage_and_repair(ds, command, root)
    no_secret(ds, said, tmp_path)


def damage_and_repair(ds: Dataset, command: Command, root: str) -> None:
    key = f"metadata@{ds.current('metadata')}/shard-000001.parquet"
    whole = ds.storage.read_bytes(key)
    ds.storage.put(key, whole[:-1] + b"?")
    said = command("verify", root, "--relabel", "0")
    assert said.code == 3 and "metadata" in said.err and "shard 1" in said.err, said.err
    said = command("repair", root, "--relabel", "0")
    assert said.code == 0 and "1 with the committed digest" in said.err, said.err
    assert ds.storage.read_bytes(key) == whole


def no_secret(ds: Dataset, said: Said, tmp_path: Path) -> None:
    """Neither what a command says nor any object or copy has the credentials in it."""
    assert KEY not in said.err and SECRET not in said.err
    keys = list(tree(ds.storage, ""))
    assert len(keys) > 50
    for key in keys:
        data = ds.storage.read_bytes(key)
        assert KEY.encode() not in data and SECRET.encode() not in data, key
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert KEY.encode() not in data and SECRET.encode() not in data, path
    assert not list(Path.cwd().glob("s3:*")), "no command took the URL for a folder"
