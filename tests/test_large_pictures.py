"""Pictures that do not fit into memory: arrays on disk, strips that give the numbers of the whole, large files."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from image_files import ADOBE_RGB, float_tiff, gamma_curve, matrix_profile, png16, saved, tiff16, written
from PIL import Image

from nstcore import disk, images
from nstcore.errors import OptionError, OutputError, PictureError, ShapeError
from nstcore.images import alpha as alphas
from nstcore.images import big_tiff, resize, sources, write
from nstcore.images.profiles import srgb_profile
from nstcore.transfer.pictures import COLORS, Pictures
from nstcore.transfer.start import start

RNG = np.random.default_rng(11)
NEVER = 1 << 60  # pixels
EIGHT = RNG.integers(1, 256, (37, 53, 4), np.uint8)  # alpha nowhere 0
SIXTEEN = RNG.integers(1, 65536, (37, 53, 4), np.uint16)
HOLED = EIGHT.copy()
HOLED[5:30, 7:40, 3] = 0
FLOATS = RNG.random((37, 53, 4), np.float32)


@pytest.fixture
def in_strips(monkeypatch, tmp_path):
    """Everything that is done strip by strip takes many of them, and what may lie on disk does."""
    monkeypatch.setattr(disk, "STRIP_BYTES", 8000)
    monkeypatch.setattr(disk, "MEMORY_BYTES", 0)
    monkeypatch.setattr(resize, "WHOLE_BYTES", 0)
    monkeypatch.setattr(alphas, "_WHOLE_BYTES", 2000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def on_disk(array: np.ndarray) -> np.ndarray:
    copy = disk.disk_array(array.shape, array.dtype)
    copy[:] = array
    return copy


def resident() -> int:
    """Bytes of this process in memory."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_released_pages_leave_memory_and_keep_what_they_hold():
    array = disk.disk_array((64, 1 << 18))  # 64 MiB
    assert not array[::7].any()
    array[:] = np.arange(1 << 18, dtype=np.float32)
    before = resident()
    disk.release(array[3:5])  # all of the file, whichever part is named
    assert before - resident() > 50 << 20
    assert (array == np.arange(1 << 18, dtype=np.float32)).all()


def test_an_array_on_disk_has_no_name_and_goes_with_the_array(tmp_path):
    array = disk.disk_array((1000, 1000), folder=tmp_path)
    assert disk.on_disk(array)
    assert disk.on_disk(np.asarray(array)[:, ::2].reshape(-1))
    assert not disk.on_disk(array.copy())
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert not list(tmp_path.iterdir())
    disk.release(np.zeros(3))  # is left as it is


def test_an_array_that_the_disk_has_no_room_for_is_refused(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match=rf"{tmp_path}: arrays on disk take 40000 GB, and .* left.*TMPDIR"):
        disk.disk_array((10**13,), folder=tmp_path)
    with pytest.raises(OutputError, match=r"missing: no folder for arrays on disk: no such file.*TMPDIR"):
        disk.disk_array((10,), folder=tmp_path / "missing")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=r"gone: no folder"):
        disk.disk_array((10,))


@pytest.mark.parametrize("shape", [(3, 100, 7), (100, 7), (3, 1, 1000), (1, 1)])
def test_strips_cover_each_row_once_and_keep_to_their_size_and_grid(shape):
    for most, grid in ((1, 1), (1000, 1), (1000, 16), (1 << 30, 16)):
        rows = list(disk.strips(np.zeros(shape, np.float32), most, grid))
        assert [y for r in rows for y in range(r.start, r.stop)] == list(range(shape[-2]))
        assert all((r.stop - r.start) % grid == 0 for r in rows[:-1])
        row = 4 * np.prod(shape) // shape[-2]
        assert all((r.stop - r.start) * row <= max(most, grid * row) for r in rows)
    assert list(disk.strips(shape, 1000)) == list(disk.strips(np.zeros(shape, np.float32), 1000))


SIZES = [((40, 61), (17, 23)), ((40, 61), (90, 100)), ((61, 40), (61, 90)), ((61, 40), (9, 40)), ((90, 12), (20, 9))]


