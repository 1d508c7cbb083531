"""From the command line: the vocabulary, tokens, and back into labels that `diff` compares."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.pipeline.cli.test_main import CHEAP, data
from tests.pipeline.conftest import Command

__all__ = ["data"]  # a fixture


def test_tokens_there_and_back(data: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a zeppelin over a zeppelin\n" * 3)
    local = CHEAP[:2]
    said = command("fit", data, "text", "--set", f"tokens.text.corpus=[{tmp_path}/corpus.txt]", "--json")
    assert said.code == 0 and list(json.loads(said.out)["fits"]) == ["text"], said.err
    assert command("fit", data, "color_palette", "tok_metadata").code == 0
    assert command("tokenize", data, *local).code == 0
    wrong = command("tokenize", data, "--decode", "--only", "tok_depth", *local)
    assert wrong.code == 2 and "has no tokens" in wrong.err
    said = command("tokenize", data, "--decode", *local, "--json")
    assert said.code == 0 and json.loads(said.out)["done"] == 4, said.err
    refs = re.findall(r"(\w+@[0-9a-f]{8}): manymodal diff", said.err)
    assert {ref.split("@")[0] for ref in refs} == {"color_palette", "metadata"}
    for ref in refs:
        said = command("diff", data, ref, ref.split("@")[0], "--out", tmp_path / "d.html", "--json")
        found = json.loads(said.out)
        assert said.code == 0 and found["samples"] == 7
    assert command("verify", data).code == 0
    stale = {n: m["stale"] for n, m in json.loads(command("status", data, "--json").out)["modalities"].items()}
    assert not any(stale.values())
    assert command("label", data, *CHEAP, "--set", "labelers.color_palette.params.side=32").code == 0
    found = json.loads(command("status", data, "--json").out)["modalities"]
    assert {n for n, m in found.items() if m["stale"]} == {"tok_color_palette"}
    assert found["tok_color_palette"]["stale"] == 2, "train refuses them, tokenize makes them again"
