"""The command line: exit codes, one clear sentence for each thing that goes wrong, JSON where a program reads."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline.dataset import Dataset
from tests.pipeline.conftest import Command
from tests.world import fake_photos, snapshot

CHEAP = [
    "--executor", "local", "--set", "labelers.dinov2.enabled=false", "--set", "labelers.human_poses.enabled=false",
    "--set", "labelers.minilm_caption.enabled=false", "--set", "labelers.maskcut.enabled=false",
]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path, command: Command) -> Path:
    """Seven photos, ingested and labelled with what is cheap."""
    root = tmp_path / "data"
    photos = fake_photos(tmp_path / "photos", 7)
    assert command("ingest", root, photos, "--set", "shard_size=5").code == 0
    assert command("label", root, *CHEAP).code == 0
    return root


def test_init_writes_a_config_once(tmp_path: Path, command: Command) -> None:
    assert command("init", tmp_path / "x").code == 0
    text = (tmp_path / "x" / "manymodal.yaml").read_text()
    said = command("init", tmp_path / "x")
    assert said.code == 2
    assert "not overwritten" in said.err
    assert (tmp_path / "x" / "manymodal.yaml").read_text() == text


def test_status_is_one_object(data: Path, command: Command) -> None:
    said = command("status", data, "--json")
    assert said.code == 0
    found = json.loads(said.out)
    assert (found["samples"], found["shards"]) == (7, 2)
    assert {"rgb", "canny_edge", "color_palette", "metadata", "caption"} <= set(found["modalities"])
    for row in found["modalities"].values():
        assert {"recipe", "backend", "weights", "committed", "nulls", "stale", "missing"} <= set(row)
        assert (row["committed"], row["missing"], row["stale"]) == (2, 0, 0)
    assert found["modalities"]["caption"]["nulls"] == 7, "no side-cars, so explicit nulls"
    table = command("status", data)
    assert table.out == "", "the table is for people, on stderr"
    assert "canny_edge" in table.err


def test_label_again_does_nothing(data: Path, command: Command) -> None:
    before = snapshot(data)
    said = command("label", data, *CHEAP, "--json")
    assert said.code == 0
    assert json.loads(said.out)["todo"] == 0
    assert "0 shards to do" in said.err
    assert snapshot(data) == before


def test_plan_and_dry_run_say_and_do_nothing(data: Path, command: Command) -> None:
    before = snapshot(data)
    words = ("--set", "labelers.canny_edge.params.low=40", *CHEAP[2:])
    for said in (command("plan", data, *words, "--json"), command("label", data, *words, "--dry-run", "--json")):
        assert said.code == 0
        found = json.loads(said.out)
        assert found["todo"] == 2
        assert [s["step"] for s in found["steps"] if s["missing"]] == ["canny_edge"]
        assert found["switched"].startswith("canny_edge@") and "(before: canny_edge@" not in found["switched"]
    old = Dataset.open(str(data)).current("canny_edge")
    assert f"(before: {old})" in command("plan", data, "--quick", *words).err
    assert "Current once" not in command("plan", data, "--quick", *CHEAP[2:]).err
    assert snapshot(data) == before


@pytest.mark.parametrize("repair", [False, True])
def test_a_removed_file_is_said_and_made_again(data: Path, command: Command, repair: bool) -> None:
    path = next(data.glob("canny_edge@*/shard-000001.tar"))
    before = path.read_bytes()
    path.unlink()
    if repair:
        said = command("label", data, *CHEAP)
        assert said.code == 0
        assert path.read_bytes() == before
        assert command("status", data).code == 0
    else:
        said = command("status", data)
        assert said.code == 3
        assert "canny_edge" in said.err
        assert "missing" in said.err


def test_a_removed_image_shard_cannot_be_made_again_and_is_said(data: Path, command: Command) -> None:
    (data / "rgb" / "shard-000001.tar").unlink()
    assert command("status", data).code == 3
    said = command("label", data, *CHEAP, "--set", "labelers.canny_edge.params.low=40")
    assert said.code in (1, 3)
    assert "rgb" in said.err or "reads" in said.err


def test_usage_and_configuration_errors_exit_2(tmp_path: Path, command: Command) -> None:
    (tmp_path / "empty").mkdir()
    photos = fake_photos(tmp_path / "photos", 1)
    for words, says in (
        (("ingest", tmp_path / "d", tmp_path / "empty"), "no image"),
        (("ingest", tmp_path / "d"), "no source is given"),
        (("ingest", tmp_path / "d", tmp_path / "absent"), "absent"),
        (("ingest", tmp_path / "d", photos, "--set", "shard_sise=3"), "did you mean 'shard_size'"),
        (("label", tmp_path / "nothing"), "no data set there"),
        (("label",), "Missing argument"),
        (("labl", "x"), "labl"),
        (("demo", "--images", tmp_path / "absent", "--out", tmp_path / "o"), "no such folder"),
        (("label", tmp_path / "d", "--executor", "rya"), "executor"),
        (("ingest", tmp_path / "e", tmp_path / "absent"), "no such file or folder"),
        (("ingest", photos / "p0000.png", photos), "a file where a folder must be"),
        (("init", photos / "p0000.png"), "a file where a folder must be"),
    ):
        said = command(*words)
        assert said.code == 2, (words, said)
        assert says in said.err, (words, said.err)
        assert "Traceback" not in said.err
    assert not (tmp_path / "e").exists(), "a mistyped source leaves no data set behind"


def test_a_root_may_look_like_markup(tmp_path: Path, command: Command) -> None:
    root = tmp_path / "q[" / "2024]"
    said = command("ingest", root, fake_photos(tmp_path / "photos", 1), "--set", "name='[/x]'")
    assert said.code == 0 and f"Ingest into {root}" in said.err
    said = command("status", root)
    assert said.code == 0 and "[/x]: 1 samples" in said.err


def test_repair_prints_one_object_whatever_it_did(data: Path, command: Command) -> None:
    next(data.glob("canny_edge@*/shard-000001.tar")).unlink()
    for words, counts in ((("--dry-run",), (1, 0)), ((), (1, 1)), ((), (0, 0))):
        said = command("repair", data, "--json", *CHEAP, *words)
        found = json.loads(said.out)
        assert (said.code, len(found["findings"]), len(found["repaired"]), found["left"]) == (0, *counts, [])


def test_gc_says_what_dropping_would_delete(data: Path, command: Command) -> None:
    old = next(path.name for path in data.glob("canny_edge@*"))
    assert command("label", data, *CHEAP, "--set", "labelers.canny_edge.params.low=40").code == 0
    before = snapshot(data)
    said = command("gc", data, "--drop", old, "--dry-run", "--json")
    assert said.code == 0 and len(json.loads(said.out)["garbage"]) == 4 and "4 files would go" in said.err
    assert snapshot(data) == before


def test_damaged_images_are_never_said_to_be_deleted_or_labelled(data: Path, command: Command) -> None:
    (data / "rgb" / "_commits" / "shard-000000.json").write_bytes(b"{")
    path = data / "rgb" / "shard-000001.tar"
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"IDAU"))
    again = ("label", data, *CHEAP, "--set", "labelers.canny_edge.params.low=40")
    for words, code in ((("status", data), 3), (again, 1), (("why", data, "p0000.png", "rgb"), 3)):
        said = command(*words)
        assert said.code == code and "`manymodal repair`" in said.err, said
        assert "elete" not in said.err and "run `manymodal label`" not in said.err.replace("Run", "run")


def test_retry_says_what_it_did_not_find(tmp_path: Path, command: Command) -> None:
    root, photos = tmp_path / "data", fake_photos(tmp_path / "photos", 2)
    (photos / "bad.png").write_bytes(b"")
    assert command("ingest", root, photos).code == 0
    photos.rename(tmp_path / "elsewhere")
    said = command("retry", root, "--json")
    assert said.code == 0 and json.loads(said.out)["not_found"] == 1
    assert "0 inputs tried again" in said.err and "1 inputs were found at no source" in said.err


def test_a_missing_weight_and_a_wrong_digest_exit_2(tmp_path: Path, command: Command) -> None:
    root = tmp_path / "data"
    assert command("ingest", root, fake_photos(tmp_path / "photos", 2)).code == 0
    absent = f"labelers.minilm_caption.weights.model=file:{tmp_path / 'no.safetensors'}"
    (tmp_path / "some.safetensors").write_bytes(b"not these")
    wrong = f"labelers.minilm_caption.weights.model=file:{tmp_path / 'some.safetensors'}#sha256={'0' * 64}"
    for assign, says in ((absent, "no.safetensors"), (wrong, "sha256")):
        said = command("label", root, "--only", "minilm_caption", "--executor", "local", "--set", assign)
        assert said.code == 2, said
        assert says in said.err
    assert not list(root.glob("minilm_caption@*/*.parquet"))


def test_a_full_disk_exits_4_and_the_same_command_resumes(
    data: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("label", data, *CHEAP, "--set", "labelers.canny_edge.params.low=40")
    link = os.link
    calls = 0

    def full(source: str, target: str) -> None:
        nonlocal calls
        calls += "canny" in str(target)
        if calls > 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        link(source, target)

    monkeypatch.setattr(os, "link", full)
    said = command(*words)
    assert said.code == 4, said
    assert "No space is left" in said.err
    assert "Traceback" not in said.err
    monkeypatch.setattr(os, "link", link)
    assert command(*words).code == 0
    assert not (data / "_tmp").exists()


def test_a_disk_that_is_full_while_a_shard_is_written_exits_4(
    data: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_photos(tmp_path / "photos", 9)
    label = ("label", data, *CHEAP, "--set", "labelers.canny_edge.params.low=40")
    ingest = ("ingest", data, tmp_path / "photos", "--set", "shard_size=5")
    commands = (label, ingest, ("forget", data, Dataset.open(str(data)).ids(0)[0]))
    with monkeypatch.context() as patch:
        for writer in ("label_shard.write_stored", "ingest.ingest.write_tar", "care.forget.write_tar"):
            patch.setattr(f"pipeline.{writer}", full_disk)
        for words in commands:
            said = command(*words)
            assert said.code == 4 and "No space is left" in said.err and "Traceback" not in said.err, said
    for words in commands:
        assert command(*words).code == 0


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_unreachable_index_exits_4(data: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: object, **more: object) -> None:
        raise OSError(5, "Input/output error", str(data))

    monkeypatch.setattr(os, "scandir", gone)
    said = command("status", data)
    assert said.code == 4
    assert "Input/output error" in said.err


def test_an_occupied_out_folder_is_left_alone(tmp_path: Path, command: Command) -> None:
    photos = fake_photos(tmp_path / "photos", 1)
    out = tmp_path / "mine"
    shutil.copytree(photos, out)
    before = snapshot(out)
    said = command("demo", "--images", photos, "--out", out)
    assert said.code == 2
    assert "other things in it" in said.err
    assert snapshot(out) == before


def test_doctor_lists_every_backend_with_its_licences(command: Command) -> None:
    found = json.loads(command("doctor", "--json").out)
    assert {b["labeler"] for b in found["backends"]} >= {"canny_edge", "dinov2", "human_poses", "minilm_caption"}
    assert all(b["code"] for b in found["backends"])
    assert {c["check"] for c in found["checks"]} >= {"ray", "torch", "memory"}


def test_plan_sizes_a_cluster_for_any_number_of_images(data: Path, command: Command) -> None:
    cheap = CHEAP[2:]
    words = ("--nodes", 4, "--cpus-per-node", 16, "--gpus-per-node", 0, "--price", 2, "--images", 1_000_000)
    said = command("plan", data, *cheap, *words, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["todo"] == 200_000 * len(found["steps"]), "as if nothing were made"
    assert {step["missing"] for step in found["steps"]} == {200_000}
    cluster = found["cluster"]
    assert cluster["cpu_hours"] > 0
    assert cluster["cost"] == pytest.approx(cluster["hours"] * 4 * 2)
    assert cluster["puts"] >= 4 * 2 * 200_000
    assert {step["samples"] for step in found["steps"]} == {1_000_000}
    said = command("plan", data, *cheap, *words)
    assert said.code == 0
    assert "1,000,000 images on 4 nodes of 16 CPUs" in said.err and "limits.shard_seconds" not in said.err
    said = command("plan", data, *cheap, *words, "--set", "limits.shard_seconds=0.000001")
    assert "canny_edge: a shard takes about 0 s, and is given up after 1e-06: raise limits.shard_seconds" in said.err
