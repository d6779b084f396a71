"""Colour profiles: whatever a file's numbers mean, the pixels are sRGB."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from conftest import smooth_picture
from image_files import (
    ADOBE_RGB,
    corner_profile,
    gamma_curve,
    grey_profile,
    matrix_profile,
    parametric_curve,
    png16,
    table_curve,
    tiff16,
)
from PIL import Image, ImageCms

from nstcore import images
from nstcore.images import profiles

PICTURE = (smooth_picture(20, 30) * 255).astype(np.uint8)
SAMPLES = np.rint(smooth_picture(24, 36) * 65535).astype(np.uint16)
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
CURVES = {
    "gamma": gamma_curve(563 / 256),
    "table": table_curve(np.linspace(0, 1, 400) ** 1.8),
    "parametric 0": parametric_curve(0, 2.2),
    "parametric 1": parametric_curve(1, 2.2, 1.1, -0.1),
    "parametric 2": parametric_curve(2, 2.0, 0.9, -0.05, 0.05),
    "parametric 3": parametric_curve(3, *SRGB_CURVE),
    "parametric 4": parametric_curve(4, 2.4, 0.9, 0.05, 0.07, 0.04, 0.01, 0.003),
}
ADOBE = matrix_profile(ADOBE_RGB, CURVES["gamma"])
LEVEL = 1 / 255


def littlecms(image: Image.Image, profile: bytes) -> np.ndarray:
    """sRGB (H, W, 3) as Pillow's library converts it, 8 bits."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(converted) / 255


def save(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["p.png", "p.tif", "p.jpg", "p.webp"])
def test_a_wide_picture_becomes_srgb_from_every_format(tmp_path, name):
    lossless = {"lossless": True} if name == "p.webp" else {"quality": 100} if name == "p.jpg" else {}
    path = save(tmp_path, Image.fromarray(PICTURE), name, icc_profile=ADOBE, **lossless)
    pixels = images.as_pixels(path).transpose(1, 2, 0)
    with Image.open(path) as stored:
        expected = littlecms(stored.convert("RGB"), ADOBE)
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    assert np.abs(pixels - PICTURE / 255).max() > 5 * LEVEL


@pytest.mark.parametrize("curve", CURVES)
def test_16_bits_are_converted_as_the_library_converts_8(tmp_path, curve):
    profile = matrix_profile(ADOBE_RGB, CURVES[curve])
    path = tmp_path / "p.tif"
    path.write_bytes(tiff16(SAMPLES, profile=profile))
    loaded = images.load(path)
    assert loaded.bits == 16
    rounded = np.rint(SAMPLES / 257).astype(np.uint16)
    path.write_bytes(tiff16(rounded * 257, profile=profile))
    same = images.load(path).pixels.transpose(1, 2, 0)
    error = np.abs(same - littlecms(Image.fromarray(rounded.astype(np.uint8)), profile))
    assert np.quantile(error, 0.95) <= 0.6 * LEVEL
    if curve not in ("parametric 2", "parametric 4"):  # of a black that is not 0 the library makes a coarse table
        assert error.max() <= 0.7 * LEVEL


def test_between_the_levels_of_8_bits_a_converted_ramp_stays_a_ramp(tmp_path):
    ramp = np.linspace(20000, 22000, 400).astype(np.uint16)
    path = tmp_path / "p.tif"
    path.write_bytes(tiff16(np.repeat(ramp.reshape(20, 20, 1), 3, axis=2), profile=ADOBE))
    pixels = images.load(path).pixels
    assert len(np.unique(pixels[0])) == 400
    np.testing.assert_allclose(pixels[0], pixels[2], atol=LEVEL / 50)  # grey stays grey


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("curve", ["gamma", "table"])
def test_a_grey_picture_follows_its_grey_profile(tmp_path, bits, curve):
    profile = grey_profile(CURVES[curve])
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(grey if bits == 8 else grey.astype(np.uint16) * 257)
    loaded = images.load(save(tmp_path, image, "p.tif", icc_profile=profile))
    assert loaded.bits == bits
    expected = littlecms(Image.fromarray(grey), profile)
    np.testing.assert_allclose(loaded.pixels.transpose(1, 2, 0), expected, atol=1.5 * LEVEL)
    assert np.abs(loaded.pixels[0] - grey / 255).max() > 2 * LEVEL


