"""Decoding: odd input becomes upright 8-bit RGB as promised, or one reason; errors of the system are no reasons."""

from __future__ import annotations

import io
import pickle
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labelers.core import images
from labelers.core.images import REASONS, BadImage, Limits, decode, decode_png, encode_png
from tests.labelers.corpus import Expected, corpus, jpeg, oriented_jpeg, png16, scene, to_bytes, write_corpus

CORPUS = corpus()


@pytest.mark.parametrize("name", CORPUS, ids=ascii)
def test_each_file_of_the_corpus_has_its_outcome(name: str) -> None:
    data, want = CORPUS[name]
    if want.reason:
        with pytest.raises(BadImage) as caught:
            decode(data)
        assert caught.value.reason == want.reason
        assert want.reason in REASONS
        assert "0x" not in caught.value.detail.replace("\\x", "")
        return
    got = decode(data)
    height, width, _ = got.image.shape
    assert Expected(notes=got.notes, canonical=got.canonical, size=(width, height), twin=want.twin) == want
    assert got.image.dtype == np.uint8
    assert got.image.flags.c_contiguous


@pytest.mark.parametrize(
    "name", [n for n, (_, want) in CORPUS.items() if want.canonical and n != "bad_exif.jpg"], ids=ascii
)
def test_canonical_bytes_mean_the_same_to_another_reader(name: str) -> None:
    data = CORPUS[name][0]
    other = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGR2RGB)
    assert np.abs(other.astype(int) - decode(data).image).max() <= 2  # JPEG decoders may round differently


def test_write_corpus_writes_what_it_promises(tmp_path: Path) -> None:
    wanted = write_corpus(tmp_path / "odd")
    assert {p.name for p in (tmp_path / "odd").iterdir()} == set(wanted)
    assert len(wanted) >= 60
    for name, want in wanted.items():
        if want.is_file:
            assert (tmp_path / "odd" / name).read_bytes() == CORPUS[name][0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_gives_the_upright_picture(orientation: int, fmt: str) -> None:
    upright = scene(40, 24)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    exact = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(fmt, {})
    got = decode(to_bytes(Image.fromarray(np.ascontiguousarray(stored)), fmt, exif=exif, **exact))
    assert got.image.shape == upright.shape
    assert np.abs(got.image.astype(int) - upright).mean() < (3 if fmt == "JPEG" else 1e-9)
    assert ("exif_oriented" in got.notes) == (orientation != 1)
    assert got.canonical == (orientation == 1 and fmt != "TIFF")


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_saturated(fmt: str) -> None:
    deep = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    got = decode(to_bytes(Image.fromarray(deep), fmt)).image
    assert (got == np.rint(deep / 257)[..., None]).all()
    assert got.max() == 255
    assert len(np.unique(got)) == 256


def test_16_bit_colour_keeps_its_range() -> None:
    deep = np.linspace(0, 65535, 48 * 32 * 3).astype(np.uint16).reshape(32, 48, 3)
    for data in (png16(deep), cv2.imencode(".tif", deep[..., ::-1])[1].tobytes()):
        got = decode(data)
        assert np.array_equal(got.image, deep >> 8) and np.abs(got.image - deep / 257).max() <= 1
        assert got.notes == ("16_bit",)


@pytest.mark.parametrize(("top", "scale"), [(1.0, 255), (255.0, 1)])
def test_floats_are_read_by_their_range(top: float, scale: int) -> None:
    values = np.linspace(0, top, 12 * 10, dtype=np.float32).reshape(10, 12)
    got = decode(to_bytes(Image.fromarray(values), "TIFF")).image
    assert (got[..., 0] == np.rint(values.astype(np.float64) * scale)).all()


def test_alpha_is_laid_over_white() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., 3] = [0, 128, 255]
    got = decode(to_bytes(Image.fromarray(rgba), "PNG")).image
    assert got[0, :, 0].tolist() == [255, 127, 0]


def test_transparent_colour_of_a_16_bit_png_is_white() -> None:
    deep = np.full((4, 4), 1000, np.uint16)
    deep[0, 0] = 77
    got = decode(to_bytes(Image.fromarray(deep), "PNG", transparency=77))
    assert "alpha_over_white" in got.notes
    assert got.image[0, 0].tolist() == [255] * 3
    assert got.image[1, 1].tolist() == [4] * 3


