"""Pictures of 16 bits per channel, in and out, and what is written beside the pixels."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from conftest import smooth_picture
from image_files import png16, tiff16
from PIL import Image

from nstcore import images
from nstcore.errors import OptionError, OutputError, PictureError, ShapeError
from nstcore.images import depth, png, tiff

RNG = np.random.default_rng(0)
SAMPLES = RNG.integers(0, 65536, (21, 19, 4)).astype(np.uint16)
SAMPLES[..., 3] |= 256  # alpha of 1 at least also in 8 bits
PIXELS = smooth_picture(20, 30).transpose(2, 0, 1)
ALPHA = np.linspace(0, 1, 600).reshape(20, 30)

each_form = pytest.mark.parametrize(
    ("name", "bits"), [("p.png", 8), ("p.png", 16), ("p.tif", 8), ("p.tif", 16), ("p.jpg", 8), ("p.webp", 8)]
)


def as_samples(pixels):
    """Back to (H, W, C) uint16."""
    return np.rint(np.atleast_3d(pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels) * 65535).astype(np.uint16)


def filters(path):
    """The numbers of the filters of a PNG's rows, RGB of 16 bits."""
    content, at, rows = path.read_bytes(), 8, b""
    while at < len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        rows += content[at + 8 : at + 8 + length] if name == b"IDAT" else b""
        at += 12 + length
    (width,) = struct.unpack_from(">I", content, 16)
    return zlib.decompress(rows)[:: 1 + 6 * width]


