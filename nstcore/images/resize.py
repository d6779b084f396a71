"""From one size to another: pictures (cut off to [0, 1]), masks (by area), and any numbers (as they come).

Pillow's filters have two passes, over the rows, each by itself, and over the columns, each by itself; what comes out of
the first is rounded to float32. Here the rows always come first (Pillow 13 begins with the columns where the height
shrinks much more than the width), so the numbers depend neither on Pillow's version nor on the way: what does not fit
into memory goes through the first pass in strips of rows, and through the second in blocks of columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from .. import disk
from ..errors import OptionError, ShapeError

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
WHOLE_BYTES = 1 << 24  # of a plane in float32 that is resized in one piece


def numbers(array: np.ndarray) -> np.ndarray:
    """What an array holds, as floats: integers of 8 or 16 bits span their type, so that the largest is 1."""
    if array.dtype.kind != "u":
        return array
    return array.astype(np.float32) / (2 ** (8 * array.itemsize) - 1)


def resample(
    array: np.ndarray, size: tuple[int, int], filter: str = "bicubic", out: np.ndarray | None = None
) -> np.ndarray:
    """Numbers of any range at another size, not cut off; the state of an optimizer, say.

    Sample i of n stands at (i + 1/2)/n of the side, so the picture does not shift. Made smaller, the filter widens
    with the ratio, so nothing aliases.

    Parameters
    ----------
    array : ndarray of shape (C, H, W) or (H, W), any float; or uint8, uint16, which span 0 to 1
    size : (height, width)
    filter : "bicubic", "bilinear" or "lanczos"
        Bilinear never leaves the range of its input; the others overshoot at edges.
    out : ndarray of shape (C, height, width) or (height, width), float32, optional
        Takes the result. With it, both arrays may lie on disk; memory is taken for a strip.

    Returns
    -------
    ndarray of shape (C, height, width) or (height, width), float32
        `out`, or a new array.

    Raises
    ------
    OptionError
        If there is no such filter.
    ShapeError
        If `array` or `out` has another number of dimensions, or a size is below 1.
    """
    if filter not in _FILTERS:
        raise OptionError(f"filter: expected {', '.join(_FILTERS)}, got {filter!r}")
    if array.ndim not in (2, 3) or not array.size or min(size) < 1:
        raise ShapeError(f"resample: expected (C, H, W) or (H, W), to a size of 1 or more, got {array.shape} to {size}")
    out = _checked_out(out, (*array.shape[:-2], *size))
    planes = array if array.ndim == 3 else array[None]
    for plane, resized in zip(planes, out if out.ndim == 3 else out[None], strict=True):
        _resample_plane(plane, resized, _FILTERS[filter])
    return out


def resize_pixels(pixels: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
    """Pixels (3, H, W) to (3, height, width), Lanczos; overshoot is cut off.

    Without `out`, as they are if they have that size. Integers and `out` as for `resample`.
    """
    if pixels.shape[1:] != size:
        return _clip(resample(pixels, size, "lanczos", out))
    if out is None and pixels.dtype.kind != "u":
        return pixels
    out = _checked_out(out, pixels.shape)
    for rows in disk.strips(out):
        out[:, rows] = numbers(pixels[:, rows])
        disk.release(out, pixels)
    return out


def resize_mask(mask: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
    """A mask at another size.

    Along an axis that shrinks, the exact mean over the area that each new pixel covers, so that the share of the
    picture that is masked stays the same; along one that grows, bilinear.

    Parameters
    ----------
    mask : ndarray of shape (H, W), in [0, 1]
    size : (height, width)
    out : ndarray of shape (height, width), float32, optional
        Takes the result, as for `resample`.

    Returns
    -------
    ndarray of shape (height, width), float32, in [0, 1]
    """
    if mask.ndim != 2:
        raise ShapeError(f"mask: expected (H, W), got {mask.shape}")
    for axis, n in enumerate(size):
        if n < mask.shape[axis]:
            mask = _shrunk(mask, n, axis)
    if mask.shape != size:
        return _clip(resample(mask, size, "bilinear", out))
    out = _checked_out(out, size)
    for rows in disk.strips(out):
        out[rows] = np.clip(mask[rows], 0, 1)
        disk.release(out, mask)
    return out


def _resample_plane(x: np.ndarray, y: np.ndarray, filter: Any) -> None:
    """One plane (H, W) to another, float32."""
    (height, width), (to_height, to_width) = x.shape, y.shape
    if 4 * max(x.size, y.size, height * to_width) <= WHOLE_BYTES:
        y[:] = _resized(x, (to_height, to_width), filter)
        return
    rows_done = y if height == to_height else disk.new_array((height, to_width))
    for rows in disk.strips((height, max(width, to_width))):
        rows_done[rows] = _resized(x[rows], (rows.stop - rows.start, to_width), filter)
        disk.release(x, rows_done)
    if rows_done is y:
        return
    for columns in _columns(max(height, to_height), to_width):
        _put(y, columns, _resized(_taken(rows_done, columns), (to_height, columns.stop - columns.start), filter))


def _resized(x: np.ndarray, size: tuple[int, int], filter: Any) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(numbers(x), np.float32))
    if image.width != size[1]:
        image = image.resize((size[1], image.height), filter)
    if image.height != size[0]:
        image = image.resize((size[1], size[0]), filter)
    return np.asarray(image)


def _shrunk(mask: np.ndarray, n: int, axis: int) -> np.ndarray:
    """`_area_means` along an axis, block by block of the other."""
    shape = (n, mask.shape[1]) if axis == 0 else (mask.shape[0], n)
    found = disk.new_array(shape, np.float64)
    for lines in _columns(4 * mask.shape[axis], mask.shape[1 - axis]):  # float64, and the sums of it
        if axis == 0:
            _put(found, lines, _area_means(_taken(mask, lines).T, n).T)
        else:
            found[lines] = _area_means(mask[lines], n)
            disk.release(mask, found)
    return found


def _area_means(x: np.ndarray, n: int) -> np.ndarray:
    """(..., N) to (..., n), n <= N: means of the piecewise constant x over n equal stretches, in float64."""
    edges = np.arange(n + 1) * (x.shape[-1] / n)
    whole = np.minimum(edges.astype(int), x.shape[-1] - 1)
    before = np.zeros((*x.shape[:-1], x.shape[-1] + 1))
    np.cumsum(x, axis=-1, dtype=np.float64, out=before[..., 1:])
    integral = before[..., whole] + (edges - whole) * x[..., whole]
    return np.diff(integral, axis=-1) * (n / x.shape[-1])


def _clip(x: np.ndarray) -> np.ndarray:
    """Cut off to [0, 1], in place."""
    for rows in disk.strips(x):
        np.clip(x[..., rows, :], 0, 1, out=x[..., rows, :])
        disk.release(x)
    return x


def _taken(x: np.ndarray, columns: slice) -> np.ndarray:
    """A block of columns, in memory; of what lies on disk only some rows become resident at a time."""
    block = np.empty((len(x), columns.stop - columns.start), x.dtype)
    for rows in disk.strips(x):
        block[rows] = x[rows, columns]
        disk.release(x)
    return block


def _put(y: np.ndarray, columns: slice, block: np.ndarray) -> None:
    """Write a block of columns, likewise."""
    for rows in disk.strips(y):
        y[rows, columns] = block[rows]
        disk.release(y)


def _columns(height: int, width: int) -> Iterator[slice]:
    """Blocks of columns, as `disk.strips` has rows."""
    return disk.strips((width, height))


def _checked_out(out: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if out is None:
        return np.empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32:
        raise ShapeError(f"out: expected {shape} of float32, got {out.shape} of {out.dtype}")
    return out
