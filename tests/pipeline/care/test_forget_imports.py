"""forget and imported labels: the copy a data set keeps of somebody's file is as much of a sample's bytes as its shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelers.caption import CAPTION
from labelers.core.modality import Null
from labelers.core.registry import all_labelers
from pipeline.care.content import ContentChecks
from pipeline.care.garbage import garbage
from pipeline.care.rebuild import target_of, weights_at_hand
from pipeline.care.verify import verify
from pipeline.cli.care import reader_of
from pipeline.config import CONFIG_NAME
from pipeline.dataset import Dataset
from pipeline.weights import kept_keys
from tests.pipeline.conftest import Command
from tests.world import fake_photos

SECRET = "the words about number one"


def holds(root: Path, text: str) -> list[str]:
    """Files of a data set that hold a text."""
    return [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


@pytest.fixture
def imported(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a data set of four photos with captions from a folder of texts, and nothing else."""
    monkeypatch.setenv("MANYMODAL_CACHE", str(tmp_path / "cache"))
    photos, texts, root = tmp_path / "photos", tmp_path / "texts", tmp_path / "data"
    fake_photos(photos, 4)
    texts.mkdir()
    for path in photos.iterdir():
        words = SECRET if path.stem.endswith("1") else f"other words, {path.stem}"
        (texts / f"{path.stem}.txt").write_text(words)
    root.mkdir()
    off = "".join(f"  {name}: {{enabled: false}}\n" for name in all_labelers() if name != "import_caption")
    on = f"  import_caption: {{enabled: true, weights: {{source: 'file:{texts}'}}}}\n"
    (root / CONFIG_NAME).write_text(f"executor: local\nshard_size: 2\nlabelers:\n{off}{on}")
    assert command("ingest", root, photos).code == 0
    assert command("label", root).code == 0
    return root


def victim_of(ds: Dataset) -> str:
    return next(row.id for k in ds.shards() for row in ds.index(k) if Path(row.uri).stem.endswith("1"))


def test_the_copy_of_the_source_goes_and_does_not_stay_again(imported: Path, tmp_path: Path, command: Command) -> None:
    ds = Dataset.open(str(imported))
    recipe = ds.current("caption")
    assert len(holds(imported, SECRET)) == 2, "the shard, and the copy of the source"
    kept = [p.name for p in (imported / "_weights").iterdir()]
    said = command("forget", imported, victim_of(ds))
    assert said.code == 0
    assert f"take what is forgotten out of them, too: file:{tmp_path / 'texts'}" in said.err
    assert holds(imported, SECRET) == [] and holds(imported, "other words") != [], "other samples' labels are there"
    assert not set(kept) & {p.name for p in (imported / "_weights").iterdir()}
    assert (tmp_path / "texts" / "p0001.txt").read_text() == SECRET, "the user's own file is as it was"
    ds = Dataset.open(str(imported))
    assert verify(ds, reader_of, ContentChecks(2, {})) == []
    assert command("label", imported).code == 0 and holds(imported, SECRET) == []
    fake_photos(tmp_path / "more", 6)  # two of them new
    (tmp_path / "texts" / "p0005.txt").write_text("a late one")
    assert command("ingest", imported, tmp_path / "more").code == 0
    assert command("label", imported).code == 0, "an import with a source that grew, over everything"
    ds = Dataset.open(str(imported))
    labels = {i: x for k in ds.shards() for i, x in zip(ds.ids(k), ds.labels(CAPTION, k), strict=True)}
    assert ds.current("caption") != recipe and labels[victim_of(ds)] == Null("removed")
    assert "a late one" in labels.values() and holds(imported, SECRET) == []


def test_repair_takes_the_source_from_where_it_was(imported: Path, tmp_path: Path, command: Command) -> None:
    ds = Dataset.open(str(imported))
    victim = victim_of(ds)
    assert command("forget", imported, victim).code == 0
    shard = next(imported.glob("caption@*/shard-000001.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"?")
    said = command("repair", imported)
    assert (said.code, shard.read_bytes()) == (0, whole)
    assert holds(imported, SECRET) == []
    (tmp_path / "texts").rename(tmp_path / "elsewhere")
    shard.write_bytes(whole[:-1] + b"?")
    said = command("repair", imported)
    assert said.code == 1 and "what it was made with is not to be had any more" in said.err
    recipe = ds.recipe(ds.current("caption"))
    assert target_of(ds, [("caption", ds.current("caption"))]) is not None and not weights_at_hand(ds, recipe)


def test_what_a_killed_run_left_is_garbage(imported: Path, tmp_path: Path, command: Command) -> None:
    ds = Dataset.open(str(imported))
    assert not [key for key in garbage(ds, 0) if key.startswith("_weights")], "nothing was forgotten yet"
    command("forget", imported, victim_of(ds))
    recipe = ds.recipe(ds.current("caption"))
    sha256 = recipe["weights"]["source"]["sha256"]
    ds.put_weights(tmp_path / "texts", sha256)
    assert kept_keys(ds.storage, [sha256]) == [key for key in garbage(ds, 0) if key.startswith("_weights")]
    assert command("gc", imported, "--older-than", "0").code == 0
    assert holds(imported, SECRET) == []


def test_files_that_another_folder_holds_stay(tmp_path: Path) -> None:
    from labelers.core.weights import digest

    ds = Dataset.create(str(tmp_path / "data"), "n", 2)
    shas = []
    for name, words in (("a", ("same", "mine")), ("b", ("same", "theirs"))):
        (tmp_path / name).mkdir()
        for i, word in enumerate(words):
            (tmp_path / name / f"{i}.txt").write_text(word)
        shas.append(digest(tmp_path / name))
        ds.put_weights(tmp_path / name, shas[-1])
    for key in kept_keys(ds.storage, shas[:1]):
        ds.storage.delete(key)
    assert (ds.weights_path(shas[1]) / "0.txt").read_text() == "same"
    assert not holds(tmp_path / "data" / "_weights", "mine")