def test_cmyk_keeps_its_colours() -> None:
    red = np.tile(np.array([220, 30, 40], np.uint8), (16, 16, 1))
    got = decode(to_bytes(Image.fromarray(red).convert("CMYK"), "JPEG", quality=95)).image
    assert np.abs(got.astype(int) - red).max() < 12


def test_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (10, 200)]
    for fmt in ("PNG", "WEBP", "GIF", "TIFF"):
        got = decode(to_bytes(frames[0], fmt, save_all=True, append_images=frames[1:]))
        assert got.notes[0] == "first_frame"
        assert np.abs(got.image.astype(int) - 10).max() <= 2


def test_a_second_picture_behind_a_jpeg_is_ignored() -> None:
    both = to_bytes(Image.fromarray(scene()), "MPO", save_all=True, append_images=[Image.fromarray(scene(seed=9))])
    got = decode(both)
    assert (got.format, got.canonical, got.notes) == ("JPEG", True, ())


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_bytes=100), "too_many_bytes"),
        (Limits(max_pixels=1535), "too_many_pixels"),
        (Limits(max_side=47), "side_too_long"),
    ],
)
def test_limits_are_inclusive_and_named(limits: Limits, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(jpeg(scene()), limits)
    assert decode(jpeg(scene()), Limits(max_pixels=1536, max_side=48)).image.shape == (32, 48, 3)


@pytest.mark.parametrize("name", ["bomb.png", "too_many.png", "huge_canvas.webp"])
def test_sizes_are_judged_before_pixels_take_memory(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(BadImage):
        decode(CORPUS[name][0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device"), ImportError("no codec")])
@pytest.mark.parametrize("where", ["open", "load"])
def test_errors_of_the_system_are_not_reasons(error: Exception, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = to_bytes(Image.fromarray(scene()), "PNG")

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    target: tuple[object, str] = (images.Image, "open") if where == "open" else (images.Image.Image, "getexif")
    monkeypatch.setattr(*target, fail)
    if where == "load":
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(type(error)):
        decode(data)


def test_a_crash_inside_a_codec_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise KeyError("some table")

    data = jpeg(scene())
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(BadImage, match="damaged"):
        decode(data)


@settings(max_examples=300)
@given(
    name=st.sampled_from([n for n, (data, want) in CORPUS.items() if not want.reason and len(data) < 6000]),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6), end=st.floats(0.02, 1),
)  # fmt: skip
def test_damaged_bytes_give_an_image_or_a_reason(name: str, cuts: list[tuple[float, int]], end: float) -> None:
    data = bytearray(CORPUS[name][0])
    for at, value in cuts:
        data[int(at * (len(data) - 1))] = value
    reason = ""
    try:
        got = decode(bytes(data[: max(1, int(end * len(data)))]), Limits(max_pixels=2**20))
    except BadImage as bad:
        reason = bad.reason
    assert reason in REASONS or (got.image.dtype == np.uint8 and got.image.ndim == 3)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_cut_file_is_called_truncated(fmt: str, cut: float) -> None:
    whole = to_bytes(Image.fromarray(scene(240, 160)), fmt)
    with pytest.raises(BadImage, match="truncated"):
        decode(whole[: int(cut * len(whole))])


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_png_round_trip_and_same_bytes(width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    data = encode_png(pixels)
    assert data == encode_png(pixels.copy())
    again = decode(data)
    assert again.canonical
    assert (again.image == pixels).all()
    assert (decode_png(data) == pixels).all()
    assert (decode_png(encode_png(pixels[..., 0])) == pixels[..., 0]).all()


def test_bad_image_survives_the_way_between_processes() -> None:
    bad = pickle.loads(pickle.dumps(BadImage("truncated", "here")))  # noqa: S301 what an executor does to its own error
    assert (bad.reason, bad.detail, str(bad)) == ("truncated", "here", "truncated: here")


def test_real_photos_decode_as_pillow_reads_them(assets: Path) -> None:
    for path in sorted((assets / "images").glob("coco_*.jpg"))[:12]:
        data = path.read_bytes()
        got = decode(data)
        with Image.open(io.BytesIO(data)) as image:
            assert (got.image == np.asarray(image.convert("RGB"))).all()
        assert got.canonical == (not got.notes)


def test_oriented_helper_writes_what_the_camera_would() -> None:
    with Image.open(io.BytesIO(oriented_jpeg(scene(), 6))) as image:
        assert image.getexif()[images.ORIENTATION] == 6
