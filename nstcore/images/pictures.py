"""Pictures in memory: from whatever a caller has to pixels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from PIL import Image

from .. import disk
from ..errors import PictureError
from .alpha import fill_hidden, over_white
from .large import array_planes, read_large
from .read import Straight, from_pil, read_straight
from .resize import numbers
from .sources import LARGE

Picture: TypeAlias = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class Loaded:
    """A picture and what the result may want of it.

    Attributes
    ----------
    pixels : ndarray of shape (3, H, W), C-contiguous, float32 or float64
        RGB in [0, 1], not multiplied by alpha; where alpha is 0, continued from the visible parts around. Of a large
        picture also uint8 or uint16, which span 0 to 1, and not always contiguous; see `numbers`.
    alpha : ndarray of shape (H, W), float32, in [0, 1]; or None
        None if the picture is opaque everywhere.
    bits : int
        Depth per channel of the file or array: 8, 16 or 32 (floating point).
    note : str or None
        What a person should know about the file, one line: that it has more frames or pages than the one that was
        taken, or values that were cut off.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    bits: int
    note: str | None = None


def load(picture: Picture, large: int | None = None) -> Loaded:
    """A picture with its alpha and its depth.

    Parameters
    ----------
    picture : path, PIL image, or array
        The path "-" is standard input. A file of 16 bits per channel (PNG, TIFF) is read at that depth; with an
        embedded profile other than sRGB only where that is one of curves and a matrix, else at 8 bits. A TIFF of
        floating point is read as it is, 1 being white. A PIL image has the 8 bits that Pillow keeps (grey: 16). Arrays
        as for `as_pixels`.
    large : int, optional
        Pixels above which it is not turned into floats: it stays in the 8 or 16 bits that it has, a file's on disk. An
        array of float32 is not copied then, nor ever where it lies on disk; what must be made of it goes to disk.

    Raises
    ------
    PictureError
        If it is no picture.
    OutputError
        If the disk has no room for a large one.
    """
    found = load_large(picture, large)
    if found is not None:
        return found
    rgb, alpha, bits, note = straight(picture)
    if alpha is not None:
        rgb = fill_hidden(rgb, alpha)
    return Loaded(np.ascontiguousarray(rgb.transpose(2, 0, 1)), alpha, bits, note)


def load_large(picture: Picture, large: int | None) -> Loaded | None:
    """A picture as `load` keeps a large one; None if it has no more pixels than that."""
    found = None
    if large is not None and isinstance(picture, str | Path | Image.Image):
        found = read_large(picture, large)
    elif isinstance(picture, np.ndarray) and _stays_as_it_is(picture, large):
        found = array_planes(*_checked_array(picture, stays=True))
    return None if found is None else Loaded(*found)


def as_pixels(picture: Picture) -> np.ndarray:
    """A picture as the network side of the program knows it, transparent parts on white.

    Parameters
    ----------
    picture : path, PIL image, or array (H, W), (H, W, 3) or (H, W, 4) of uint8, uint16 or float in [0, 1]
        Integers span their type: 65535 is white. The fourth channel is alpha, the colours not multiplied by it.

    Returns
    -------
    ndarray of shape (3, H, W), C-contiguous
        RGB in [0, 1]; float64 if it came as float64, else float32.

    Raises
    ------
    PictureError
        If it is no picture.
    """
    rgb, alpha, _, _ = straight(picture)
    return np.ascontiguousarray(over_white(rgb, alpha).transpose(2, 0, 1))


def pixels_sha256(picture: Picture) -> str:
    """SHA-256 of `as_pixels`, in hexadecimal; of a large picture strip by strip. Raises as `load` does."""
    loaded, digest = load(picture, LARGE), hashlib.sha256()
    alpha = loaded.alpha
    for plane in loaded.pixels:
        for rows in disk.strips(plane.shape):
            part = numbers(plane[rows])
            if alpha is not None:
                part = part * alpha[rows] + (1 - alpha[rows])
            digest.update(np.ascontiguousarray(part).data)
            disk.release(plane, *(() if alpha is None else (alpha,)))
    return digest.hexdigest()


def as_list(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """One picture, or several, as a list; an array is one picture."""
    if isinstance(pictures, list | tuple):
        return list(pictures)
    return [cast(Picture, pictures)]


def straight(picture: Picture) -> Straight:
    """Colours (H, W, 3) not multiplied by alpha, alpha and depth, of any form of a picture."""
    if isinstance(picture, str | Path):
        return read_straight(picture)
    if isinstance(picture, Image.Image):
        return from_pil(picture)
    if not isinstance(picture, np.ndarray):
        raise PictureError(f"picture: expected a path, a PIL image or an array (H, W, 3), got {type(picture).__name__}")
    return _from_array(picture)


def _from_array(array: np.ndarray) -> Straight:
    rgb, alpha, bits = _checked_array(array)
    return Straight(numbers(rgb), alpha, bits)


def _checked_array(array: np.ndarray, stays: bool = False) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Colours (H, W, 3), of the array's integers or of float, alpha (H, W) in float32, and depth.

    Of one that `stays` as it is, views; what has another type is made strip by strip.
    """
    if array.ndim == 2:
        array = np.broadcast_to(array[..., None], (*array.shape, 3))
    if array.ndim != 3 or array.shape[2] not in (3, 4) or not array.size:
        raise PictureError(f"picture: expected an array (H, W, 3) or (H, W, 4), got shape {array.shape}")
    bits = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}.get(array.dtype, 32)
    if bits == 32:
        if not np.issubdtype(array.dtype, np.floating):
            raise PictureError(f"picture: expected uint8, uint16, or floating point in [0, 1], got {array.dtype}")
        if not _in_range(array):
            raise PictureError("picture: expected values in [0, 1], got others; divide an array of 0..255 by 255")
        if array.dtype != np.float64:
            array = _in_float32(array) if stays else array.astype(np.float32)
    if array.shape[2] == 3:
        return array, None, bits
    alpha = array[..., 3]
    opaque = all(part.min() == (1 if bits == 32 else 2**bits - 1) for part in _parts(alpha))
    return array[..., :3], None if opaque else _in_float32(alpha), bits


def _in_float32(array: np.ndarray) -> np.ndarray:
    """An array (H, W) or (H, W, C) itself, or its numbers in float32, on disk where they are many."""
    if array.dtype == np.float32:
        return array
    out = disk.new_array(array.shape)
    for rows in disk.strips((len(array), array.size // len(array))):
        out[rows] = numbers(array[rows])
        disk.release(array, out)
    return out


def _stays_as_it_is(array: np.ndarray, large: int | None) -> bool:
    """Whether no copy of an array is to be made."""
    if large is not None and math.prod(array.shape[:2]) > large:
        return True
    return disk.on_disk(array) and array.dtype == np.float32


def _in_range(array: np.ndarray) -> bool:
    """Whether all is finite and in [0, 1]."""
    return all(part.min() >= 0 and part.max() <= 1 for part in _parts(array))  # of NaN neither is true


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Of an array (H, W) or (H, W, C), its rows, many at a time."""
    for rows in disk.strips((array.shape[0], array.size // array.shape[0])):
        yield array[rows]
        disk.release(array)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels (3, H, W) in [0, 1] as (H, W, 3) uint8, rounded to nearest, values outside cut off."""
    scaled = np.rint(np.clip(pixels.transpose(1, 2, 0), 0, 1) * 255)
    return np.ascontiguousarray(scaled.astype(np.uint8))