def load(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    return images.load(tmp_path / name)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_is_read_at_its_16_bits(tmp_path, channels, interlaced):
    bands = {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]
    loaded = load(tmp_path, png16(SAMPLES[..., bands], interlaced), "p.png")
    assert loaded.bits == 16
    colours = SAMPLES[..., [0, 0, 0]] if channels < 3 else SAMPLES[..., :3]
    np.testing.assert_array_equal(as_samples(loaded.pixels), colours)
    if channels in (2, 4):
        np.testing.assert_array_equal(as_samples(loaded.alpha), SAMPLES[..., 3:])
    else:
        assert loaded.alpha is None


@pytest.mark.parametrize("channels", [1, 3])
def test_the_one_colour_that_a_png_calls_transparent_is_so(tmp_path, channels):
    samples = SAMPLES[..., :channels].copy()
    samples[3, 4] += 1  # a neighbour that equals it in the high bytes only
    samples[5, 6] = samples[3, 4] ^ 1
    key = struct.pack(f">{channels}H", *samples[3, 4])
    loaded = load(tmp_path, png16(samples, chunks=[(b"tRNS", key)]), "p.png")
    assert np.argwhere(loaded.alpha == 0).tolist() == [[3, 4]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("compression", ["none", "deflate", "lzw", "deflate predictor", "lzw predictor", "planar"])
def test_a_tiff_is_read_at_its_16_bits(tmp_path, compression, channels, order):
    options = {"compression": compression.split()[0], "predictor": "predictor" in compression}
    if compression == "planar":
        options = {"planar": True}
    loaded = load(tmp_path, tiff16(SAMPLES[..., :channels], order, **options), "p.tif")
    assert loaded.bits == 16
    np.testing.assert_array_equal(as_samples(loaded.pixels), SAMPLES[..., :3])
    if channels == 4:
        np.testing.assert_array_equal(as_samples(loaded.alpha), SAMPLES[..., 3:])


@pytest.mark.parametrize("planar", [False, True])
def test_colours_that_a_tiff_has_multiplied_by_alpha_are_divided_again(tmp_path, planar):
    premultiplied = SAMPLES.copy()
    premultiplied[..., :3] = np.rint(SAMPLES[..., :3] * (SAMPLES[..., 3:] / 65535))
    loaded = load(tmp_path, tiff16(premultiplied, planar=planar, premultiplied=True), "p.tif")
    error = np.abs(as_samples(loaded.pixels).astype(int) - SAMPLES[..., :3]) * (SAMPLES[..., 3:] / 65535)
    assert error.max() <= 1


def test_where_the_low_bytes_are_out_of_reach_8_bits_are_read_and_said(tmp_path):
    loaded = load(tmp_path, tiff16(SAMPLES[..., :3], compression="deflate", planar=True), "p.tif")
    assert loaded.bits == 8
    np.testing.assert_array_equal(images.to_uint8(loaded.pixels), SAMPLES[..., :3] >> 8)


def test_where_this_pillow_lacks_a_raw_mode_8_bits_are_read_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(depth, "_OTHER", {"B": "?", "L": "?"})
    loaded = load(tmp_path, png16(SAMPLES[..., :3]), "p.png")
    assert loaded.bits == 8
    np.testing.assert_array_equal(images.to_uint8(loaded.pixels), SAMPLES[..., :3] >> 8)


@pytest.mark.parametrize("turned", [False, True])
def test_both_bytes_of_a_photograph_are_turned_upright(tmp_path, turned):
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    loaded = load(tmp_path, png16(SAMPLES[..., :3], chunks=[(b"eXIf", exif.tobytes()[6:])]), "p.png")
    expected = np.rot90(SAMPLES[..., :3], -1) if turned else SAMPLES[..., :3]
    np.testing.assert_array_equal(as_samples(loaded.pixels), expected)


@pytest.mark.parametrize("cut", [0.5, 0.9])
@pytest.mark.parametrize("name", ["p.png", "p.tif"])
def test_a_truncated_picture_of_16_bits_is_refused(tmp_path, name, cut):
    content = png16(SAMPLES) if name == "p.png" else tiff16(SAMPLES)
    with pytest.raises(PictureError, match=r"p\.") as caught:
        load(tmp_path, content[: int(cut * len(content))], name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (33, 47), (130, 350)])
@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("name", ["p.png", "p.tif"])
def test_what_is_written_in_16_bits_is_read_back_exactly(tmp_path, name, with_alpha, shape):
    pixels = np.linspace(0, 1, 3 * shape[0] * shape[1]).reshape(3, *shape) ** 0.5
    pixels = np.clip(pixels + RNG.normal(0, 0.02, pixels.shape), 0, 1)
    alpha = RNG.uniform(0.01, 0.99, shape) if with_alpha else None
    images.write_picture(tmp_path / name, pixels, {"seed": 1}, alpha=alpha, bits=16)
    loaded = images.load(tmp_path / name)
    assert loaded.bits == 16
    np.testing.assert_array_equal(as_samples(loaded.pixels), as_samples(pixels))
    if with_alpha:
        np.testing.assert_array_equal(as_samples(loaded.alpha), as_samples(alpha))


def test_every_filter_of_a_png_is_used_and_undone_from_block_to_block(tmp_path, monkeypatch):
    monkeypatch.setattr(png, "_ROWS_BYTES", 1000)  # a few rows at a time
    y, x = np.mgrid[:60, :40]
    noise, sums = RNG.integers(0, 65536, (60, 40)), RNG.integers(0, 40, (2, 60, 40))
    parts = [noise, 300 * x, 500 * y, 700 * np.maximum(x, y) + noise % 9, sums[0].cumsum(1) + sums[1].cumsum(0)]
    used = set()
    for part in parts:
        samples = np.repeat(part[..., None], 3, axis=2).astype(np.uint16)
        images.write_picture(tmp_path / "p.png", samples.transpose(2, 0, 1) / 65535, bits=16)
        np.testing.assert_array_equal(as_samples(images.load(tmp_path / "p.png").pixels), samples)
        used.update(filters(tmp_path / "p.png"))
    assert used == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("width", range(7, 12))
def test_everything_in_a_tiff_begins_at_an_even_byte(tmp_path, width):
    images.write_picture(tmp_path / "p.tif", PIXELS[..., :width], {"seed": "1" * width})
    content = (tmp_path / "p.tif").read_bytes()
    (directory,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, directory)
    entries = [struct.unpack_from("<HHII", content, directory + 2 + 12 * i) for i in range(count)]
    sizes = {2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
    outside = [value for tag, kind, n, value in entries if n * sizes[kind] > 4 or tag == 273]
    assert len(outside) >= 5
    assert not any(offset % 2 for offset in [directory, *outside])


@each_form
@pytest.mark.parametrize("with_alpha", [False, True])
def test_every_form_opens_elsewhere_and_carries_its_settings(tmp_path, name, bits, with_alpha):
    metadata = {"settings": {"seed": 3, "name": "n\u00f6"}, "note": "x" * 3000}
    alpha = ALPHA if with_alpha else None
    images.write_picture(tmp_path / name, PIXELS, metadata, alpha=alpha, bits=bits)
    assert images.read_metadata(tmp_path / name) == metadata
    with Image.open(tmp_path / name) as image:
        image.load()
        assert image.size == (30, 20)
        assert image.mode == ("RGBA" if with_alpha and name != "p.jpg" else "RGB")
        rgb = np.asarray(image.convert("RGB"), float) / 255
    if not (with_alpha and name == "p.jpg"):
        shown = np.s_[10:] if with_alpha else np.s_[:]  # a lossy WebP is free where little is visible
        assert np.abs(rgb[shown] - PIXELS.transpose(1, 2, 0)[shown]).mean() < (
            0.004 if name[2:] in ("png", "tif") else 0.03
        )


@each_form
def test_the_same_pixels_and_settings_are_the_same_bytes(tmp_path, name, bits, monkeypatch):
    written = []
    for now in (1e9, 1.7e9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        images.profiles.srgb_profile.cache_clear()
        images.write_picture(tmp_path / name, PIXELS, {"seed": 1}, alpha=ALPHA, bits=bits)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_says_that_it_is_srgb(tmp_path, bits):
    images.write_picture(tmp_path / "p.png", PIXELS, bits=bits)
    with Image.open(tmp_path / "p.png") as image:
        assert image.info["srgb"] == 0


@pytest.mark.parametrize("name", ["p.tif", "p.jpg", "p.webp"])
def test_other_formats_carry_the_profile_of_srgb_without_a_date(tmp_path, name):
    images.write_picture(tmp_path / name, PIXELS)
    with Image.open(tmp_path / name) as image:
        profile = image.info["icc_profile"]
    assert profile == images.profiles.srgb_profile()
    assert profile[24:36] == bytes(12)


def test_in_a_jpeg_what_is_transparent_stands_on_white(tmp_path):
    images.write_picture(
        tmp_path / "p.jpg", np.zeros((3, 32, 32)), alpha=np.repeat([0.0, 1.0], 16)[:, None].repeat(32, 1)
    )
    pixels = images.as_pixels(tmp_path / "p.jpg")
    assert pixels[:, :14].min() > 0.95
    assert pixels[:, 18:].max() < 0.05


def test_quality_makes_files_smaller_and_webp_at_100_loses_nothing(tmp_path):
    sizes = {}
    for name in ("p.jpg", "p.webp"):
        for quality in (20, 90):
            images.write_picture(tmp_path / name, PIXELS, quality=quality)
            sizes[name, quality] = (tmp_path / name).stat().st_size
        assert sizes[name, 20] < sizes[name, 90]
    images.write_picture(tmp_path / "p.webp", PIXELS, alpha=ALPHA, quality=100)
    with Image.open(tmp_path / "p.webp") as image:
        np.testing.assert_array_equal(np.asarray(image)[..., :3], images.to_uint8(PIXELS))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("p.jpg", {"bits": 16}, OptionError, "end the name in .png or .tif"),
        ("p.webp", {"bits": 16}, OptionError, "end the name in .png or .tif"),
        ("p.png", {"bits": 12}, OptionError, "expected 8 or 16"),
        ("p.png", {"quality": 90}, OptionError, "lossless"),
        ("p.jpg", {"quality": 0}, OptionError, "1 to 100"),
        ("p.webp", {"shape": (100, 20000)}, OutputError, "16383"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_beforehand_in_one_line(tmp_path, name, options, error, message):
    with pytest.raises(error, match=message) as caught:
        images.check_output(tmp_path / name, **options)
    assert "\n" not in str(caught.value)
    if "shape" not in options:
        with pytest.raises(error, match=message):
            images.write_picture(tmp_path / name, PIXELS, **options)
    assert not list(tmp_path.iterdir())


def test_an_alpha_of_another_size_is_refused(tmp_path):
    with pytest.raises(ShapeError, match="alpha"):
        images.write_picture(tmp_path / "p.png", PIXELS, alpha=ALPHA[:-1])


def test_settings_too_long_for_a_jpeg_are_refused(tmp_path):
    with pytest.raises(OutputError, match="JPEG cannot carry"):
        images.write_picture(tmp_path / "p.jpg", PIXELS, {"a": "x" * 70000})
    assert not list(tmp_path.iterdir())


def test_a_tiff_beyond_4_gib_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "_MOST_BYTES", 1000)
    with pytest.raises(OutputError, match="4 GiB"):
        images.write_picture(tmp_path / "p.tif", PIXELS)
    assert not list(tmp_path.iterdir())
