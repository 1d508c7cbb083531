"""ViT-VQ: pictures come back, tokens depend on the view alone, and a fit never ends worse than its start values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenize_shards.content import Pixels
from tokenize_shards.tokenizer import FitError, load_tokenizer
from tokenize_shards.vit_vq import ViTVQ
from tokenize_shards.vit_vq_network import FSQ_LEVELS, SIZES, Network, ViTVQConfig, sincos_positions

SIDE = 16
RGB = ViTVQConfig(resolution=SIDE, patch=4, vocab=64)
EDGES = ViTVQConfig("canny_edge", "edges", SIDE, 1, patch=4, vocab=32)
MAPS = ViTVQConfig("dinov2", "features", 4, 12, patch=1, vocab=32)
CLASSES = ViTVQConfig("semseg", "classes", SIDE, 5, patch=4, vocab=32)
DEPTH = ViTVQConfig("depth", "depth", SIDE, 1, patch=4, vocab=32)
NORMALS = ViTVQConfig("normal", "normals", SIDE, 3, patch=4, vocab=32)
CONFIGS = (RGB, EDGES, MAPS, replace(RGB, codebook="fsq", vocab=256), CLASSES, DEPTH, NORMALS)


def scenes(n: int, seed: int = 0) -> np.ndarray:
    """Pictures with structure: a gradient between two colours and a disc of a third; uint8 (n, SIDE, SIDE, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    pictures = []
    for _ in range(n):
        one, two, three = rng.uniform(0, 255, (3, 3))
        dx, dy, cx, cy, radius = rng.uniform((-1, -1, 0.2, 0.2, 0.1), (1, 1, 0.8, 0.8, 0.35))
        blend = ((x * dx + y * dy) / 2 + 0.5)[..., None]
        picture = one * blend + two * (1 - blend)
        picture[np.hypot(x - cx, y - cy) < radius] = three
        pictures.append(picture)
    return np.array(pictures, np.uint8).reshape(n, SIDE, SIDE, 3)


def data(config: ViTVQConfig, n: int, seed: int = 0) -> np.ndarray:
    """Structured labels of the content's encoding."""
    pictures = scenes(n, seed)
    if config.content == "pixels":
        return pictures
    if config.content == "edges":
        steps = np.abs(np.diff(pictures[..., 0].astype(int), axis=2, append=0)) > 30
        return steps.astype(np.uint8) * 255
    if config.content == "classes":
        return (pictures[..., 0] // 52).astype(np.uint8)
    if config.content == "depth":
        return pictures[..., 0].astype(np.uint16) * 200 + 1000
    if config.content == "normals":
        raw = pictures.astype(np.float32) / 255 - 0.5
        return raw / np.linalg.norm(raw, axis=-1, keepdims=True).clip(1e-3)
    small = pictures[:, ::4, ::4].reshape(n, 4, 4, 3) / 64
    mix = np.random.default_rng(9).normal(size=(3, config.channels))
    return (small @ mix).astype(np.float16)


def fitted(config: ViTVQConfig, steps: int = 2, n: int = 16, seed: int = 0) -> ViTVQ:
    tokenizer = ViTVQ(config)
    tokenizer.fit(data(config, n), data(config, 0), steps=steps, seed=seed)
    return tokenizer


@pytest.fixture(scope="module")
def ready() -> dict[ViTVQConfig, ViTVQ]:
    return {config: fitted(config) for config in CONFIGS}


@pytest.mark.parametrize("config", CONFIGS)
def test_tokens_and_labels_have_their_encodings(ready: dict[ViTVQConfig, ViTVQ], config: ViTVQConfig) -> None:
    tokenizer, batch = ready[config], data(config, 5, 1)
    tokens = tokenizer.encode(batch)
    assert tokens.dtype == np.uint16 and tokens.shape == (5, 16) == (5, tokenizer.tokens)
    assert int(tokens.max()) < tokenizer.vocab
    decoded = tokenizer.decode(tokens)
    assert (decoded.dtype, decoded.shape) == (batch.dtype, batch.shape)
    if config.content == "edges":
        assert set(np.unique(decoded)) <= {0, 255}
    assert tokenizer.encode(batch[:0]).shape == (0, 16)
    assert tokenizer.decode(tokens[:0]).shape == batch[:0].shape


@pytest.mark.parametrize("config", CONFIGS)
def test_tokens_of_a_view_do_not_depend_on_its_batch(ready: dict[ViTVQConfig, ViTVQ], config: ViTVQConfig) -> None:
    tokenizer, batch = ready[config], data(config, 9, 2)
    tokens = tokenizer.encode(batch)
    assert np.array_equal(tokens, np.concatenate([tokenizer.encode(one[None]) for one in batch]))
    assert np.array_equal(tokens[::-1], tokenizer.encode(batch[::-1]))
    assert len(np.unique(tokens)) > 4


@pytest.mark.parametrize("config", CONFIGS)
def test_a_file_gives_the_same_tokens(tmp_path: Path, ready: dict[ViTVQConfig, ViTVQ], config: ViTVQConfig) -> None:
    tokenizer, batch = ready[config], data(config, 6, 3)
    tokenizer.save(tmp_path / "a")
    again = load_tokenizer(tmp_path / "a")
    assert isinstance(again, ViTVQ) and again.spec == config
    tokens = tokenizer.encode(batch)
    assert np.array_equal(again.encode(batch), tokens)
    assert np.array_equal(again.decode(tokens), tokenizer.decode(tokens))
    again.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_settings_learned_from_the_data_are_kept(tmp_path: Path, ready: dict[ViTVQConfig, ViTVQ]) -> None:
    ready[MAPS].save(tmp_path / "a")
    scale = load_tokenizer(tmp_path / "a").config()["settings"]["scale"]
    assert scale == pytest.approx(float(data(MAPS, 16).astype(np.float32).std()))


def test_pictures_come_back_far_better_than_the_mean() -> None:
    train, heldout = scenes(64), scenes(16, 1)
    tokenizer = ViTVQ(RGB)
    report = tokenizer.fit(train, heldout, steps=40)
    mean = np.broadcast_to(train.mean(0).round().astype(np.uint8), heldout.shape)
    plain = Pixels().measure(heldout, mean)["psnr_db"]
    assert report.metrics["psnr_db"] > plain + 4
    assert report.metrics == Pixels().measure(heldout, tokenizer.decode(tokenizer.encode(heldout)))
    assert 0.3 < report.codebook_used <= 1 and 10 < report.perplexity <= RGB.vocab
    assert (report.kind, report.steps, report.losses[-1][0]) == ("vit_vq", 40, 40)


@pytest.mark.parametrize(
    ("config", "name", "least"),
    [(EDGES, "f1", 0.5), (MAPS, "cosine", 0.95), (CLASSES, "miou", 0.45), (DEPTH, "abs_rel", -0.2), (NORMALS, "angle_deg", -28)],
)  # fmt: skip
def test_other_contents_come_back_on_heldout_views(config: ViTVQConfig, name: str, least: float) -> None:
    """In the modality's own unit; a negative bound is for errors."""
    report = ViTVQ(config).fit(data(config, 64), data(config, 16, 1), steps=15)
    figure = report.metrics[name] if least > 0 else -report.metrics[name]
    assert figure > least, report.metrics


@pytest.mark.parametrize("config", [RGB, MAPS])
@pytest.mark.parametrize("lr", [1e-3, 0.3])
def test_a_short_fit_never_ends_worse_than_its_start(
    monkeypatch: pytest.MonkeyPatch, config: ViTVQConfig, lr: float
) -> None:
    """On the views the best state is chosen by: 0.3 is a rate that wrecks any network."""
    tokenizer, looks = ViTVQ(replace(config, lr=lr)), list[float]()
    watch = tokenizer._watch

    def told(x: torch.Tensor) -> float:
        looks.append(watch(x))
        return looks[-1]

    monkeypatch.setattr(tokenizer, "_watch", told)
    train = data(config, 24)
    tokenizer.fit(train, train[:0], steps=12)
    end = watch(tokenizer.content.to_tensor(train))
    assert len(looks) >= 2 and end == pytest.approx(min(looks), rel=1e-5)
    if lr > 0.1:
        assert looks[-1] > 2 * looks[0], "the fit did go wrong, and was taken back"


def test_same_seed_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(ord(name))  # of the caller; must not matter
        fitted(RGB, steps=3, seed=seed).save(tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b and a != c


def test_fitting_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    fitted(RGB, steps=1)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("config", [RGB, EDGES, MAPS])
def test_very_few_views_are_enough(config: ViTVQConfig, n: int) -> None:
    tokenizer = fitted(config, steps=1, n=n)
    assert tokenizer.decode(tokenizer.encode(data(config, 2, 5))).shape == data(config, 2).shape


def test_pictures_of_one_colour_come_back() -> None:
    grey = np.full((4, SIDE, SIDE, 3), 90, np.uint8)
    tokenizer = ViTVQ(RGB)
    tokenizer.fit(grey, grey[:0], steps=2)
    assert np.abs(tokenizer.decode(tokenizer.encode(grey)).astype(int) - 90).max() <= 1


def test_wrong_inputs_are_refused(ready: dict[ViTVQConfig, ViTVQ]) -> None:
    tokenizer = ready[RGB]
    with pytest.raises(ValueError, match="expected views of 16 x 16, got 8 x 8"):
        tokenizer.encode(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="expected uint8"):
        tokenizer.encode(np.zeros((1, 16, 16, 3), np.float32))
    with pytest.raises(ValueError, match="expected views of 16 x 16"):
        ViTVQ(RGB).fit(np.zeros((1, 16, 8, 3), np.uint8), scenes(0), steps=1)
    with pytest.raises(ValueError, match=r"expected tokens \(n, 16\)"):
        tokenizer.decode(np.zeros((1, 15), np.uint16))
    for wrong in (64, -1):
        with pytest.raises(ValueError, match=f"token {wrong} is outside the vocabulary of 64"):
            tokenizer.decode(np.full((1, 16), wrong, np.int64))
    with pytest.raises(ValueError, match="not finite"):
        ViTVQ(MAPS).fit(np.full((2, 4, 4, 12), np.nan, np.float16), data(MAPS, 0), steps=1)


def test_nothing_to_learn_from_and_nothing_learned_are_refused() -> None:
    with pytest.raises(FitError, match="rgb: no training view .* label it first"):
        ViTVQ(RGB).fit(scenes(0), scenes(1), steps=1)
    with pytest.raises(ValueError, match="not fitted"):
        ViTVQ(RGB).encode(scenes(1))
    with pytest.raises(ValueError, match="not fitted"):
        ViTVQ(RGB).decode(np.zeros((1, 16), np.uint16))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resolution": 18}, "no multiple of patch"),
        ({"size": "XXL"}, "unknown size 'XXL'; known: micro"),
        ({"vocab": 1}, "2..65536"),
        ({"vocab": 65537}, "2..65536"),
        ({"codebook": "fsq", "vocab": 300}, "fsq has grids for"),
    ],
)
def test_configs_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RGB, **values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pixels has 3 channel\(s\), not 1"):
        ViTVQ(replace(RGB, channels=1))


def test_fsq_takes_the_size_of_its_grid(ready: dict[ViTVQConfig, ViTVQ]) -> None:
    assert ready[CONFIGS[3]].vocab == int(np.prod(FSQ_LEVELS[256])) == 240


def test_positions_tell_every_place_apart() -> None:
    places = sincos_positions(14, 128)
    assert places.shape == (196, 128)
    apart = torch.cdist(places, places) + 99 * torch.eye(196)
    assert apart.min() > 0.1


def test_an_unfitted_network_is_its_linear_path() -> None:
    network = Network(RGB, 3).eval()
    images = torch.from_numpy(scenes(4)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        assert torch.equal(network.encoder(torch.zeros(1, 16, 48)), torch.zeros(1, 16, 32)), "the head starts at zero"
        assert network.draw(network.latents(images)).shape == images.shape
    assert SIZES["B"].width == 768 and SIZES["B"].depth == 12


@pytest.mark.parametrize("config", [RGB, EDGES, CLASSES])
def test_labels_that_are_all_alike_can_be_learned(config: ViTVQConfig) -> None:
    alike = np.repeat(data(config, 1)[:, :1, :1], SIDE, 1).repeat(SIDE, 2).repeat(16, 0)
    tokenizer = ViTVQ(config)
    tokenizer.fit(alike, alike[:0], steps=2, seed=0)
    assert np.abs(tokenizer.decode(tokenizer.encode(alike[:2])).astype(int) - alike[:2].astype(int)).max() <= 3