def test_a_grey_png_with_alpha_follows_its_grey_profile_at_16_bits(tmp_path):
    profile = grey_profile(CURVES["gamma"])
    chunk = (b"iCCP", b"grey\0\0" + zlib.compress(profile))
    (tmp_path / "p.png").write_bytes(png16(SAMPLES[..., :2] | 1, chunks=[chunk]))
    (tmp_path / "q.png").write_bytes(png16(SAMPLES[..., :1] | 1, chunks=[chunk]))
    with_alpha, opaque = images.load(tmp_path / "p.png"), images.load(tmp_path / "q.png")
    assert (with_alpha.bits, opaque.alpha) == (16, None)
    np.testing.assert_array_equal(with_alpha.pixels, opaque.pixels)
    assert np.abs(with_alpha.pixels[0] - (SAMPLES[..., 0] | 1) / 65535).max() > 2 * LEVEL


def test_a_grey_picture_with_a_profile_of_colour_is_converted_all_the_same(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    eight = images.as_pixels(save(tmp_path, Image.fromarray(grey), "p.png", icc_profile=ADOBE))
    sixteen = images.load(save(tmp_path, Image.fromarray(grey.astype(np.uint16) * 257), "q.tif", icc_profile=ADOBE))
    assert np.abs(eight[0] - grey / 255).max() > 1.5 * LEVEL
    np.testing.assert_allclose(eight, sixteen.pixels, atol=1.2 * LEVEL)


def corners(n: int) -> np.ndarray:
    """Paper white, and darker and somewhat coloured with every ink."""
    lab = np.zeros((2,) * n + (3,))
    for index in np.ndindex(*(2,) * n):
        lab[index] = (100 - 80 * sum(index) / n, 15 * index[0] - 10 * index[1], 10 * index[-1])
    return lab


def test_inks_follow_their_profile(tmp_path):
    profile = corner_profile(b"CMYK", corners(4))
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[8:, :, 0] = 255
    path = save(tmp_path, Image.frombytes("CMYK", (16, 16), inks.tobytes()), "p.tif", icc_profile=profile)
    pixels = images.as_pixels(path)
    assert pixels[:, :8].min() > 0.99  # paper
    np.testing.assert_allclose(lab(pixels[:, 12, 8]), corners(4)[1, 0, 0, 0], atol=1.0)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D50 of one sRGB colour."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]]) @ linear
    f = np.cbrt(xyz / (0.9642, 1.0, 0.8249))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_with_a_profile_that_is_a_table_16_bits_are_read_as_8(tmp_path):
    profile = corner_profile(b"RGB ", corners(3)[::-1, ::-1, ::-1])
    key = struct.pack(">3H", *SAMPLES[3, 4])  # alpha does not suffer
    chunks = [(b"iCCP", b"table\0\0" + zlib.compress(profile)), (b"tRNS", key)]
    (tmp_path / "p.png").write_bytes(png16(SAMPLES, chunks=chunks))
    assert np.argwhere(images.load(tmp_path / "p.png").alpha == 0).tolist() == [[3, 4]]
    (tmp_path / "p.tif").write_bytes(tiff16(SAMPLES, profile=profile))
    loaded = images.load(tmp_path / "p.tif")
    assert loaded.bits == 8
    expected = littlecms(Image.fromarray(np.rint(SAMPLES / 257).astype(np.uint8)), profile)
    np.testing.assert_allclose(loaded.pixels.transpose(1, 2, 0), expected, atol=1e-6)


def test_a_table_goes_before_curves_and_a_matrix():
    samples = SAMPLES.copy()
    assert profiles.samples_to_srgb(samples, ADOBE) is not None
    assert profiles.samples_to_srgb(samples, matrix_profile(ADOBE_RGB, CURVES["gamma"], A2B1=bytes(8))) is not None
    assert profiles._curves_and_matrix(matrix_profile(ADOBE_RGB, CURVES["gamma"], A2B0=bytes(8)), grey=False) is None


@pytest.mark.parametrize("profile", [b"broken", ADOBE[:200], ADOBE[:128] + bytes(400), grey_profile(CURVES["gamma"])])
def test_a_profile_that_is_broken_or_for_other_colours_is_ignored(tmp_path, profile):
    pixels = images.as_pixels(save(tmp_path, Image.fromarray(PICTURE), "p.png", icc_profile=profile))
    np.testing.assert_allclose(pixels.transpose(1, 2, 0), PICTURE / 255, atol=1e-7)
    (tmp_path / "p.tif").write_bytes(tiff16(SAMPLES, profile=profile))
    loaded = images.load(tmp_path / "p.tif")
    assert loaded.bits == 16
    np.testing.assert_allclose(loaded.pixels.transpose(1, 2, 0), SAMPLES / 65535, atol=1e-7)


def test_a_profile_that_says_srgb_changes_nothing_at_any_depth(tmp_path):
    profile = profiles.srgb_profile()
    pixels = images.as_pixels(save(tmp_path, Image.fromarray(PICTURE), "p.png", icc_profile=profile))
    np.testing.assert_allclose(pixels.transpose(1, 2, 0), PICTURE / 255, atol=1e-7)
    (tmp_path / "p.tif").write_bytes(tiff16(SAMPLES, profile=profile))
    np.testing.assert_allclose(images.load(tmp_path / "p.tif").pixels.transpose(1, 2, 0), SAMPLES / 65535, atol=1e-7)


def test_alpha_and_palettes_keep_their_place_when_colours_are_converted(tmp_path):
    rgba = np.dstack([PICTURE, np.linspace(1, 255, 600).reshape(20, 30).astype(np.uint8)])
    loaded = images.load(save(tmp_path, Image.fromarray(rgba), "p.png", icc_profile=ADOBE))
    np.testing.assert_allclose(loaded.alpha, rgba[..., 3] / 255, atol=1e-7)
    np.testing.assert_allclose(loaded.pixels.transpose(1, 2, 0), littlecms(Image.fromarray(PICTURE), ADOBE), atol=1e-6)
    palette = Image.fromarray(PICTURE).quantize(16)
    loaded = images.load(save(tmp_path, palette, "q.png", icc_profile=ADOBE))
    np.testing.assert_allclose(loaded.pixels.transpose(1, 2, 0), littlecms(palette.convert("RGB"), ADOBE), atol=1e-6)


def test_lab_pictures_are_read(tmp_path):
    path = save(tmp_path, Image.new("LAB", (8, 8), (128, 128, 128)), "p.tif")
    np.testing.assert_allclose(images.as_pixels(path), 119 / 255, atol=LEVEL)


def test_without_colour_management_pictures_are_read_and_written_untagged(tmp_path, monkeypatch):
    def missing(*_):
        raise ImportError("The _imagingcms C module is not installed")

    path = save(tmp_path, Image.fromarray(PICTURE), "p.png", icc_profile=ADOBE)
    for cached in (profiles.srgb_profile, profiles._space, profiles._changes_nothing):
        cached.cache_clear()
    monkeypatch.setattr(ImageCms, "createProfile", missing)
    monkeypatch.setattr(ImageCms, "ImageCmsProfile", missing)
    try:
        np.testing.assert_allclose(images.as_pixels(path).transpose(1, 2, 0), PICTURE / 255, atol=1e-7)
        images.write_picture(tmp_path / "q.jpg", images.as_pixels(path))
    finally:
        for cached in (profiles.srgb_profile, profiles._space, profiles._changes_nothing):
            cached.cache_clear()
    with Image.open(tmp_path / "q.jpg") as image:
        assert "icc_profile" not in image.info


def test_a_png_of_16_bits_follows_its_profile_as_a_tiff_does(tmp_path):
    chunk = (b"iCCP", b"adobe\0\0" + zlib.compress(ADOBE))
    (tmp_path / "p.png").write_bytes(png16(SAMPLES, chunks=[chunk]))
    (tmp_path / "p.tif").write_bytes(tiff16(SAMPLES, profile=ADOBE))
    np.testing.assert_array_equal(images.load(tmp_path / "p.png").pixels, images.load(tmp_path / "p.tif").pixels)
