"""Every command on a bucket as on a folder: the same digests, nothing on this machine but copies, no secret anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from labelers.core.registry import all_modalities
from pipeline.dataset import Dataset
from pipeline.storage import open_storage
from pipeline.storage.interface import below
from tests.pipeline.conftest import Command, Said
from tests.seaweed import KEY, SECRET
from tests.threads import one_thread
from tests.tokenize_shards.small import WORDS, photo, small_table
from tests.trainer.fourm.test_load import tiny

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
    with one_thread(), small_table():
        yield folder


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
    use_and_exchange(s3, root, tmp_path, command)
    damage_and_repair(ds, command, root)
    no_secret(ds, said, tmp_path)


def use_and_exchange(s3: str, root: str, tmp_path: Path, command: Command) -> None:
    """What uses the model, and what goes from one data set to another: all inputs and outputs in the bucket."""
    shelf = open_storage(f"{s3}/shelf")
    rows = [row for k in Dataset.open(root).shards() for row in Dataset.open(root).index(k)]
    shelf.put("classes.csv", "".join(f"{row.id},{'ab'[n % 2]}\n" for n, row in enumerate(rows)).encode())
    for row in rows:
        Image.fromarray(np.full((row.height, row.width), 17, np.uint8)).save(tmp_path / "map.png")
        shelf.put(f"maps/{Path(row.uri).stem}.png", (tmp_path / "map.png").read_bytes())
    shelf.put("words.txt", b"xylograph xylograph xylograph\n")
    _, config, tensors = tiny()
    save_file(tensors, tmp_path / "model.safetensors")
    shelf.put("published/config.json", json.dumps(config).encode())
    shelf.put("published/model.safetensors", (tmp_path / "model.safetensors").read_bytes())
    imported = (
        "--set=labelers.import_semseg.enabled=true",
        f"--set=labelers.import_semseg.weights.source={s3}/shelf/maps",
    )
    classes, page = f"{s3}/shelf/classes.csv", f"{s3}/shelf/pages/e.html"
    for words, says in (
        (("retrieve", root, "--from", "rgb", "--index", "small_vector", "--rows", "2"), f"{root}/retrieved-small_vector.html"),
        (("evaluate", root, "--rows", "2", "--with-learned", "--classes", classes), f"{root}/evaluation.html"),
        (("evaluate", root, "--labels-only", "--rows", "2", "--out", page), page),
        (("transfer", root, "--labels", classes, "--with", "steps=2", "--export", f"{s3}/shelf/encoder"), f"{root}/_transfers/"),
        (("label", root, "--only", "semseg", *imported), "semseg"),
        (("export", root, f"{s3}/shelf/4m"), "Exported"),
        (("import", f"{s3}/back", f"{s3}/shelf/4m"), "4 samples"),
        (("adopt", root, "model", f"{s3}/shelf/published"), "published"),
        (("fit", root, "text", "--again", f"--set=tokens.text.corpus=[{s3}/shelf/words.txt]"), "1 tokenizers fitted"),
    ):  # fmt: skip
        done = command(*words)
        assert done.code == 0, (words, done.err)
        assert says in done.out + done.err, (words, done.out, done.err)
    ds, back = Dataset.open(root), Dataset.open(f"{s3}/back")
    maps = [m for k in ds.shards() for m in ds.labels(all_modalities()["semseg"], k)]
    assert sum(isinstance(m, np.ndarray) for m in maps) == 5, "one photo was forgotten"
    recipe = ds.recipe(ds.current("semseg"))
    assert recipe["weights"]["source"]["url"] == f"{s3}/shelf/maps", "the recipe says where they came from"
    assert sum(len(back.ids(k)) for k in back.shards()) == 4 and back.current("tok_rgb")
    assert {"encoder/", "pages/", "4m/"} <= shelf.list("").keys()
    assert {"encoder/config.json", "encoder/model.safetensors"} <= shelf.list("encoder").keys()
    assert {"pages/e.html", "pages/e.json"} <= shelf.list("pages").keys()
    assert ds.storage.exists("_models/published/v000001.json")


def test_the_demo_through_a_bucket_alone(s3: str, tmp_path: Path, photos: Path, command: Command) -> None:
    source = open_storage(f"{s3}/photos")
    for path in sorted(photos.iterdir()):
        source.put(path.name, path.read_bytes())
        path.unlink()
    off = [f"labelers.{name}.enabled=false" for name in ("dinov2", "human_poses", "maskcut", "minilm_caption")]
    small = [
        "tokens.fit_steps=2",
        "tokens.views=2",
        "tokens.modalities=[tok_rgb]",
        "train.size=micro",
        "train.steps=2",
        "train.batch=2",
    ]
    sets = [f"--set={one}" for one in (*off, *small)]
    out = f"{s3}/lab/demo"
    said = command("demo", "--out", out, "--images", f"{s3}/photos", "--executor", "local", *sets)
    assert said.code == 0, said.err
    assert f"{out}/gallery.html" in said.out
    ds = Dataset.open(out)
    assert [row.uri for row in ds.index(0)] == [f"{s3}/photos/p{n}.png" for n in range(6)]
    assert ds.storage.exists("gallery.html") and not (tmp_path / "demo").exists()
    said = command("demo", "--out", out, "--images", f"{s3}/photos", "--executor", "local", *sets)
    assert said.code == 0 and said.err.count("0 shards to do") == 2, "it resumes, and there is nothing to do"
    assert command("demo", "--out", f"{s3}/photos", "--images", f"{s3}/photos").code == 2, "other things lie there"


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
    keys = list(below(ds.storage, ""))
    assert len(keys) > 50
    for key in keys:
        data = ds.storage.read_bytes(key)
        assert KEY.encode() not in data and SECRET.encode() not in data, key
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert KEY.encode() not in data and SECRET.encode() not in data, path
    assert not list(Path.cwd().glob("s3:*")), "no command took the URL for a folder"
