"""The demo's configuration: the template every data set starts from, with small shards, short fits, many views of few
photos, and a training that learns from few of them in minutes.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.demo.photos import PHOTOS
from pipeline.ingest.candidate import IMAGE_EXTS, extension
from pipeline.template import config_template

CHANGES = {
    "name: photos": "name: demo",
    "shard_size: 32 ": "shard_size: 16 ",
    "views: 4 ": "views: 8 ",
    "fit_seconds: 12 ": "fit_seconds: 14 ",
    "train: {}  ": "train: {train}  ",
}
LEAST, MOST = 400, 4000
FEW = 60  # photos; fewer are learned by heart before anything general is
# Of few photos, many small steps, more asked for than shown, and rows that move by what was said of them (see
# trainer/config.py); of many, every place of a view is shown, and a step sees more of them.
TRAIN_FEW = "batch: 4, n_in: 64, n_out: 128, lr: 0.001, eps: 0.001"
TRAIN_MANY = "batch: 16, n_in: 196, n_out: 128, lr: 0.001"


def train_settings(photos: int) -> str:
    """For the section `train`. Steps go with the square root of the photos, since what is learned of one helps with the
    next: twice the photos take 1.4 times as long.
    """
    at_one, settings = (800 / len(PHOTOS) ** 0.5, TRAIN_FEW) if photos < FEW else (100, TRAIN_MANY)
    return f"steps: {int(min(MOST, max(LEAST, round(at_one * photos**0.5, -1))))}, {settings}"


def demo_config_text(photos: int = len(PHOTOS)) -> str:
    """YAML text. AssertionError where the template no longer has what is changed here."""
    text = config_template()
    for old, new in CHANGES.items():
        assert old in text, f"the config template has no line {old!r}"
        text = text.replace(old, new.replace("{train}", f"{{{train_settings(photos)}}}"))
    return text


def count_photos(folder: str) -> int:
    """Image files in a local folder; as many as the demo's own where it is elsewhere or holds none."""
    root = Path(folder)
    found = sum(extension(str(path)) in IMAGE_EXTS for path in root.rglob("*")) if root.is_dir() else 0
    return found or len(PHOTOS)