@pytest.mark.parametrize(("size", "to"), SIZES)
def test_resizing_in_strips_gives_the_same_bits(size, to, monkeypatch):
    pixels, integers = RNG.random((3, *size), np.float32), RNG.integers(0, 65536, (3, *size), np.uint16)
    filters = ("bilinear", "bicubic", "lanczos")
    whole = [images.resample(pixels, to, f) for f in filters]
    pictures = [images.resize_pixels(p, to) for p in (pixels, images.numbers(integers))]
    mask = images.resize_mask(pixels[0], to)
    monkeypatch.setattr(resize, "WHOLE_BYTES", 0)
    for strip in (100, 3000, 1 << 20):
        monkeypatch.setattr(disk, "STRIP_BYTES", strip)
        for f, expected in zip(filters, whole, strict=True):
            np.testing.assert_array_equal(images.resample(on_disk(pixels), to, f, on_disk(expected * 0)), expected)
        for given, expected in zip((pixels, integers), pictures, strict=True):
            np.testing.assert_array_equal(images.resize_pixels(given, to, np.empty_like(expected)), expected)
        np.testing.assert_array_equal(images.resize_mask(on_disk(pixels[0]), to, np.empty_like(mask)), mask)


def test_an_output_of_another_shape_or_type_is_refused():
    pixels = np.zeros((3, 8, 8), np.float32)
    for out in (np.zeros((3, 4, 5), np.float32), np.zeros((3, 4, 4))):
        with pytest.raises(ShapeError, match=r"out: expected \(3, 4, 4\) of float32"):
            images.resize_pixels(pixels, (4, 4), out)


