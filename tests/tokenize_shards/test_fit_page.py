"""What a tokenizer sees, as a picture: every content has one, of bytes, that shows where the label differs."""

from __future__ import annotations

import numpy as np
import pytest

from tokenize_shards.fit_page import picture_of

RNG = np.random.default_rng(0)
VIEWS = {
    "pixels": RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8),
    "edges": (RNG.random((16, 16)) < 0.3).astype(np.uint8) * 255,
    "depth": np.where(RNG.random((16, 16)) < 0.1, np.nan, RNG.random((16, 16))).astype(np.float32),
    "normals": RNG.normal(size=(16, 16, 3)).clip(-1, 1).astype(np.float32),
    "classes": RNG.integers(0, 134, (16, 16)).astype(np.uint8),
    "features": RNG.normal(size=(4, 4, 8)).astype(np.float16),
    "": RNG.normal(size=24).astype(np.float32),
    "sam_instance": RNG.random((64, 64)) < 0.5,
    "human_poses": RNG.normal(size=99).astype(np.float32),
}


@pytest.mark.parametrize("content", VIEWS)
def test_every_content_has_a_picture(content: str) -> None:
    picture = picture_of(content, VIEWS[content])
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert len(np.unique(picture)) > 1
    assert np.array_equal(picture, picture_of(content, VIEWS[content]))


def test_classes_have_colours_of_their_own() -> None:
    picture = picture_of("classes", np.arange(100).reshape(10, 10))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 100
