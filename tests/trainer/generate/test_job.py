"""`manymodal generate` on a small data set: shards that verify, recipes that say what made them, a page, clear errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelers.core.modality import Null
from labelers.core.registry import all_modalities
from pipeline.care.verify import verify
from pipeline.cli.care import reader_of
from pipeline.cli.use import run_generate, run_tour
from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from tests.tokenize_shards.small import SILENT, number_of
from tests.trainer.trained import config_of
from tokenize_shards.grammar import decode_palette
from tokenize_shards.wordpiece import WordPiece, base_pieces
from trainer.generate.chain import in_order
from trainer.generate.given import READERS, region
from trainer.generate.job import Job
from trainer.generate.order import make_order
from trainer.generate.stops import Way
from trainer.generate.tour import Tour
from trainer.lexicon import Lexicon
from trainer.predict import Predictor


def generate(
    root: Path, sources: list[str], targets: list[str], given: dict[str, str] | None = None, **more: Any
) -> Any:
    special = more.pop("special", [])
    options = {n: more.pop(n) for n in list(more) if n in RUN}
    common = {"steps": 3, **more}
    return run_generate(config_of(root), sources, targets, given or {}, common, special, quiet=True, **options)


RUN = {"chain", "as_written", "dense", "rows", "samples", "view", "variants", "model", "out", "write"}


def test_labels_of_a_recipe_of_their_own(trained: Path) -> None:
    ds = Dataset.open(str(trained))
    before = ds.manifest()
    report = generate(trained, ["rgb"], ["canny_edge", "caption", "metadata"], rows=0, temperature=1.0)
    assert ds.manifest() == before, "nothing becomes current by itself"
    refs = dict(ref.split("@") for ref in report["recipes"])
    assert sorted(refs) == ["canny_edge", "caption", "metadata"]
    recipe = ds.recipe(refs["caption"])
    record_digest = Lexicon(ds).digest("tok_caption")
    assert recipe["labeler"] == "generate" and recipe["weights"]["tokenizer"]["sha256"] == record_digest
    assert recipe["params"]["decoding"]["tok_caption"] == {
        "order": "auto", "steps": 3, "counts": "cosine", "temperature": 1.0, "cooling": "constant", "top_k": 0,
        "top_p": 1.0, "guidance": 1.0, "weights": {}, "seed": 0,
    }  # fmt: skip
    assert re.fullmatch("[0-9a-f]{64}", recipe["weights"]["model"]["sha256"])
    assert list(recipe["reads"]) == ["tok_rgb"] and recipe["params"]["chain"] == ["tok_canny_edge", "tok_caption"]
    edges = [x for k in ds.shards() for x in ds.labels(all_modalities()["canny_edge"], k, refs["canny_edge"])]
    assert len(edges) == 9 and all(isinstance(e, np.ndarray) and set(np.unique(e)) <= {0, 255} for e in edges)
    assert verify(ds, reader_of) == [], "generated shards are as sound as any"


def test_the_same_seed_gives_the_same_bytes(trained: Path) -> None:
    ds = Dataset.open(str(trained))
    refs = []
    for seed in (1, 1, 2):
        report = generate(trained, ["rgb"], ["canny_edge"], rows=0, temperature=1.0, seed=seed)
        refs.append(tuple(report["recipes"][0].split("@")))
    assert refs[0] == refs[1] != refs[2]
    digests = [[ds.commit_of(m, r, k).sha256 for k in ds.shards()] for m, r in refs]  # type: ignore[union-attr]
    assert digests[0] == digests[1] != digests[2]
    one = generate(trained, ["rgb"], ["canny_edge"], samples=[ds.ids(1)[2]], temperature=1.0, seed=1)["recipes"][0]
    name, recipe = one.split("@")
    alone = ds.labels(all_modalities()[name], 1, recipe)
    whole = ds.labels(all_modalities()[name], 1, refs[0][1])
    assert np.array_equal(alone[2], whole[2]), "a sample is generated alike in any company"
    assert all(isinstance(x, Null) and x.reason == "not asked for" for i, x in enumerate(alone) if i != 2)


def test_pictures_are_a_modality_of_their_own(trained: Path) -> None:
    report = generate(trained, [], ["rgb"], {"rgb": "left"}, rows=2, variants=2, temperature=1.0)
    assert report["recipes"][0].startswith("generated_rgb@")
    page = Path(report["page"]).read_text()
    assert page.count("generated</small>") == 2 and "given in part" in page and "data:image/" in page
    assert "sha256" in page and "http" not in page.replace("http-equiv", "")


def test_what_a_sample_lacks_is_a_null_with_the_reason(trained: Path) -> None:
    ds = Dataset.open(str(trained))
    ref = generate(trained, ["caption"], ["canny_edge"], rows=0)["recipes"][0].split("@")[1]
    for k in ds.shards():
        for row, label in enumerate(ds.labels(all_modalities()["canny_edge"], k, ref)):
            silent = number_of(ds, k, row) == SILENT
            assert isinstance(label, Null) == silent
            if silent:
                assert label.reason == "the sample has none of what it is generated from"


def test_chaining_conditions_the_next_and_can_be_switched_off(trained: Path) -> None:
    assert in_order(["tok_metadata", "tok_rgb@448", "tok_caption", "tok_rgb", "tok_dinov2", "tok_mine"]) == [
        "tok_dinov2", "tok_rgb", "tok_rgb@448", "tok_caption", "tok_metadata", "tok_mine"
    ]  # fmt: skip
    ds = Dataset.open(str(trained))
    chained = generate(trained, ["rgb"], ["metadata", "canny_edge"], rows=2)["recipes"]
    apart = generate(trained, ["rgb"], ["metadata", "canny_edge"], rows=2, chain=False)["recipes"]
    params = [
        {r.split("@")[0]: ds.recipe(r.split("@")[1])["params"]["chain"] for r in refs} for refs in (chained, apart)
    ]
    assert params[0]["metadata"] == ["tok_canny_edge", "tok_metadata"] and params[1]["metadata"] == ["tok_metadata"]


def made(ds: Dataset, name: str, recipe: str) -> list[Any]:
    """The labels of the shards that were written, without the nulls."""
    labels = [x for k in ds.commits(name, recipe) for x in ds.labels(all_modalities()[name], k, recipe)]
    return [label for label in labels if not isinstance(label, Null)]


def test_things_given_by_hand(trained: Path) -> None:
    ds = Dataset.open(str(trained))
    given = {"color_palette": "#ff0000 #0000ff", "metadata": "brightness=200 colorfulness=10", "caption": "a ... table"}
    report = generate(
        trained, [], ["metadata", "caption", "canny_edge"], given, rows=1, special=["caption:temperature=1"]
    )
    refs = dict(ref.split("@") for ref in report["recipes"])
    (values,) = [label["values"] for label in made(ds, "metadata", refs["metadata"])]
    assert values["brightness"] == pytest.approx(200, abs=3) and values["colorfulness"] == pytest.approx(10, abs=3)
    (text,) = made(ds, "caption", refs["caption"])
    assert text.startswith("a ") and text.endswith("table")
    assert ds.recipe(refs["caption"])["params"]["decoding"]["tok_caption"]["temperature"] == 1


@pytest.mark.parametrize(
    ("sources", "targets", "more", "says"),
    [
        (["rgb"], ["depth"], {}, "depth: the data set has no tokens of it"),
        (["rgb"], [], {}, "name what to generate"),
        (["rgb"], ["rgb"], {}, "nothing to generate. Give a part: --given rgb=left"),
        (["rgb"], ["caption"], {"order": "roar"}, "cannot be decoded in the order 'roar'"),
        (["rgb"], ["caption"], {"order": "best"}, "'best' is not one of"),
        (["rgb"], ["caption"], {"view": 5}, "view 5: tok_rgb has views 0..1"),
        (["rgb"], ["caption"], {"weights": {"metadata": "2"}}, "guidance weight of tok_metadata"),
        (["rgb"], ["caption"], {"special": ["caption:heat=1"]}, "unknown setting 'heat'"),
        (["rgb"], ["caption"], {"given": {"metadata": "size=3"}}, "no field=value"),
        (["rgb"], ["caption"], {"given": {"metadata": "brightness=nan"}}, "brightness='nan' is no number"),
        (["rgb"], ["canny_edge"], {"special": ["canny_edge:steps=2.5"]}, "steps: 2.5 is no whole number"),
        (["rgb"], ["canny_edge"], {"special": ["canny_edge:temperature=hot"]}, "temperature: 'hot' is no number"),
        ([], ["rgb"], {"given": {"rgb": "left"}, "view": 7}, "view 7: tok_rgb has views 0..1"),
        (["rgb"], ["caption"], {"given": {"color_palette": "red"}}, "expected 1 to 7 colours"),
        (["rgb"], ["caption"], {"given": {"rgb": "upper"}}, "no such region"),
        (["rgb"], ["caption"], {"model": "other"}, "holds no checkpoint"),
        (["rgb"], ["caption"], {"samples": ["nobody.png"]}, "no sample has this id"),
    ],
)  # fmt: skip
def test_what_cannot_be_generated_is_refused_in_words(
    trained: Path, sources: list[str], targets: list[str], more: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        generate(trained, sources, targets, rows=1, write=False, **more)


def test_a_common_order_is_for_those_that_can_have_it(trained: Path) -> None:
    report = generate(trained, ["rgb"], ["canny_edge", "caption"], order="maskgit", rows=1)
    assert {ref.split("@")[0] for ref in report["recipes"]} == {"canny_edge", "caption"}


@pytest.mark.parametrize("text", ["dog 10 20 50 90", "dog 0.5 0.1 0.2 0.9", "dog 0 0 nan 1", "dog 0 0 1"])
def test_boxes_by_hand_are_shares_of_the_picture(text: str) -> None:
    with pytest.raises(ConfigError, match=r"x0 y0 x1 y1 in 0\.\.1"):
        READERS["det"](WordPiece(base_pieces()), text)


def test_a_checkpoint_of_another_vocabulary_is_refused(trained: Path) -> None:
    from tests.tokenize_shards.small import small_config
    from tokenize_shards.fit import fit_all
    from tokenize_shards.tokenize import tokenize

    ds = Dataset.open(str(trained))
    config = small_config(trained, views=2, seed=5)
    fit_all(ds, config, ["tok_canny_edge"], True, lambda *_: None)
    tokenize(ds, config, ["tok_canny_edge"])
    with pytest.raises(ConfigError, match=r"trained on tok_canny_edge@\w+, .* of another tokenizer"):
        generate(trained, ["rgb"], ["canny_edge"], rows=1, write=False)
    generate(trained, ["rgb"], ["caption"], rows=1, write=False)


def test_palettes_have_every_size(trained: Path) -> None:
    ds = Dataset.open(str(trained))
    ref = generate(trained, ["caption"], ["canny_edge", "color_palette"], rows=0, temperature=1.0)["recipes"][1]
    labels = made(ds, *ref.split("@"))
    assert len(labels) == 8, "the one without a caption has none"
    assert [[len(palette) for palette in label] for label in labels] == [[1, 2, 3, 4, 5, 6, 7]] * 8
    assert verify(ds, reader_of) == []


def test_what_comes_after_a_palette_sees_the_largest_of_its_label(trained: Path) -> None:
    ds, model = Dataset.open(str(trained)), Predictor.load(trained / "_models" / "model")
    spots = [(k, i) for k in ds.shards() for i in range(len(ds.ids(k)))]
    order = make_order(
        ds, ["rgb"], ["color_palette", "canny_edge"], {}, {"temperature": 1.0}, [], True, True, 0, 0, 1, "model"
    )
    job = Job(ds, model, order)
    results = list(job.run(spots))
    for label, result in zip(job.labels("tok_color_palette", results), results, strict=True):
        ids = result.tokens[0]["tok_color_palette"].tolist()
        assert np.array_equal(decode_palette(ids)[0], label[6]) and len(ids) == 1 + 3 * 7, result.id


def test_the_tour_shows_every_way_to_steer(trained: Path) -> None:
    page = Path(run_tour(config_of(trained), rows=1)).read_text()
    for words in (
        "Guidance: canny_edge from rgb", "Palettes: rgb from a palette alone", "Palettes with canny_edge: rgb from both",
        "brightness 220", "border given", "palettes: the palette asked for is the nearest of the 5",
    ):  # fmt: skip
        assert words in page
    assert "Chaining: color_palette, then rgb, from caption" in page and page.count("generated first</small>") == 1
    assert page.count("generated</small>") == 3 + 2 + 6 + 6 + 3 + 4 and page.count(">given to all<") == 3
    assert (
        "guidance: correlation, weight 0 → weight 3" in page
        and "inpainting: seam, left, pasted over → left given" in page
    )


def test_what_is_given_stays_and_what_is_pasted_is_the_same_picture_without_it(trained: Path) -> None:
    ds, model = Dataset.open(str(trained)), Predictor.load(trained / "_models" / "model")
    tour = Tour(ds, model, "model", [(0, 0), (0, 1)], 0)
    given, pasted = Way("a", given=(("rgb", "left"),)), Way("b", pasted="left")
    with_it, without = (tour.make(tour.job(way, "rgb"), way, "rgb")[0] for way in (given, pasted))
    known = region(tour.lexicon.spec("tok_rgb"), "left", "")
    for one, other in zip(with_it, without, strict=True):
        own = tour.job(given, "rgb").own("tok_rgb", one.spot)
        assert own is not None and known.any() and not known.all()
        assert np.array_equal(one.tokens[0]["tok_rgb"][known], own[known])
        assert np.array_equal(other.tokens[0]["tok_rgb"][known], own[known])
    free = next(tour.job(Way("c"), "rgb").run([(0, 0)])).tokens[0]["tok_rgb"]
    assert np.array_equal(without[0].tokens[0]["tok_rgb"][~known], free[~known])
