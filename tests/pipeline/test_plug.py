"""A package of somebody else with an entry point: installed, its labeler has storage, tokens, a gallery column, a metric."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.world import fake_photos

REPO = Path(__file__).resolve().parents[2]

# A labeler, its modality with a metric and a picture of its own, and a row of the token table of a kind that exists.
PACKAGE = '''
import numpy as np

from labelers.core import labeler
from labelers.core.compare import METRICS
from labelers.core.labeler import Labeler
from labelers.core.modality import Null, vector_modality
from labelers.core.show import Chips
from dataclasses import replace
from tokenize_shards.table import vector_row

WARMTH = replace(
    vector_modality("warmth", 3, "float32 (3,): mean red, green and blue, 0..1"),
    show=lambda label, image: Chips((("warmth", f"{label[0] - label[2]:.2f}"),)),
)


class Warmth(Labeler):
    """How warm the light of a photo is."""

    class Params(labeler.Params):
        gain: float = 1.0

    name = "warmth"
    version = 1
    backend = "means (tiny-warmth)"
    produces = (WARMTH,)
    tokens = (vector_row("warmth", size=0, channels=3, vocab=8, tokens=2),)

    def label(self, samples):
        return [{"warmth": (s.image.mean((0, 1)) / 255 * self.params.gain).astype(np.float32)} for s in samples]
'''

# What a person would type, in one process: two recipes, their difference, tokens, the page.
SESSION = """
import json, sys
from labelers.core.registry import all_labelers
from pipeline.care.diff import diff, label_column
from pipeline.config import Config, LabelerConfig, TokensConfig
from pipeline.dataset import Dataset
from pipeline.gallery.page import render_page
from pipeline.ingest.ingest import ingest
from pipeline.label import label
from tokenize_shards.fit import fit_all
from tokenize_shards.tokenize import tokenize
from trainer.showcase import collect
from pathlib import Path

root, photos = sys.argv[1:]
ds = Dataset.create(root, "plug", 6)
ingest(ds, [photos])
recipes, reports = [], []
for gain in (1.0, 0.5):
    chosen = {n: LabelerConfig(enabled=n == "warmth") for n in all_labelers()}
    chosen["warmth"] = LabelerConfig(params={"gain": gain})
    config = Config(root=root, shard_size=6, executor="local", labelers=chosen,
                    tokens=TokensConfig(fit_steps=3, views=2, modalities=["tok_warmth"]))
    reports.append(label(ds, config))
    recipes.append(ds.current("warmth"))
again = label(ds, config)
found = diff(ds, ("warmth", recipes[0]), ("warmth", recipes[1]), label_column(ds, "warmth"))
fit_all(ds, config, [], False, lambda *_: None)
made = tokenize(ds, config)
render_page(collect(ds, config, 4, lambda *_: None), Path(root) / "gallery.html")
tokens = ds.manifest().modalities["tok_warmth"]
print(json.dumps({
    "failed": [r.failed for r in reports] + [made.failed], "again": again.todo, "metric": found.metrics,
    "samples": found.samples, "tokens": sum(c.count for c in ds.commits("tok_warmth", tokens).values()),
    "backend": ds.recipe(recipes[0])["backend"], "recipes": len(set(recipes)),
}))
"""


def wheel(folder: Path) -> Path:
    """A wheel of the package, as any build tool writes one."""
    info = "tiny_warmth-1.0.dist-info"
    files = {
        "tiny_warmth.py": PACKAGE,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-warmth\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: by-hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[manymodal.labelers]\nwarmth = tiny_warmth:Warmth\n",
    }
    lines = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(text.encode())}")
    path = folder / "tiny_warmth-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]) + "\n")
    return path


def test_a_package_that_is_installed_is_all_that_a_modality_needs(tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    done = subprocess.run([*pip, "--target", str(site), str(wheel(tmp_path))], capture_output=True, text=True)
    if "No module named pip" in done.stderr:
        pytest.skip("this interpreter has no pip")
    assert done.returncode == 0, done.stderr
    photos = fake_photos(tmp_path / "photos", 8)
    env = os.environ | {"PYTHONPATH": f"{REPO}{os.pathsep}{site}", "OMP_NUM_THREADS": "1"}
    session = [sys.executable, "-c", SESSION, str(tmp_path / "ds"), str(photos)]
    ran = subprocess.run(session, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["failed"] == [0, 0, 0] and said["again"] == 0
    assert said["backend"] == "means (tiny-warmth)" and said["recipes"] == 2
    assert said["samples"] == 8 and said["metric"]["cosine"]["mean"] == pytest.approx(1, abs=1e-5)
    assert said["tokens"] == 8
    page = (tmp_path / "ds" / "gallery.html").read_text(encoding="utf-8")
    assert "warmth" in page and "means (tiny-warmth)" in page
