"""From one size to another: pictures (cut off to [0, 1]), masks (by area), and any numbers (as they come)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..errors import OptionError, ShapeError

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resample(array: np.ndarray, size: tuple[int, int], filter: str = "bicubic") -> np.ndarray:
    """Numbers of any range at another size, not cut off; the state of an optimizer, say.

    Sample i of n stands at (i + 1/2)/n of the side, so the picture does not shift. Made smaller, the filter widens
    with the ratio, so nothing aliases.

    Parameters
    ----------
    array : ndarray of shape (C, H, W) or (H, W), any float
    size : (height, width)
    filter : "bicubic", "bilinear" or "lanczos"
        Bilinear never leaves the range of its input; the others overshoot at edges.

    Returns
    -------
    ndarray of shape (C, height, width) or (height, width), float32
        A new array.

    Raises
    ------
    OptionError
        If there is no such filter.
    ShapeError
        If `array` has another number of dimensions, or a size is below 1.
    """
    if filter not in _FILTERS:
        raise OptionError(f"filter: expected {', '.join(_FILTERS)}, got {filter!r}")
    if array.ndim not in (2, 3) or not array.size or min(size) < 1:
        raise ShapeError(f"resample: expected (C, H, W) or (H, W), to a size of 1 or more, got {array.shape} to {size}")
    planes = np.asarray(array, np.float32).reshape(-1, *array.shape[-2:])
    resized = np.empty((len(planes), *size), np.float32)
    for plane, out in zip(planes, resized, strict=True):
        image = Image.fromarray(np.ascontiguousarray(plane))
        out[:] = np.asarray(image.resize((size[1], size[0]), _FILTERS[filter]))
    return resized.reshape(*array.shape[:-2], *size)


def resize_pixels(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels (3, H, W) to (3, height, width), Lanczos; overshoot is cut off; as they are if they have that size."""
    if pixels.shape[1:] == size:
        return pixels
    return np.clip(resample(pixels, size, "lanczos"), 0, 1)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at another size.

    Along an axis that shrinks, the exact mean over the area that each new pixel covers, so that the share of the
    picture that is masked stays the same; along one that grows, bilinear.

    Parameters
    ----------
    mask : ndarray of shape (H, W), in [0, 1]
    size : (height, width)

    Returns
    -------
    ndarray of shape (height, width), float32, in [0, 1]
    """
    if mask.ndim != 2:
        raise ShapeError(f"mask: expected (H, W), got {mask.shape}")
    for axis, n in enumerate(size):
        if n < mask.shape[axis]:
            mask = np.moveaxis(_area_means(np.moveaxis(mask, axis, -1), n), -1, axis)
    if mask.shape != size:
        mask = resample(mask, size, "bilinear")
    return np.clip(mask, 0, 1).astype(np.float32)


def _area_means(x: np.ndarray, n: int) -> np.ndarray:
    """(..., N) to (..., n), n <= N: means of the piecewise constant x over n equal stretches, in float64."""
    edges = np.arange(n + 1) * (x.shape[-1] / n)
    whole = np.minimum(edges.astype(int), x.shape[-1] - 1)
    before = np.zeros((*x.shape[:-1], x.shape[-1] + 1))
    np.cumsum(x, axis=-1, dtype=np.float64, out=before[..., 1:])
    integral = before[..., whole] + (edges - whole) * x[..., whole]
    return np.diff(integral, axis=-1) * (n / x.shape[-1])
