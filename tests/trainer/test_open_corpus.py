"""Tokens that are right one by one, and would teach nonsense together, are refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tests.tokenize_shards.small import small_config
from tokenize_shards.fit import fit_all
from tokenize_shards.tokenize import tokenize
from trainer.open_corpus import open_corpus

RGB, EDGES, CAPTION, METADATA = "tok_rgb", "tok_canny_edge", "tok_caption", "tok_metadata"


def test_tokens_of_other_views_are_not_mixed(trained: Path) -> None:
    ds = Dataset.open(str(trained))
    assert not tokenize(ds, small_config(trained, views=2, seed=5), [EDGES, METADATA]).failed
    with pytest.raises(
        ConfigError, match=r"tok_rgb and tok_canny_edge were cut by other views \(tokens.seed 0; .* 5\)"
    ):
        open_corpus(ds, 0.2, [RGB, EDGES])
    assert open_corpus(ds, 0.2, [RGB, METADATA]).samples, "metadata are of the whole photo"


def test_the_middle_of_the_photo_is_the_same_for_every_seed(trained: Path) -> None:
    ds = Dataset.open(str(trained))
    assert not tokenize(ds, small_config(trained, views=1, seed=5), [EDGES]).failed
    assert open_corpus(ds, 0.2, [RGB, EDGES]).views == 2


def test_sequences_of_other_vocabularies_are_not_mixed(trained: Path, tmp_path: Path) -> None:
    ds, other = Dataset.open(str(trained)), tmp_path / "other.txt"
    other.write_text("quagmire zephyr jukebox wyvern oxbow\n" * 200)
    config = small_config(trained, views=2, text={"corpus": [str(other)]})
    fit_all(ds, config, ["text"], True, lambda *_: None)
    assert not tokenize(ds, config, [METADATA]).failed
    with pytest.raises(ConfigError, match="tok_caption and tok_metadata have vocabularies of their own"):
        open_corpus(ds, 0.2, [CAPTION, METADATA])
    assert not tokenize(ds, config, [CAPTION]).failed
    assert open_corpus(ds, 0.2, [CAPTION, METADATA]).samples
