"""TIFFs of floating point and of wide integers: every layout, range, and what must never get into a network."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import float_tiff, matrix_profile, parametric_curve, refused, saved, written
from PIL import Image

from nstcore import images
from nstcore.errors import PictureError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("form", ["f2", "f4", "f8"])
@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none"},
        {},
        {"compression": "lzw"},
        {"predictor": 3},
        {"predictor": 2},
        {"tile": 16, "predictor": 3},
    ],
    ids=str,
)
def test_floating_point_is_read_as_it_is(tmp_path, form, channels, order, options):
    samples = RNG.random((21, 19, channels)).astype(form)
    loaded = images.load(written(tmp_path / "p.tif", float_tiff(samples, order, **options)))
    colour = samples[..., [0, 0, 0]] if channels < 3 else samples[..., :3]
    np.testing.assert_array_equal(loaded.pixels, colour.astype(np.float32).transpose(2, 0, 1))
    if channels in (2, 4):
        np.testing.assert_array_equal(loaded.alpha, samples[..., -1].astype(np.float32))
    else:
        assert loaded.alpha is None
    assert (loaded.bits, loaded.note) == (32, None)


def test_what_pillow_writes_of_floating_point_is_read_alike(tmp_path):
    grey = RNG.random((20, 30)).astype(np.float32)
    loaded = images.load(saved(tmp_path / "p.tif", Image.fromarray(grey)))
    np.testing.assert_array_equal(loaded.pixels[1], grey)


def test_floating_point_outside_0_to_1_is_cut_off_with_a_note(tmp_path):
    samples = np.linspace(-0.5, 2, 60, dtype=np.float32).reshape(4, 5, 3)
    loaded = images.load(written(tmp_path / "p.tif", float_tiff(samples)))
    np.testing.assert_array_equal(loaded.pixels, np.clip(samples, 0, 1).transpose(2, 0, 1))
    assert "from -0.5 to 2; below 0 is taken as black, above 1 as white" in loaded.note


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_floating_point_that_is_not_finite_never_gets_into_the_network(tmp_path, channels, value):
    samples = np.full((5, 6, channels), 0.5, np.float32)
    samples[2, 3, -1] = value
    assert "not finite" in refused(written(tmp_path / "p.tif", float_tiff(samples)))
    if channels == 1:
        with pytest.raises(PictureError, match="not finite"):
            images.load(Image.fromarray(samples[..., 0]))


def test_floating_point_multiplied_by_alpha_is_divided_again(tmp_path):
    samples = RNG.random((5, 6, 4)).astype(np.float32)
    samples[1, 2] = 0
    stored = samples.copy()
    stored[..., :3] *= samples[..., 3:]
    loaded = images.load(written(tmp_path / "p.tif", float_tiff(stored, alpha=1)))
    shown = samples[..., 3] > 0
    np.testing.assert_allclose(loaded.pixels[:, shown], samples[..., :3][shown].T, rtol=1e-5)
    assert loaded.alpha[1, 2] == 0


def test_floating_point_in_linear_light_follows_its_profile(tmp_path):
    linear = parametric_curve(0, 1.0)
    srgb_to_xyz = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
    grey = np.repeat(np.linspace(0, 1, 30, dtype=np.float32)[None, :, None], 3, axis=2)
    content = float_tiff(grey, profile=matrix_profile(srgb_to_xyz, linear))
    x = grey[0, :, 0]
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(images.load(written(tmp_path / "p.tif", content)).pixels[1, 0], encoded, atol=2e-3)


@pytest.mark.parametrize(("form", "top"), [("u4", 2**32 - 1), ("i4", 2**31 - 1), ("i2", 2**15 - 1)])
def test_wide_integers_of_a_tiff_span_their_type(tmp_path, form, top):
    ramp = np.linspace(0, top, 40).astype(form).reshape(5, 8)
    kinds = {"u": 1, "i": 2}
    content = float_tiff(ramp[..., None], compression="none", sample_format=kinds[form[0]])
    np.testing.assert_allclose(images.load(written(tmp_path / "p.tif", content)).pixels[0], ramp / top, atol=3e-5)