def test_rows_are_filtered_before_columns_whatever_pillow_does():
    """Pillow 13 begins with the columns of a tall picture, which rounds otherwise."""
    tall = RNG.random((200, 31), np.float32)
    image = Image.fromarray(tall).resize((15, 200), Image.Resampling.LANCZOS)
    expected = np.asarray(image.resize((15, 20), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(images.resample(tall, (20, 15), "lanczos"), expected)


PROFILE = matrix_profile(ADOBE_RGB, gamma_curve(2.2))


def _forms(folder: Path):
    """Files of every depth and colour that Pillow or this package reads."""
    rgb = Image.fromarray(EIGHT[..., :3])
    yield saved(folder / "rgb.png", rgb)
    yield saved(folder / "profile.png", rgb, icc_profile=PROFILE)
    yield saved(folder / "alpha.png", Image.fromarray(EIGHT))
    yield saved(folder / "holes.png", Image.fromarray(HOLED))
    yield saved(folder / "hidden.png", Image.fromarray(EIGHT * np.uint8([1, 1, 1, 0])))
    yield saved(folder / "grey.png", rgb.convert("L"))
    yield saved(folder / "grey alpha.png", Image.fromarray(HOLED).convert("LA"))
    yield saved(folder / "black and white.png", rgb.convert("1"))
    yield saved(folder / "palette.gif", rgb.quantize(17), transparency=3)
    yield saved(folder / "key.png", rgb.quantize(9), transparency=bytes([255, 0, 128]))
    yield saved(folder / "cmyk.jpg", rgb.convert("CMYK"))
    yield saved(folder / "lab.tif", rgb.convert("LAB"))
    yield saved(folder / "rgb.tif", rgb, compression="tiff_lzw")
    yield saved(folder / "grey 16.png", Image.fromarray(SIXTEEN[..., 0]))
    yield saved(folder / "float grey.tif", Image.fromarray(FLOATS[..., 0]))
    yield saved(folder / "grey 16 profile.png", Image.fromarray(SIXTEEN[..., 0]), icc_profile=PROFILE)
    yield saved(folder / "grey sRGB.tif", Image.fromarray(SIXTEEN[..., 0]), icc_profile=srgb_profile())
    for channels in (1, 2, 3, 4):
        yield written(folder / f"16 {channels}.png", png16(SIXTEEN[..., :channels]))
    yield written(folder / "16.tif", tiff16(SIXTEEN[..., :3], compression="deflate", predictor=True))
    yield written(folder / "16 alpha.tif", tiff16(SIXTEEN, ">", "lzw"))
    yield written(folder / "16 premultiplied.tif", tiff16(SIXTEEN, premultiplied=True))
    yield written(folder / "16 sRGB.tif", tiff16(SIXTEEN[..., :3], compression="deflate", profile=srgb_profile()))
    yield written(folder / "16 profile.tif", tiff16(SIXTEEN[..., :3], profile=PROFILE))
    yield written(folder / "float.tif", float_tiff(FLOATS, tile=16))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        yield saved(folder / f"turned {orientation}.png", Image.fromarray(HOLED), exif=exif)
        yield written(folder / f"turned 16 {orientation}.tif", tiff16(SIXTEEN, orientation=orientation))


def test_a_large_picture_has_the_numbers_of_a_small_one_in_every_form(tmp_path, in_strips):
    """With tifffile and without it, where it reads TIFFs."""
    depths = set()
    for path in _forms(tmp_path):
        small, large = images.load(path), images.load(path, large=0)
        assert disk.on_disk(large.pixels), path
        assert (large.bits, large.note) == (small.bits, small.note), path
        exactly = "profile" not in path.stem  # a product with a matrix, of more or fewer rows
        np.testing.assert_allclose(
            images.numbers(large.pixels), small.pixels, rtol=0, atol=0 if exactly else 1e-6, err_msg=path.name
        )
        assert (large.alpha is None) == (small.alpha is None), path
        if small.alpha is not None:
            np.testing.assert_array_equal(large.alpha, small.alpha, err_msg=path.name)
        depths.add(large.pixels.dtype.name)
    assert depths == {"uint8", "uint16", "float32"}


def test_large_pictures_in_memory_are_neither_copied_nor_changed(in_strips):
    for given in (EIGHT, SIXTEEN, FLOATS, on_disk(FLOATS), EIGHT[..., 0], HOLED):
        before = given.copy()
        loaded = images.load(given, large=0)
        np.testing.assert_array_equal(images.numbers(loaded.pixels), images.load(before).pixels)
        np.testing.assert_array_equal(loaded.alpha, images.load(before).alpha)  # None is None
        assert loaded.alpha is None or disk.on_disk(loaded.alpha) or np.shares_memory(loaded.alpha, given)
        assert np.shares_memory(loaded.pixels, given) == (given is not HOLED)
        np.testing.assert_array_equal(given, before)
    half = images.load(FLOATS.astype(np.float16), large=0)
    assert disk.on_disk(half.pixels)
    np.testing.assert_array_equal(half.pixels, images.load(FLOATS.astype(np.float16)).pixels)
    planar = on_disk(FLOATS[..., :3].transpose(2, 0, 1))
    assert np.shares_memory(images.load(planar.transpose(1, 2, 0)).pixels, planar)
    image = images.load(Image.fromarray(HOLED), large=0)
    np.testing.assert_array_equal(image.pixels, images.load(HOLED).pixels)
    with pytest.raises(PictureError, match="divide an array"):
        images.load(on_disk(FLOATS * 2), large=0)


def test_a_large_mask_is_the_mask_that_a_small_one_is(tmp_path, in_strips):
    for picture in (HOLED, SIXTEEN, saved(tmp_path / "m.png", Image.fromarray(HOLED)), EIGHT[..., 0] > 99):
        mask = images.read_mask(picture, large=0)
        assert disk.on_disk(mask)
        np.testing.assert_allclose(mask, images.read_mask(picture), rtol=0, atol=1e-7)


def test_16384_pixels_a_side_are_read_and_pillows_own_limit_stays(tmp_path, monkeypatch):
    path = saved(tmp_path / "p.png", Image.fromarray(EIGHT))
    content = bytearray(path.read_bytes())
    content[16:24] = 2 * (16384).to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    limit = Image.MAX_IMAGE_PIXELS
    with sources.open_image(bytes(content)) as image:
        assert image.size == (16384, 16384)
        assert images.MOST_LARGE >= 16384**2 > images.MOST_PIXELS
    assert limit == Image.MAX_IMAGE_PIXELS
    written(path, bytes(content))
    with pytest.raises(PictureError, match="more than 178,956,970 pixels"):
        images.load(path)
    monkeypatch.setattr(sys.modules["nstcore.images.large"], "MOST_LARGE", 16384**2 - 1)
    with pytest.raises(PictureError, match="more than 268,435,455 pixels"):
        images.load(path, images.LARGE)


@pytest.mark.parametrize("colors", COLORS)
def test_content_and_styles_from_disk_are_those_from_memory(colors, tmp_path, in_strips):
    content = saved(tmp_path / "c.png", Image.fromarray(HOLED))
    style = saved(tmp_path / "s.png", Image.fromarray(EIGHT[..., :3]).resize((60, 50)))
    small, large = (Pictures(content, [style, content], colors, large=n) for n in (NEVER, 0))
    assert (small.size, small.channels) == (large.size, large.channels) == ((37, 53), 4)
    tolerance = {"style": 0, "histogram": 2e-5}.get(colors, 2e-6)  # a histogram's levels are those of 16 bits
    for size in ((37, 53), (20, 29), (74, 106)):
        out = np.empty((4, *size), np.float32)
        pairs = [
            (large.content(size), small.content(size)),
            (large.content(size, out), small.content(size)),
            (large.pixels(size), small.pixels(size)),
            (large.alpha(size), small.alpha(size)),
            *zip(large.styles(max(size)), small.styles(max(size)), strict=True),
            *zip(large.styles_seen(min(size)), small.styles_seen(min(size)), strict=True),
            (large.finished(out[:3][::-1]), small.finished(out[:3][::-1])),
        ]
        for found, expected in pairs:
            assert found.dtype == expected.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        assert np.shares_memory(large.content(size, out), out)
        assert disk.on_disk(large.content(size))
        assert not disk.on_disk(small.content(size))


def test_a_picture_that_alpha_hides_has_no_colours_to_match(tmp_path, in_strips):
    hidden = saved(tmp_path / "h.png", Image.fromarray(EIGHT * np.uint8([1, 1, 1, 0])))
    for colors in ("cholesky", "histogram"):
        with pytest.raises(OptionError, match="leaves no pixel"):
            Pictures(hidden, [EIGHT], colors, large=0)


def test_a_start_on_disk_is_the_start_in_memory(tmp_path, in_strips):
    path = str(saved(tmp_path / "p.png", Image.fromarray(HOLED)))
    content = RNG.random((3, 37, 53), np.float32)
    styles = [RNG.random((3, 20, 30), np.float32), RNG.random((3, 31, 8), np.float32)]
    parts = {"content": 0.2, "noise": 0.3, "style": 0.1, "gray": 0.1, path: 0.2, "fast": 0.1}
    for weights, tolerance in ((parts, 0), ({"noise": 1.0}, 0), ({"statistics": 1.0}, 1e-6)):
        expected = start(weights, content, styles, (0.4, 0.6), 7, lambda: content[::-1])
        out = disk.disk_array(content.shape)
        found = start(
            weights, on_disk(content), [on_disk(s) for s in styles], (0.4, 0.6), 7, lambda: content[::-1], out
        )
        assert found is out
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_the_noise_of_a_seed_is_drawn_as_ever():
    noise = start({"noise": 1.0}, np.zeros((3, 40, 30), np.float32), [], (), 5, lambda: pytest.fail("not asked for"))
    np.testing.assert_array_equal(noise, np.random.default_rng(5).random((3, 40, 30), np.float32))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_a_large_png_is_written_in_strips_and_reads_the_same(bits, with_alpha, tmp_path, monkeypatch):
    pixels = on_disk(RNG.random((3, 300, 40), np.float32) * 1.2 - 0.1)
    alpha = RNG.uniform(0.1, 1, (300, 40)).astype(np.float32) if with_alpha else None
    monkeypatch.setattr(sys.modules["nstcore.images.png"], "_ROWS_BYTES", 5000)
    images.write_picture(tmp_path / "small.png", pixels, {"a": 1}, alpha=alpha, bits=bits)
    monkeypatch.setattr(write, "_WHOLE", 0)
    images.write_picture(tmp_path / "large.png", pixels, {"a": 1}, alpha=alpha, bits=bits)
    small, large = (images.load(tmp_path / name) for name in ("small.png", "large.png"))
    assert large.bits == bits
    np.testing.assert_array_equal(large.pixels, small.pixels)
    np.testing.assert_allclose(large.pixels, np.clip(pixels, 0, 1), atol=0.51 / (2**bits - 1))
    assert (large.alpha is None) == (alpha is None)
    assert images.read_metadata(tmp_path / "large.png") == {"a": 1}
    assert b"sRGB" in (tmp_path / "large.png").read_bytes()[:100]


@pytest.mark.parametrize("name", ["p.jpg", "p.webp", "p.tif", "p.png"])
def test_an_array_on_disk_is_written_as_one_in_memory(name, tmp_path, monkeypatch):
    pixels = RNG.random((3, 60, 40), np.float32)
    for alpha in (None, RNG.random((60, 40), np.float32)):
        images.write_picture(tmp_path / name, pixels, alpha=alpha)
        whole = (tmp_path / name).read_bytes()
        monkeypatch.setattr(write, "_STRIP_BYTES", 1000)
        images.write_picture(tmp_path / name, on_disk(pixels), alpha=alpha)
        assert (tmp_path / name).read_bytes() == whole


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_a_tiff_beyond_4_gib_is_a_tiled_bigtiff_that_is_read_tile_by_tile(
    bits, with_alpha, tmp_path, monkeypatch, in_strips
):
    pytest.importorskip("tifffile")
    pixels = RNG.random((3, 600, 530), np.float32)
    alpha = RNG.uniform(0.1, 1, (600, 530)).astype(np.float32) if with_alpha else None
    monkeypatch.setattr(write, "_MOST_SAMPLES", 0)
    path = tmp_path / "p.tif"
    images.write_picture(path, on_disk(pixels), {"b": [2]}, alpha=alpha, bits=bits)
    assert path.read_bytes()[:4] == b"II+\0"
    tiles = big_tiff.read_tiles(path)
    assert tiles.samples.shape == (600, 530, 3 + with_alpha)
    assert disk.on_disk(tiles.samples)
    again = path.read_bytes()
    images.write_picture(path, pixels, {"b": [2]}, alpha=alpha, bits=bits)
    assert path.read_bytes() == again  # no time in it, nor anything else of the moment
    by_pillow, by_tiles = images.load(path), images.load(path, large=0)
    np.testing.assert_allclose(by_pillow.pixels, pixels, atol=0.51 / (2**bits - 1))
    np.testing.assert_array_equal(images.numbers(by_tiles.pixels), by_pillow.pixels)
    assert by_tiles.bits == by_pillow.bits == bits
    if with_alpha:
        np.testing.assert_array_equal(by_tiles.alpha, by_pillow.alpha)
    assert images.read_metadata(path) == {"b": [2]}


def test_damaged_tiffs_are_left_to_pillow_to_refuse(tmp_path):
    pytest.importorskip("tifffile")
    whole = tiff16(SIXTEEN[..., :3], compression="deflate")
    for content in (whole[:-900], whole[:2000], b"II*\0" + bytes(50)):
        path = written(tmp_path / "p.tif", content)
        with pytest.raises(PictureError) as small:
            images.load(path)
        with pytest.raises(PictureError) as large:
            images.load(path, large=0)
        assert str(large.value) == str(small.value)


def test_without_tifffile_a_tiff_that_may_exceed_4_gib_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "installed", lambda: False)
    images.check_output(tmp_path / "p.tif", shape=(16384, 16384), bits=16)
    with pytest.raises(OutputError, match=r"can exceed 4 GiB, which takes tifffile: pip install \"nstcore\[large\]\""):
        images.check_output(tmp_path / "p.tif", shape=(40000, 40000))
    images.check_output(tmp_path / "p.png", shape=(40000, 40000))
    with pytest.raises(OutputError, match="sides up to 65500"):
        images.check_output(tmp_path / "p.jpg", shape=(70000, 10))
    monkeypatch.setattr(write, "installed", lambda: True)
    images.check_output(tmp_path / "p.tif", shape=(40000, 40000))


MEASURED = """
import re, sys
from pathlib import Path
import numpy as np
from nstcore import disk, images
from nstcore.images.profiles import srgb_profile
from nstcore.transfer.pictures import Pictures

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

images.load(np.zeros((8, 8, 3)))
bare, side = peak(), 4096
x = disk.disk_array((3, side, side))
images.resize_pixels(np.random.default_rng(0).random((3, 99, 99), np.float32), (side, side), x)
images.write_picture(sys.argv[1], x, {"a": 1})
pictures = Pictures(sys.argv[1], [sys.argv[1]], style_size=4050)
y = pictures.pixels((side, side), x)
(style,) = pictures.styles(side)
print(peak() - bare, float(y[:, ::500].mean()), style.shape)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_picture_of_4096_pixels_a_side_takes_little_more_memory_than_its_decoder(tmp_path):
    """67 MB are Pillow's; the picture in float32 would be 201 MB, and there were several at once."""
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "p.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak, mean, *shape = done.stdout.split()
    assert float(peak) < 120
    assert float(mean) == pytest.approx(0.5, abs=0.02)
    assert "".join(shape) == "(4050,4050,3)"
