"""Product-quantised vectors: they come back close, whatever the batch, from a file too, and from very few training
vectors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tokenize_shards.mlp_pq import MLPPQ, MLPPQConfig
from tokenize_shards.tokenizer import FitError, load_tokenizer

CONFIG = MLPPQConfig(dim=24, heads=4, codes=64, latent=4, width=32)


def vectors(n: int, seed: int = 0) -> np.ndarray:
    """Points near a 6-dimensional subspace, as embeddings are."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(9).normal(size=(6, 24))
    return (rng.normal(size=(n, 6)) @ basis + 0.05 * rng.normal(size=(n, 24))).astype(np.float32)


def test_heldout_vectors_come_back_close_and_fitting_does_not_harm() -> None:
    train, heldout = vectors(600), vectors(100, 1)
    start, fitted = MLPPQ(CONFIG), MLPPQ(CONFIG)
    first = start.fit(train, heldout, steps=1).metrics["cosine"]
    report = fitted.fit(train, heldout, steps=200)
    assert report.metrics["cosine"] > 0.9 and report.metrics["cosine"] > first - 0.01
    assert 0.5 < report.codebook_used <= 1


def test_tokens_do_not_depend_on_the_batch_and_survive_a_file(tmp_path: Path) -> None:
    tokenizer = MLPPQ(CONFIG)
    tokenizer.fit(vectors(100), vectors(0), steps=3)
    batch = vectors(20, 2)
    tokens = tokenizer.encode(batch)
    assert tokens.dtype == np.uint16 and tokens.shape == (20, 4)
    assert np.array_equal(tokens, np.concatenate([tokenizer.encode(row[None]) for row in batch]))
    tokenizer.save(tmp_path / "a")
    again = load_tokenizer(tmp_path / "a")
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert np.array_equal(again.encode(batch), tokens)
    assert np.array_equal(again.decode(tokens), tokenizer.decode(tokens))


def test_probabilities_decode_to_the_mean_of_what_could_be_drawn() -> None:
    tokenizer = MLPPQ(CONFIG)
    tokenizer.fit(vectors(100), vectors(0), steps=1)
    for layer in (tokenizer.network.decoder.head.weight, tokenizer.network.decoder.head.bias):
        layer.data.zero_()  # linear, as the decoder starts
    rng = np.random.default_rng(3)
    few = rng.dirichlet(np.ones(3), (1, 4))
    shares = np.zeros((1, 4, 64), np.float32)
    shares[..., :3] = few
    every = np.stack(np.meshgrid(*[np.arange(3)] * 4, indexing="ij"), -1).reshape(-1, 4)
    weight = np.prod(few[0, np.arange(4), every], axis=1)
    assert np.allclose(tokenizer.expected(shares)[0], weight @ tokenizer.decode(every), atol=1e-5)
    sure = np.eye(64, dtype=np.float32)[every]
    assert np.allclose(tokenizer.expected(sure), tokenizer.decode(every), atol=1e-5)
    with pytest.raises(ValueError, match=r"expected probabilities \(n, 4, 64\), got \(1, 4, 63\)"):
        tokenizer.expected(shares[..., 1:])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_very_few_training_vectors(n: int) -> None:
    config = MLPPQConfig("human_poses", "landmarks", dim=99, heads=8, codes=1024, latent=8, width=32)
    poses = np.random.default_rng(0).normal(0, 0.3, (n, 33, 3)).astype(np.float32)
    tokenizer = MLPPQ(config)
    report = tokenizer.fit(poses, poses, steps=2)
    assert report.metrics["mpjpe_mm"] < 120
    assert tokenizer.decode(tokenizer.encode(poses)).shape == (n, 99)


def test_same_seed_same_tokens() -> None:
    a, b = MLPPQ(CONFIG), MLPPQ(CONFIG)
    for tokenizer in (a, b):
        tokenizer.fit(vectors(64), vectors(0), steps=5, seed=3)
    assert np.array_equal(a.encode(vectors(30, 4)), b.encode(vectors(30, 4)))


def test_nothing_to_learn_from_and_bad_input_are_refused() -> None:
    tokenizer = MLPPQ(CONFIG)
    with pytest.raises(FitError, match="nothing to learn from"):
        tokenizer.fit(vectors(0), vectors(0), steps=1)
    tokenizer.fit(vectors(10), vectors(0), steps=1)
    with pytest.raises(ValueError, match="expected vectors of 24"):
        tokenizer.encode(np.zeros((2, 5), np.float32))
    for wrong in (64, -1):
        with pytest.raises(ValueError, match=f"token {wrong} is outside the vocabulary"):
            tokenizer.decode(np.full((1, 4), wrong, np.int64))


def test_codes_are_numbered_along_their_first_coordinate() -> None:
    """In every head, so that neighbours in number are alike; `codes` says so to the model."""
    rng = np.random.default_rng(0)
    tokenizer = MLPPQ(MLPPQConfig(dim=12, heads=3, codes=8, latent=4, width=16, depth=1))
    tokenizer.fit(
        rng.normal(size=(64, 12)).astype(np.float32) * np.linspace(3, 0.1, 12, dtype=np.float32),
        np.zeros((0, 12), np.float32),
        steps=3,
    )
    assert tokenizer.network is not None
    first = tokenizer.network.codebook.embed[..., 0].numpy()
    assert first.shape == (3, 8) and (np.diff(first, axis=1) >= 0).all()
    codes = tokenizer.codes()
    assert codes is not None and codes.shape[0] == 8
    apart = np.linalg.norm(codes[:, None] - codes, axis=2)
    assert (np.diff(apart[0]) > 0).all() or apart[0, 1] < apart[0, 4] < apart[0, 7]
