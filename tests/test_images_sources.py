"""Pictures as they are: which files are read and how, films and pages, standard input and output."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, smooth_picture
from image_files import float_tiff, png16, refused, saved, tiff16, written
from PIL import Image

from nstcore import images
from nstcore.errors import OutputError
from nstcore.images import read, sources

PICTURE = (smooth_picture(20, 30) * 255).astype(np.uint8)
RNG = np.random.default_rng(0)


# ---- formats


LOSSLESS = {"p.png": {}, "p.tif": {}, "p.gif": {}, "p.bmp": {}, "p.ppm": {}, "p.qoi": {}, "p.tga": {}, "p.sgi": {}}
OTHERS = {"p.webp": {"lossless": True}, "p.jp2": {}, "p.pcx": {}, "p.avif": {"quality": 100, "subsampling": "4:4:4"}}


@pytest.mark.parametrize(("name", "options"), (LOSSLESS | OTHERS).items())
def test_every_format_that_people_keep_pictures_in_is_read_whole_and_refused_cut_short(tmp_path, name, options):
    if Image.registered_extensions().get(name[1:]) not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {name[1:]}")
    picture = Image.fromarray(PICTURE)
    if name == "p.gif":
        picture = picture.quantize(256)  # at most 256 of its 600 colours are left
    path = saved(tmp_path / name, picture, **options)
    expected = np.asarray(picture.convert("RGB"))
    difference = np.abs(images.to_uint8(images.load(path).pixels).astype(int) - expected)
    assert difference.max() <= (8 if name == "p.avif" else 0)
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        assert str(path) in refused(path)


def test_a_jpeg_is_read_near_enough_and_inks_are_not_inverted(tmp_path):
    for mode in ("RGB", "CMYK", "L"):
        picture = Image.fromarray(PICTURE).convert(mode)
        path = saved(tmp_path / f"{mode}.jpg", picture, quality=95, **({} if mode == "L" else {"subsampling": 0}))
        expected = np.asarray(picture.convert("RGB")) / 255
        assert np.abs(images.load(path).pixels.transpose(1, 2, 0) - expected).mean() < 0.02


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "La", "RGBa", "CMYK", "YCbCr"])
def test_every_mode_of_an_image_in_memory_has_its_colours(mode):
    source = Image.fromarray(PICTURE)
    if mode in ("La", "RGBa"):
        source = source.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    image = source.convert("L").convert("LA").convert("PA") if mode == "PA" else source.convert(mode)
    loaded = images.load(image)
    grey = mode in ("1", "L", "LA", "La", "PA")
    expected = np.asarray((image if mode == "1" else source.convert("L") if grey else source).convert("RGB")) / 255
    assert loaded.alpha is None
    tolerance = {"YCbCr": 3, "P": 60}.get(mode, 1) / 255  # the web's palette is coarse
    assert np.abs(loaded.pixels.transpose(1, 2, 0) - expected).max() <= tolerance + 1e-6


def test_a_palette_with_a_transparent_colour_has_alpha(tmp_path):
    picture = Image.fromarray(np.repeat(np.arange(4, dtype=np.uint8)[None], 5, axis=0), "P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    for name in ("p.png", "p.gif"):
        loaded = images.load(saved(tmp_path / name, picture, transparency=2))
        assert loaded.alpha.tolist() == [[1, 1, 0, 1]] * 5
        assert loaded.pixels[:, 0, 1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("name", ["post.eps", "post.png"])
def test_a_format_for_which_another_program_would_be_run_is_not_opened(tmp_path, name, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("a program was started"))
    path = written(tmp_path / name, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    assert "not a picture that can be read" in refused(path)


def test_a_heic_photograph_is_told_what_to_do_with(tmp_path):
    message = refused(written(tmp_path / "IMG_1.HEIC", b"\0\0\0\x18ftypheic" + bytes(60)))
    assert "HEIC photograph" in message
    assert "export it as JPEG or PNG" in message


def test_a_format_counts_by_its_bytes_not_by_its_name(tmp_path):
    path = saved(tmp_path / "p.png", Image.fromarray(PICTURE)).rename(tmp_path / "p.jpg")
    np.testing.assert_array_equal(images.to_uint8(images.load(path).pixels), PICTURE)


@pytest.mark.parametrize(
    "name", ["with space.png", "J\u00fcrgen \u5f69.png", "-o.png", "a\nb.png", os.fsdecode(b"\xe9.png")]
)
def test_a_name_of_any_kind_is_read_and_written_and_shown_in_one_line(tmp_path, name):
    path = tmp_path / name
    images.write_picture(path, PICTURE.transpose(2, 0, 1) / 255)
    np.testing.assert_array_equal(images.to_uint8(images.load(path).pixels), PICTURE)
    path.write_bytes(b"no picture")
    refused(path)


def test_a_name_that_no_file_can_have_is_no_such_file(tmp_path):
    assert "no such file" in refused(tmp_path / ("x" * 5000))
    assert "no such file" in refused("a\0b.png")


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe is read as -" in refused(tmp_path / "pipe")
    assert "a pipe or a device" in refused("/dev/zero")


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (16, 4096), (4096, 16), (2, 2)])
def test_pictures_of_extreme_shapes_are_read(tmp_path, shape):
    picture = RNG.integers(0, 256, (*shape, 4), np.uint8)
    loaded = images.load(saved(tmp_path / "p.png", Image.fromarray(picture)))
    assert loaded.pixels.shape == (3, *shape)
    assert np.isfinite(loaded.pixels).all()


def test_the_limit_stands_in_the_message_whatever_the_format_says_of_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MOST_PIXELS", 599)
    monkeypatch.setattr(sys.modules["nstcore.images.float_tiff"], "MOST_PIXELS", 599)
    for name in ("p.png", "p.jpg", "p.webp", "p.gif", "p.bmp", "p.tif"):
        assert "more than 599 pixels" in refused(saved(tmp_path / name, Image.fromarray(PICTURE)))
    floats = float_tiff(PICTURE.astype(np.float32) / 255)
    assert "more than 599 pixels" in refused(written(tmp_path / "f.tif", floats))


def test_damaged_metadata_spoils_no_picture(tmp_path):
    whole = saved(tmp_path / "p.jpg", Image.fromarray(PICTURE), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 40)
    plain = saved(tmp_path / "q.jpg", Image.fromarray(PICTURE))
    np.testing.assert_array_equal(images.load(whole).pixels, images.load(plain).pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "form", ["8.png", "8.jpg", "8.tif", "16.png", "16.tif", "float.tif", "grey 16.png", "alpha.png"]
)
def test_every_orientation_is_turned_upright_in_every_form(tmp_path, form, orientation):
    corner = np.zeros((32, 48, 3), np.uint8)
    corner[:16, :24] = 255  # top left of what the sensor saw
    exif = Image.Exif()
    exif[274] = orientation
    chunk = [(b"eXIf", exif.tobytes()[6:])]
    sixteen = corner.astype(np.uint16) * 257
    path = tmp_path / form
    if form.startswith("8"):
        saved(path, Image.fromarray(corner), exif=exif)
    elif form == "alpha.png":
        saved(path, Image.fromarray(np.dstack([corner, corner[..., :1] // 2 + 100])), exif=exif)
    else:
        path.write_bytes(
            {
                "16.png": lambda: png16(sixteen, chunks=chunk),
                "16.tif": lambda: tiff16(sixteen, orientation=orientation),
                "float.tif": lambda: float_tiff(corner.astype(np.float32) / 255, orientation=orientation),
                "grey 16.png": lambda: png16(sixteen[..., :1], chunks=chunk),
            }[form]()
        )
    loaded = images.load(path)
    # by the standard: the visual side of row 0, and of column 0
    row, column = ["TL", "TR", "BR", "BL", "LT", "RT", "RB", "LB"][orientation - 1]
    sides = row + column
    expected = np.zeros((32, 48) if orientation < 5 else (48, 32))
    half = (expected.shape[0] // 2, expected.shape[1] // 2)
    rows = np.s_[: half[0]] if "T" in sides else np.s_[half[0] :]
    columns = np.s_[: half[1]] if "L" in sides else np.s_[half[1] :]
    expected[rows, columns] = 1
    np.testing.assert_allclose(loaded.pixels, np.broadcast_to(expected, loaded.pixels.shape), atol=0.02)
    if form == "alpha.png":
        np.testing.assert_allclose(loaded.alpha, expected * 127 / 255 + 100 / 255, atol=0.01)


# ---- films and pages


@pytest.mark.parametrize(
    ("name", "what"), [("p.gif", "frames"), ("p.png", "frames"), ("p.webp", "frames"), ("p.tif", "pages")]
)
def test_of_a_film_the_first_frame_is_taken_and_the_others_are_counted(tmp_path, name, what):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if name == "p.webp" else {}
    path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options)
    loaded = images.load(path)
    np.testing.assert_allclose(loaded.pixels.mean(axis=(1, 2)), [1, 0, 0], atol=0.01)
    assert loaded.note == f"{path}: has 3 {what}; the first one is taken"


def test_one_frame_is_no_film_and_the_pictures_inside_a_photograph_are_none(tmp_path):
    picture = Image.fromarray(PICTURE)
    for name in ("p.gif", "p.png", "p.webp", "p.tif", "p.jpg"):
        assert images.load(saved(tmp_path / name, picture.copy())).note is None
    path = tmp_path / "stereo.jpg"
    picture.save(path, "MPO", save_all=True, append_images=[picture.rotate(180)])
    assert images.load(path).note is None


def test_a_film_damaged_behind_its_first_frame_still_gives_that(tmp_path):
    frames = [Image.fromarray(RNG.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(3)]
    path = saved(tmp_path / "p.gif", frames[0], save_all=True, append_images=frames[1:])
    whole = images.load(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    np.testing.assert_array_equal(images.load(path).pixels, whole.pixels)


# ---- nothing but errors


def test_decoders_say_nothing_of_damaged_files_on_standard_error(tmp_path, capfd):
    for name, options in (("lzw.tif", "tiff_lzw"), ("deflate.tif", "tiff_deflate")):
        path = saved(tmp_path / name, Image.fromarray(PICTURE), compression=options)
        content = bytearray(path.read_bytes())
        content[8:16] = b"\xff" * 8  # where the compressed data begins
        refused(written(path, bytes(content)))
    logging.getLogger("PIL.TiffImagePlugin").error("what Pillow logs")
    assert capfd.readouterr() == ("", "")


# ---- standard input and output


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def piped(monkeypatch):
    """Give content through standard input."""

    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        sources.standard_input.cache_clear()

    yield give
    sources.standard_input.cache_clear()


def test_standard_input_is_read_once_and_remembered(tmp_path, piped):
    piped(saved(tmp_path / "p.png", Image.fromarray(PICTURE)).read_bytes())
    for _ in range(2):
        np.testing.assert_array_equal(images.to_uint8(images.load("-").pixels), PICTURE)
    assert images.read_mask(Path("-")).shape == (20, 30)


@pytest.mark.parametrize(
    "content", [png16(RNG.integers(0, 65536, (5, 6, 3)).astype(np.uint16)), float_tiff(RNG.random((5, 6, 3)))]
)
def test_standard_input_has_every_depth(tmp_path, piped, content):
    piped(content)
    path = written(tmp_path / "p", content)
    np.testing.assert_array_equal(images.load("-").pixels, images.load(path).pixels)
    assert images.load("-").bits == images.load(path).bits > 8


def test_settings_are_found_in_what_comes_through_standard_input(tmp_path, piped):
    images.write_picture(tmp_path / "p.png", PICTURE.transpose(2, 0, 1) / 255, {"seed": 3})
    piped((tmp_path / "p.png").read_bytes())
    assert images.read_metadata("-") == {"seed": 3}


def test_standard_input_that_is_no_picture_is_refused(piped, monkeypatch):
    piped(b"")
    assert "got nothing" in refused("-")
    piped(b"text")
    assert refused("-").startswith("standard input: not a picture")
    monkeypatch.setattr(sources, "MOST_BYTES", 3)
    sources.standard_input.cache_clear()
    piped(b"text")
    assert "up to 3 bytes" in refused("-")
    for stream, words in ((io.TextIOWrapper(Terminal()), "it is a terminal"), (None, "it is closed")):
        monkeypatch.setattr(sys, "stdin", stream)
        sources.standard_input.cache_clear()
        assert words in refused("-")


@pytest.mark.parametrize("options", [{}, {"bits": 16}, {"alpha": np.full((20, 30), 0.5)}])
def test_a_picture_goes_whole_to_standard_output(tmp_path, capsysbinary, options):
    pixels = PICTURE.transpose(2, 0, 1) / 255
    images.check_output("-", bits=options.get("bits", 8))
    images.write_picture("-", pixels, {"seed": 1}, **options)
    images.write_picture(tmp_path / "p.png", pixels, {"seed": 1}, **options)
    assert capsysbinary.readouterr().out == (tmp_path / "p.png").read_bytes()


def test_a_picture_is_not_sent_to_a_terminal_nor_to_what_is_closed(monkeypatch):
    screen = io.TextIOWrapper(Terminal())
    for stream, words in ((screen, "it is a terminal"), (None, "it is closed")):
        monkeypatch.setattr(sys, "stdout", stream)
        for send in (images.check_output, lambda path: images.write_picture(path, np.zeros((3, 2, 2)))):
            with pytest.raises(OutputError, match=words):
                send("-")
    assert screen.buffer.getvalue() == b""


def test_a_reader_that_is_gone_is_one_line_and_the_end_of_python_is_quiet():
    code = (
        "import numpy as np\nfrom nstcore import images\nfrom nstcore.errors import OutputError\n"
        "input()\n"
        "try:\n    images.write_picture('-', np.random.rand(3, 200, 200))\n"
        "except OutputError as error:\n    raise SystemExit(str(error))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **pipes) as process:
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stderr.read() == "standard output: cannot be written: broken pipe; name a file with -o\n"
    assert process.returncode == 1
