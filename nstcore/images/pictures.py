"""Pictures in memory: from whatever a caller has to pixels, and from one size to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from PIL import Image

from ..errors import OptionError, PictureError
from .read import from_pil, read_picture

Picture: TypeAlias = str | Path | Image.Image | np.ndarray


def as_pixels(picture: Picture) -> np.ndarray:
    """A picture as the network side of the program knows it.

    Parameters
    ----------
    picture : path, PIL image, or array (H, W, 3) or (H, W) of uint8 or float in [0, 1]

    Returns
    -------
    ndarray of shape (3, H, W), C-contiguous
        RGB in [0, 1]; float64 if it came as float64, else float32.

    Raises
    ------
    PictureError
        If it is no picture.
    """
    return np.ascontiguousarray(_rgb(picture).transpose(2, 0, 1))


def as_list(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """One picture, or several, as a list; an array is one picture."""
    if isinstance(pictures, list | tuple):
        return list(pictures)
    return [cast(Picture, pictures)]


def _rgb(picture: Picture) -> np.ndarray:
    if isinstance(picture, str | Path):
        return read_picture(picture)
    if isinstance(picture, Image.Image):
        return from_pil(picture)
    if not isinstance(picture, np.ndarray):
        raise PictureError(f"picture: expected a path, a PIL image or an array (H, W, 3), got {type(picture).__name__}")
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise PictureError(f"picture: expected an array (H, W, 3), got shape {picture.shape}")
    if picture.dtype == np.uint8:
        return picture.astype(np.float32) / 255
    if not np.issubdtype(picture.dtype, np.floating):
        raise PictureError(f"picture: expected uint8, or floating point in [0, 1], got {picture.dtype}")
    if not (np.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1):
        raise PictureError("picture: expected values in [0, 1], got others; divide an array of 0..255 by 255")
    return picture if picture.dtype == np.float64 else picture.astype(np.float32)


def fit(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(height, width) with the proportions of `size` and that long side, each at least 1."""
    if long_side < 1:
        raise OptionError(f"size: expected a long side of 1 pixel or more, got {long_side}")
    height, width = size
    ratio = long_side / max(height, width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def resize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) in [0, 1] to (height, width), Lanczos, in floating point; overshoot is cut off."""
    height, width = size
    channels = [
        np.asarray(Image.fromarray(array[..., c].astype(np.float32)).resize((width, height), Image.Resampling.LANCZOS))
        for c in range(3)
    ]
    return np.clip(np.stack(channels, axis=2), 0, 1)


def resize_pixels(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels (3, H, W) to (3, height, width); as they are if they have that size."""
    if pixels.shape[1:] == size:
        return pixels
    return np.ascontiguousarray(resize(pixels.transpose(1, 2, 0), size).transpose(2, 0, 1))


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels (3, H, W) in [0, 1] as (H, W, 3) uint8, rounded to nearest, values outside cut off."""
    scaled = np.rint(np.clip(pixels.transpose(1, 2, 0), 0, 1) * 255)
    return np.ascontiguousarray(scaled.astype(np.uint8))
