"""The token table: rows hold together, grids follow sizes, and a wrong name or setting is told with the nearest one."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict

import pytest

from labelers.core.registry import all_labelers, all_modalities
from tokenize_shards.kinds import make_tokenizer
from tokenize_shards.table import (
    GRAMMARS,
    PROFILES,
    TokenSpec,
    configure,
    get_spec,
    image_row,
    sequence_row,
    specs,
    vector_row,
)
from tokenize_shards.vit_vq import ViTVQ


@pytest.mark.parametrize("profile", PROFILES)
def test_every_row_holds_together(profile: str) -> None:
    known, table = all_modalities(), specs(profile)
    for name, spec in table.items():
        large = f"@{spec.size}" if spec.kind != "values" else "_pixels"
        assert name == spec.name == f"tok_{spec.modality}{large if spec.extra else ''}"
        assert (spec.stream == "sequence") == (spec.content in GRAMMARS)
        assert spec.owner in table and not table[spec.owner].shares
        assert table[spec.owner].vocab == spec.vocab and table[spec.owner].content == spec.content
        if spec.kind == "mlp_pq" and spec.modality in known:
            assert known[spec.modality].kind == "vector"
        if spec.content == "features" and spec.modality in known:
            assert known[spec.modality].kind == "features"
        if spec.grid is not None:
            assert spec.grid[0] * spec.grid[1] == (spec.tokens or spec.max_tokens) == spec.length
        if spec.tokens is None:
            assert spec.length == spec.max_tokens


def test_published_rows_are_those_of_4m() -> None:
    table = specs("published")
    assert (table["tok_rgb"].vocab, table["tok_rgb"].tokens) == (16384, 196)
    assert (table["tok_canny_edge"].vocab, table["tok_canny_edge"].tokens) == (8192, 196)
    assert (table["tok_dinov2"].vocab, table["tok_dinov2"].grid) == (8192, (16, 16))
    assert (table["tok_dinov2_global"].vocab, table["tok_dinov2_global"].tokens) == (8192, 16)
    assert [table[f"tok_{name}"].max_tokens for name in ("caption", "color_palette", "human_poses")] == [256, 23, 275]
    assert set(table) == set(specs("offline"))
    for name in ("depth", "normal", "canny_edge", "sam_edge"):
        assert (table[f"tok_{name}"].vocab, table[f"tok_{name}"].grid) == (8192, (14, 14))
    assert (table["tok_semseg"].vocab, table["tok_semseg"].channels) == (4096, 134)
    assert [table[f"tok_{name}"].tokens for name in ("clip", "imagebind")] == [196, 256]
    assert table["tok_det"].max_tokens == 256
    assert (table["tok_rgb_pixels"].grid, table["tok_rgb_pixels"].extra) == ((14, 14), True)
    large = {name: spec for name, spec in table.items() if spec.extra and spec.tokens}
    assert set(large) == {f"tok_{name}@448" for name in ("rgb", "depth", "normal", "semseg", "clip")}
    assert all(spec.tokens == 784 and spec.vocab == table[name[:-4]].vocab for name, spec in large.items())


@pytest.mark.parametrize("profile", PROFILES)
def test_every_row_with_a_network_can_be_made(profile: str) -> None:
    table = specs(profile)
    for name, spec in table.items():
        if spec.kind == "vit_vq" and not spec.shares:
            made = make_tokenizer(dataclasses.replace(spec, channels=spec.channels or 768))
            assert (made.vocab, made.tokens) == (spec.vocab, spec.tokens), name
            sharing = [row for row in table.values() if row.owner == name]
            cell = spec.patch if spec.content == "features" else 1
            assert isinstance(made, ViTVQ) and {row.size // cell for row in sharing} <= set(made.sides), name
        elif spec.kind == "mlp_pq":
            made = make_tokenizer(dataclasses.replace(spec, channels=spec.channels or 768))
            assert (made.vocab, made.tokens) == (spec.vocab, 16)


def test_modalities_computed_on_one_view_look_at_one_size() -> None:
    for profile in PROFILES:
        assert specs(profile)["tok_dinov2"].size == specs(profile)["tok_dinov2_global"].size


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "rgb"}, "must start with 'tok_'"),
        ({"kind": "sequence"}, "'pixels' is no grammar"),
        ({"kind": "sequence", "content": "det"}, "a sequence has max_tokens"),
        ({"content": "det"}, "'det' is not known; use one of pixels"),
        ({"max_tokens": 5}, "no max_tokens"),
        ({"vocab": None}, "has vocab and tokens"),
        ({"vocab": 65537}, "does not fit uint16"),
        ({"vocab": 1}, "does not fit uint16"),
        ({"patch": 0}, "not a multiple of patch"),
        ({"patch": 5}, "not a multiple of patch"),
        ({"tokens": 3}, "size 8 and patch 4 make 4"),
    ],
)
def test_rows_that_do_not_hold_together_are_refused(values: dict[str, object], message: str) -> None:
    right = asdict(image_row("rgb", 8, 4, 3, 16))
    with pytest.raises(ValueError, match=message):
        TokenSpec(**(right | values))


def test_settings_replace_values_and_the_grid_follows() -> None:
    spec = get_spec("tok_rgb", size=64, patch=16, params={"lr": 1e-4})
    assert (spec.tokens, spec.grid, spec.params["lr"]) == (16, (4, 4), 1e-4)
    assert spec.vocab == specs()["tok_rgb"].vocab
    kept = configure(image_row("rgb", 8, 4, 3, 16, lr=1.0, batch=2), {"params": {"lr": 2.0}})
    assert kept.params == {"lr": 2.0, "batch": 2}
    assert configure(vector_row("x", 0, 8, 16), {"tokens": 4}).length == 4
    assert configure(sequence_row("caption", 9), {"max_tokens": 4}).length == 4


def test_unknown_names_and_settings_name_the_nearest() -> None:
    with pytest.raises(ValueError, match="offline, published"):
        specs("offlin")
    with pytest.raises(KeyError, match="did you mean 'tok_caption'"):
        get_spec("tok_captoin")
    with pytest.raises(ValueError, match="unknown setting 'vocabs'; did you mean 'vocab'"):
        get_spec("tok_rgb", vocabs=3)
    with pytest.raises(ValueError, match="not a multiple of patch"):
        get_spec("tok_rgb", patch=9)


def test_a_package_brings_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    labeler = type("Brought", (), {"tokens": (vector_row("brought", 0, 8, 16, tokens=2),)})
    monkeypatch.setitem(all_labelers(), "brought", labeler)
    assert list(specs())[-1] == "tok_brought"
    assert get_spec("tok_brought").stream == "vector"
    monkeypatch.setitem(all_labelers(), "again", type("Again", (), {"tokens": (sequence_row("caption", 3),)}))
    with pytest.raises(ValueError, match="'tok_caption', which exists already"):
        specs()
