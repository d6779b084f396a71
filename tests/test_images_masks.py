"""Alpha, masks, sizes and contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import smooth_picture
from PIL import Image

from nstcore import images
from nstcore.errors import OptionError, PictureError, ShapeError

PICTURE = (smooth_picture(20, 30) * 255).astype(np.uint8)


def cut_out(hidden: int) -> np.ndarray:
    """(32, 32, 4) uint8: a disc of muted colours, nothing around; what the file hides there is `hidden`."""
    y, x = np.mgrid[:32, :32] - 15.5
    rgba = np.full((32, 32, 4), hidden, np.uint8)
    inside = x**2 + y**2 < 100
    rgba[inside, :3] = (100 + 3 * x[..., None] * (1, 0, -1))[inside]
    rgba[..., 3] = 255 * inside
    return rgba


def test_what_a_file_hides_is_not_seen_and_not_white_either(tmp_path):
    loaded = {}
    for hidden in (0, 255):
        Image.fromarray(cut_out(hidden)).save(tmp_path / "p.png")
        loaded[hidden] = images.load(tmp_path / "p.png")
    np.testing.assert_array_equal(loaded[0].pixels, loaded[255].pixels)
    pixels, alpha = loaded[0].pixels * 255, loaded[0].alpha
    visible = cut_out(0)[..., :3].transpose(2, 0, 1)
    np.testing.assert_allclose(pixels[:, alpha == 1], visible[:, alpha == 1], atol=1e-3)
    hidden = pixels[:, alpha == 0]
    assert hidden.min() >= visible[:, alpha == 1].min() - 1e-3
    assert hidden.max() <= visible[:, alpha == 1].max() + 1e-3
    np.testing.assert_allclose(pixels[0, 16, 4], pixels[0, 16, 7], atol=8)  # goes on from the edge nearby
    assert pixels[0, 16, 31] > pixels[0, 16, 0] + 20


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (13, 29)])
def test_holes_of_any_shape_are_filled_with_the_one_colour_there_is(shape):
    rgba = np.zeros((*shape, 4))
    rgba[0, -1] = (0.2, 0.4, 0.6, 0.01)
    loaded = images.load(rgba)
    np.testing.assert_allclose(
        loaded.pixels, np.array([0.2, 0.4, 0.6])[:, None, None] * np.ones((1, *shape)), atol=1e-6
    )
    assert loaded.alpha.dtype == np.float32


def test_half_transparent_colours_stay_as_they_are():
    rgba = np.random.default_rng(0).uniform(0.01, 1, (9, 9, 4))
    rgba[3, 4] = 0
    different = (images.load(rgba).pixels != rgba[..., :3].transpose(2, 0, 1)).any(axis=0)
    assert np.argwhere(different).tolist() == [[3, 4]]


def test_nothing_visible_is_white():
    assert (images.load(np.zeros((4, 5, 4), np.uint8)).pixels == 1).all()


@pytest.mark.parametrize("form", ["RGBA", "LA", "array", "opaque array"])
def test_an_alpha_of_1_everywhere_counts_as_none(form):
    rgba = np.dstack([PICTURE, np.full((20, 30), 255, np.uint8)])
    picture = rgba if "array" in form else Image.fromarray(rgba).convert(form)
    assert images.load(picture).alpha is None


@pytest.mark.parametrize(
    ("array", "bits"),
    [(PICTURE, 8), (PICTURE.astype(np.uint16) * 257, 16), (np.float32(PICTURE / 255), 32), (PICTURE / 255, 32)],
)
def test_arrays_of_every_depth_are_loaded(array, bits):
    loaded = images.load(array)
    assert (loaded.bits, loaded.alpha) == (bits, None)
    assert loaded.pixels.dtype == (np.float64 if array.dtype == np.float64 else np.float32)
    assert loaded.pixels.flags.c_contiguous
    np.testing.assert_allclose(loaded.pixels.transpose(1, 2, 0), PICTURE / 255, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_an_array_with_alpha_stands_on_white_as_pixels(dtype):
    rgba = np.zeros((4, 6, 4), dtype)
    rgba[:2, :, 3] = 255 if dtype == np.uint8 else 1
    pixels = images.as_pixels(rgba)
    assert not pixels[:, :2].any()
    assert (pixels[:, 2:] == 1).all()


@pytest.mark.parametrize("form", ["path", "pil", "uint8", "float", "bool", "rgb", "alpha"])
def test_a_mask_is_luminance_times_alpha_in_every_form(tmp_path, form):
    grey = np.zeros((8, 9), np.uint8)
    grey[2:5, 3:] = 255
    Image.fromarray(grey).save(tmp_path / "m.png")
    white = np.full((8, 9, 3), 255, np.uint8)
    picture = {
        "path": tmp_path / "m.png",
        "pil": Image.fromarray(grey),
        "uint8": grey,
        "float": grey / 255,
        "bool": grey > 0,
        "rgb": np.dstack([grey] * 3),
        "alpha": np.dstack([white, grey]),
    }[form]
    mask = images.read_mask(picture)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, grey / 255)


def test_a_coloured_mask_counts_by_its_luminance():
    red = np.zeros((3, 4, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_allclose(images.read_mask(red), 0.299, atol=1e-6)
    with pytest.raises(PictureError):
        images.read_mask(np.zeros((3, 4, 2)))


@pytest.mark.parametrize("size", [(10, 15), (7, 11), (1, 1), (19, 30)])
def test_a_smaller_mask_covers_the_same_share(size):
    mask = (np.random.default_rng(0).random((20, 30)) > 0.6).astype(np.float32)
    small = images.resize_mask(mask, size)
    assert small.shape == size
    assert small.mean() == pytest.approx(mask.mean(), abs=1e-6)


def test_each_pixel_of_a_smaller_mask_is_the_mean_of_its_area():
    mask = np.zeros((4, 6), np.float32)
    mask[:, :2] = 1
    np.testing.assert_allclose(images.resize_mask(mask, (2, 3)), [[1, 0, 0]] * 2, atol=1e-7)
    np.testing.assert_allclose(images.resize_mask(mask, (2, 4)), [[1, 1 / 3, 0, 0]] * 2, atol=1e-7)


def test_a_larger_mask_has_soft_edges_in_the_same_place():
    mask = np.array([[0.0, 1.0]])
    np.testing.assert_allclose(images.resize_mask(mask, (3, 4)), [[0, 0.25, 0.75, 1]] * 3, atol=1e-6)
    np.testing.assert_allclose(images.resize_mask(np.eye(2), (2, 2)), np.eye(2))
    with pytest.raises(ShapeError, match="mask"):
        images.resize_mask(np.zeros((3, 4, 5)), (2, 2))


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
def test_any_numbers_are_resampled_without_being_cut_off_or_shifted(filter):
    y, x = np.mgrid[:12, :16]
    plane = 100.0 * x - 50.0 * y - 300
    large = images.resample(np.stack([plane, -plane]), (24, 32), filter)
    assert large.shape == (2, 24, 32)
    assert large.dtype == np.float32
    y, x = (np.mgrid[:24, :32] + 0.5) / 2 - 0.5  # where the new samples stand among the old
    np.testing.assert_allclose(large[0, 4:-4, 4:-4], (100 * x - 50 * y - 300)[4:-4, 4:-4], rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(large[1], -large[0])
    np.testing.assert_array_equal(images.resample(plane, (24, 32), filter), large[0])


def test_bilinear_stays_within_the_range_and_bicubic_does_not():
    step = np.repeat(np.repeat([[0.0, 5.0]], 6, axis=1), 12, axis=0)
    bilinear, bicubic = (images.resample(step, (17, 17), f) for f in ("bilinear", "bicubic"))
    assert bilinear.min() >= 0
    assert bilinear.max() <= 5
    assert bicubic.max() > 5.05


@pytest.mark.parametrize(
    ("array", "size", "filter", "error"),
    [
        (np.zeros((4, 4)), (2, 2), "nearest", OptionError),
        (np.zeros((2, 2, 4, 4)), (2, 2), "bicubic", ShapeError),
        (np.zeros((4, 4)), (0, 2), "bicubic", ShapeError),
    ],
)
def test_a_resampling_that_makes_no_sense_is_refused(array, size, filter, error):
    with pytest.raises(error):
        images.resample(array, size, filter)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (300, (200, 300)),
        (np.int64(300), (200, 300)),
        ("300", (200, 300)),
        ("content", (400, 600)),
        ("short=100", (100, 150)),
        ("short=800", (800, 1200)),
        ("area=0.06", (200, 300)),
        (" Area=24 ", (4000, 6000)),
        (1, (1, 1)),
    ],
)
def test_every_way_to_give_a_size(size, expected):
    assert images.target_size((400, 600), size) == expected


def test_an_area_is_met_within_rounding():
    height, width = images.target_size((333, 1001), "area=2.5")
    assert height * width == pytest.approx(2.5e6, rel=1e-3)
    assert height / width == pytest.approx(333 / 1001, rel=1e-3)


@pytest.mark.parametrize(
    "size",
    [0, -5, 1.5, True, None, "", "big", "short=", "short=0", "short=1.5", "area=-1", "area=nan", "area=inf", "wide=5"],
)
def test_a_size_that_makes_no_sense_is_refused_in_one_line(size):
    with pytest.raises(OptionError, match=r"^size: expected") as caught:
        images.target_size((400, 600), size)
    assert "\n" not in str(caught.value)


def test_a_contact_sheet_shows_every_picture_where_it_belongs():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    pictures = [np.full((60, 80 - 10 * (i == 4), 3), c, np.uint8) for i, c in enumerate(colours)]
    sheet = images.contact_sheet(pictures, [f"weight {i}" for i in range(5)], 2, "style weights")
    assert sheet.dtype == np.uint8
    assert (sheet[[0, -1]] == 255).all()
    centres = []
    for picture, colour in zip(pictures, colours, strict=True):
        rows, columns = np.nonzero((sheet == colour).all(axis=2))
        assert len(rows) == picture.shape[0] * picture.shape[1]
        centres.append((rows.mean(), columns.mean()))
    (r0, c0), (r1, c1), (r2, c2), (r3, c3), (r4, c4) = centres
    assert (r0, r2, c0, c1) == (r1, r3, c2, c3)
    assert r0 < r2 < r4
    assert c0 == c4 < c1
    assert r4 - r2 == pytest.approx(r2 - r0)


def ink(sheet: np.ndarray) -> int:
    return int((sheet < 128).all(axis=2).sum())


def test_labels_and_titles_are_written_and_long_ones_broken_and_shortened():
    pictures = [np.full((60, 200, 3), 200, np.uint8)] * 2
    plain, short, long, endless = (
        images.contact_sheet(pictures, [label, ""], 2)
        for label in ("", "ladder", "ladder off " * 5, "ladder off " * 500)
    )
    assert ink(plain) == 0
    assert 0 < ink(short) < ink(long) < ink(endless)
    assert short.shape[0] < long.shape[0] <= endless.shape[0] < 2 * plain.shape[0]
    assert {s.shape[1] for s in (plain, short, long, endless)} == {plain.shape[1]}
    assert ink(images.contact_sheet(pictures, ["", ""], 2, "sweep")) > 0
    unbroken = images.contact_sheet(pictures, ["x" * 300, ""], 2)
    assert (unbroken[:, -8:] == 255).all()
    assert ink(unbroken[:, 215:]) == 0  # nothing runs into the neighbour's cell
    accents = images.contact_sheet(pictures, ["\u00e9t\u00e9", ""], 2)
    np.testing.assert_array_equal(accents, images.contact_sheet(pictures, ["ete", ""], 2))


def test_a_sheet_can_make_its_pictures_smaller():
    sheet = images.contact_sheet([np.full((300, 600, 3), (255, 0, 0), np.uint8)], ["a"], 3, longest=60)
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == 30 * 60


@pytest.mark.parametrize(("count", "labels", "columns"), [(0, 0, 1), (2, 1, 1), (2, 2, 0)])
def test_a_sheet_that_makes_no_sense_is_refused(count, labels, columns):
    with pytest.raises(OptionError, match="sheet"):
        images.contact_sheet([PICTURE] * count, ["a"] * labels, columns)
