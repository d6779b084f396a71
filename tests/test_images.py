"""Pictures in and out."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from conftest import smooth_picture
from PIL import Image

from nstcore import disk, images
from nstcore.errors import OptionError, OutputError, PictureError
from nstcore.images import pictures, read

PICTURE = (smooth_picture(20, 30) * 255).astype(np.uint8)


def save(tmp_path, image, name="p.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_pixels_are_rgb_rows_first_in_0_to_1(tmp_path):
    pixels = images.as_pixels(save(tmp_path, Image.fromarray(PICTURE)))
    assert pixels.shape == (3, 20, 30)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, PICTURE.transpose(2, 0, 1) / 255, atol=1e-7)


@pytest.mark.parametrize("form", ["path", "str", "pil", "uint8", "float32", "float64"])
def test_every_form_of_a_picture_gives_the_same_pixels(tmp_path, form):
    path = save(tmp_path, Image.fromarray(PICTURE))
    picture = {
        "path": path,
        "str": str(path),
        "pil": Image.fromarray(PICTURE),
        "uint8": PICTURE,
        "float32": PICTURE.astype(np.float32) / 255,
        "float64": PICTURE / 255,
    }[form]
    np.testing.assert_allclose(images.as_pixels(picture), images.as_pixels(path), atol=1e-7)


def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    path = save(tmp_path, Image.fromarray(PICTURE), exif=exif)
    expected = np.rot90(PICTURE, -1).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(images.as_pixels(path), expected, atol=1e-7)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "YCbCr", "LA", "RGBA"])
def test_every_colour_mode_is_read(tmp_path, mode):
    image = Image.fromarray(PICTURE).convert(mode)
    name = {"CMYK": "p.tif", "YCbCr": "p.jpg"}.get(mode, "p.png")
    pixels = images.as_pixels(save(tmp_path, image, name))
    assert pixels.shape == (3, 20, 30)
    assert 0 <= pixels.min() <= pixels.max() <= 1


def test_sixteen_bits_are_not_cut_off_at_eight(tmp_path):
    ramp = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    pixels = images.as_pixels(save(tmp_path, Image.fromarray(ramp)))
    np.testing.assert_allclose(pixels[0], ramp / 65535, atol=1e-6)


def test_what_is_transparent_stands_on_white(tmp_path):
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[:10, :, 3] = 255
    pixels = images.as_pixels(save(tmp_path, Image.fromarray(rgba)))
    assert not pixels[:, :10].any()
    assert (pixels[:, 10:] == 1).all()


@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.webp", "p.tiff", "p.gif", "p.bmp"])
def test_a_truncated_picture_is_refused_in_one_line(tmp_path, name):
    path = save(tmp_path, Image.fromarray((smooth_picture(90, 90) * 255).astype(np.uint8)), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(PictureError) as caught:
        images.as_pixels(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + b"x" * 100])
def test_what_is_not_a_picture_is_refused(tmp_path, content):
    path = tmp_path / "p.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=r"p\.png"):
        images.as_pixels(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(PictureError, match="no such file"):
        images.as_pixels(tmp_path / "missing.png")
    with pytest.raises(PictureError, match="folder"):
        images.as_pixels(tmp_path)


def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(tmp_path, Image.fromarray(PICTURE))
    monkeypatch.setattr(read, "MOST_PIXELS", 599)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(PictureError, match=r"more than 599 pixels.*make it smaller"):
        images.as_pixels(path)


@pytest.mark.parametrize(
    "array", [PICTURE[..., :2], PICTURE.astype(int), PICTURE.astype(float), PICTURE[:0] / 255, PICTURE / 255 - 0.5, 7]
)
def test_arrays_that_are_no_pictures_are_refused(array):
    with pytest.raises(PictureError, match="picture"):
        images.as_pixels(array)


@pytest.mark.parametrize("kind", ["opaque", "alpha", "hidden", "float64", "grey"])
def test_the_hash_of_a_picture_is_that_of_its_pixels_however_large_it_is(kind, monkeypatch, tmp_path):
    alpha = np.random.default_rng(4).integers(0, 3, (20, 30, 1), np.uint8) * 127
    picture = {
        "opaque": PICTURE,
        "alpha": np.dstack([PICTURE, alpha]),
        "hidden": np.dstack([PICTURE, alpha * 0]),
        "float64": PICTURE / 255,
        "grey": PICTURE[..., 0],
    }[kind]
    forms = [picture] if kind == "float64" else [picture, Image.fromarray(picture)]
    expected = hashlib.sha256(images.as_pixels(picture).tobytes()).hexdigest()
    assert [images.pixels_sha256(form) for form in forms] == [expected] * len(forms)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(pictures, "LARGE", 0)
    monkeypatch.setattr(disk, "STRIP_BYTES", 500)
    assert [images.pixels_sha256(form) for form in forms] == [expected] * len(forms)


def test_resizing_keeps_a_constant_and_the_mean():
    constant = np.full((3, 40, 60), 0.25, np.float32)
    np.testing.assert_allclose(images.resize_pixels(constant, (17, 23)), 0.25, atol=1e-6)
    pixels = images.as_pixels(PICTURE)
    assert images.resize_pixels(pixels, (10, 15)).mean() == pytest.approx(pixels.mean(), abs=0.01)


def test_fit_keeps_proportions():
    assert images.fit((400, 600), 300) == (200, 300)
    assert images.fit((600, 400), 300) == (300, 200)
    assert images.fit((10, 1000), 50) == (1, 50)
    with pytest.raises(OptionError, match="1 pixel"):
        images.fit((10, 10), 0)


@pytest.mark.parametrize("name", ["p.png", "p.tif", "p.tiff"])
def test_what_is_written_without_loss_is_read_back(tmp_path, name):
    pixels = PICTURE.transpose(2, 0, 1) / 255
    images.write_picture(tmp_path / name, pixels)
    np.testing.assert_allclose(images.as_pixels(tmp_path / name), pixels, atol=1e-7)


@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.jpeg", "p.webp", "p.tif", "P.PNG"])
def test_settings_travel_inside_the_picture(tmp_path, name):
    metadata = {"settings": {"seed": 3, "init": "n\u00f6"}, "losses": {"end": {"total": 0.1}}}
    images.write_picture(tmp_path / name, images.as_pixels(PICTURE), metadata)
    assert images.read_metadata(tmp_path / name) == metadata


def test_a_picture_without_settings_says_so(tmp_path):
    with pytest.raises(PictureError, match=r"carries no settings of nstcore; expected a picture as nstcore saved it$"):
        images.read_metadata(save(tmp_path, Image.fromarray(PICTURE)))


def test_values_outside_are_cut_off_and_rounded_to_nearest():
    pixels = np.array([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 2.0]).reshape(1, 1, 6).repeat(3, axis=0)
    assert images.to_uint8(pixels)[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


def test_the_same_picture_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        images.write_picture(tmp_path / name, images.as_pixels(PICTURE), {"seed": 1})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "p.png"
    images.write_picture(path, images.as_pixels(PICTURE))
    before = path.read_bytes()

    def full(self, file, *_, **__):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="no space left"):
        images.write_picture(path, images.as_pixels(PICTURE))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_checking_an_output_touches_nothing(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(b"precious")
    stamp = path.stat().st_mtime_ns
    images.check_output(path)
    images.check_output(tmp_path / "new.png")
    assert path.read_bytes() == b"precious"
    assert path.stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.parametrize("name", ["p", "p.txt", "p.png.bak", "missing/p.png"])
def test_an_output_that_cannot_be_written_is_refused_beforehand(tmp_path, name):
    with pytest.raises(OutputError):
        images.check_output(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_through_a_link_what_it_points_to_is_replaced(tmp_path):
    target, link = tmp_path / "target.png", tmp_path / "link.png"
    target.write_bytes(b"old")
    link.symlink_to(target)
    images.write_picture(link, images.as_pixels(PICTURE))
    assert link.is_symlink()
    assert images.as_pixels(target).shape == (3, 20, 30)


def test_metadata_is_plain_json_in_a_png_text_chunk(tmp_path):
    images.write_picture(tmp_path / "p.png", images.as_pixels(PICTURE), {"seed": 1})
    with Image.open(tmp_path / "p.png") as image:
        assert json.loads(image.text["nstcore"]) == {"seed": 1}
