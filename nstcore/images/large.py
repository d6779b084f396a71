"""A large picture at the depth that its file has, on disk: 3 or 6 bytes a pixel there, and none in memory.

Pillow decodes a file whole, into 4 bytes a pixel; from there it goes to disk strip by strip, where each strip becomes
the same numbers as in a small picture. Colours that are no longer whole numbers of 8 or 16 bits (floating point;
16 bits through a profile; transparent parts that were filled) are kept in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .. import disk
from .alpha import fill_planes
from .big_tiff import Tiles, read_tiles
from .depth import read_sixteen
from .float_tiff import read_float
from .profiles import keeps_numbers
from .read import (
    Straight,
    as_sixteen,
    check_size,
    eight_bits,
    from_float,
    from_pil,
    from_sixteen,
    is_deep,
    one_line,
    whole_note,
)
from .sources import MOST_LARGE, Source, open_image, opened, shown, source_of
from .upright import as_stored, orientation_of

_TYPES = {8: np.uint8, 16: np.uint16}


class Planes(NamedTuple):
    """A picture as it is kept."""

    pixels: np.ndarray  # (3, H, W), uint8 or uint16, which span 0 to 1, or float32
    alpha: np.ndarray | None  # (H, W), float32; None if all is opaque
    bits: int  # of the file
    note: str | None = None


class _Strips(NamedTuple):
    """A decoded picture that is handed out strip by strip, as it is stored: not turned upright yet."""

    size: tuple[int, int]
    orientation: int
    exact: bool  # 16 bits are still whole numbers
    strip: Callable[[slice], Straight]


def read_large(picture: str | Path | Image.Image, large: int) -> Planes | None:
    """A picture of more than `large` pixels; None where it has no more. Raises as `read_straight` does."""
    if isinstance(picture, Image.Image):
        return None if picture.width * picture.height <= large else _gathered(_image_strips(picture))
    name, source = shown(picture), source_of(picture)
    with one_line(name, source):
        with opened(source) as file:
            floats = read_float(file)
        if floats is not None:
            if floats.colour.shape[0] * floats.colour.shape[1] <= large:
                return None
            found = _gathered(_whole(from_float(floats, name)))
        else:
            with open_image(source) as image:
                if image.width * image.height <= large:
                    return None
                check_size(image, MOST_LARGE)
                tiles = read_tiles(source) if image.format == "TIFF" else None
                found = _gathered(_file_strips(image, source) if tiles is None else _tile_strips(tiles))
    return found._replace(note=whole_note(name, source, found.note))


def _tile_strips(tiles: Tiles) -> _Strips:
    """Of a TIFF that was read tile by tile."""
    samples, orientation, profile = tiles
    colours = samples.shape[2] - (samples.shape[2] in (2, 4))

    def strip(rows: slice) -> Straight:
        part = np.ascontiguousarray(samples[rows])
        disk.release(samples)
        if part.dtype == np.uint8:
            image = Image.fromarray(part[..., 0] if part.shape[2] == 1 else part)
            image.info["icc_profile"] = profile
            return Straight(*eight_bits(image), 8)
        colour = part[..., 0] if colours == 1 else part[..., :3]
        return from_sixteen(colour, part[..., -1] if colours < part.shape[2] else None, profile)

    return _Strips(samples.shape[:2], orientation, keeps_numbers(profile, colours == 1), strip)


def _file_strips(image: Image.Image, source: Source) -> _Strips:
    """Of what Pillow decodes."""
    sixteen = read_sixteen(image, source)
    if sixteen is None:
        return _image_strips(image)
    colour, alpha = sixteen
    profile = image.info.get("icc_profile")

    def strip(rows: slice) -> Straight:
        found = from_sixteen(colour[rows], None if alpha is None else alpha[rows], profile)
        disk.release(colour)
        return found

    return _Strips(colour.shape[:2], 1, keeps_numbers(profile, colour.ndim == 2), strip)


def _image_strips(image: Image.Image) -> _Strips:
    """Of an image of Pillow's."""
    image.load()
    if image.mode == "F":
        return _whole(from_pil(image))
    profile, orientation, size = image.info.get("icc_profile"), orientation_of(image), (image.height, image.width)
    if is_deep(image):
        grey = as_sixteen(image)
        return _Strips(
            size, orientation, keeps_numbers(profile, grey=True), lambda rows: from_sixteen(grey[rows], None, profile)
        )

    def strip(rows: slice) -> Straight:
        return Straight(*eight_bits(image.crop((0, rows.start, image.width, rows.stop))), 8)

    return _Strips(size, orientation, True, strip)


def _whole(found: Straight) -> _Strips:
    def strip(rows: slice) -> Straight:
        return found._replace(rgb=found.rgb[rows], alpha=None if found.alpha is None else found.alpha[rows])

    return _Strips(found.rgb.shape[:2], 1, False, strip)


def _gathered(strips: _Strips) -> Planes:
    """Strips (n, W, 3) as planes (3, H, W), upright."""
    height, width = strips.size
    upright = (width, height) if strips.orientation > 4 else (height, width)
    pixels = alpha = None
    bits, note = 8, None
    for rows in disk.strips((3, height, width), disk.STRIP_BYTES // 4):  # a strip is copied several times
        found = strips.strip(rows)
        if pixels is None:
            bits, note = found.bits, found.note
            dtype = _TYPES.get(bits, np.float32) if strips.exact or bits == 8 else np.float32
            pixels = disk.new_array((3, *upright), dtype)
        rgb = found.rgb if pixels.dtype == np.float32 else np.rint(found.rgb * np.iinfo(pixels.dtype).max)
        _place(as_stored(pixels.transpose(1, 2, 0), strips.orientation), rows, rgb, strips.orientation)
        if found.alpha is not None:
            if alpha is None:
                alpha = disk.new_array(upright, np.float32)
                disk.fill(alpha, 1)
            _place(as_stored(alpha, strips.orientation), rows, found.alpha, strips.orientation)
    assert pixels is not None
    return Planes(fill_planes(pixels, alpha), alpha, bits, note)


def _place(stored: np.ndarray, rows: slice, values: np.ndarray, orientation: int) -> None:
    """Write rows of a picture as it is stored: where it lies on its side, they are columns of what is on disk."""
    on_side = orientation > 4
    for part in disk.strips((stored.shape[1], stored.shape[0])) if on_side else [slice(None)]:
        stored[rows, part] = values[:, part]
        disk.release(stored)


def array_planes(rgb: np.ndarray, alpha: np.ndarray | None, bits: int) -> Planes:
    """Of an array's colours (H, W, 3), which are left as they are."""
    return Planes(fill_planes(rgb.transpose(2, 0, 1), alpha), alpha, bits)
