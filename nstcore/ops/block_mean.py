"""Block means: a picture in small, each of its pixels the mean of a block of k x k.

        y[c,i,j] = mean of x[c,p,q]  over  k i <= p < min(k (i+1), H),  k j <= q < min(k (j+1), W)
        dx[c,p,q] = dy[c, p//k, q//k] / (pixels in that block)

Blocks at the lower and the right edge are smaller where k does not divide the size: no pixel is left out, and none is
made up. Blocks are rectangles, so the mean of one is the mean of its rows' means, whatever its size. The backward pass
is the adjoint: <y(x), dy> = <x, dx>.
"""

from __future__ import annotations

import numpy as np

from ..errors import OptionError
from . import _shapes


def block_mean_forward(x: np.ndarray, k: int) -> np.ndarray:
    """Mean of each block.

    Parameters
    ----------
    x : ndarray of shape (C, H, W)
    k : int
        Side of a block, 1 or more; one that is larger than the picture gives the picture's mean.

    Returns
    -------
    y : ndarray of shape (C, ceil(H/k), ceil(W/k)), dtype of `x`
        In the unit of `x`. A new array.

    Raises
    ------
    ShapeError
        If `x` is no floating-point array of that rank, or has no pixels.
    OptionError
        If `k` is below 1.
    """
    _shapes.rank("x", x, "(C, H, W)")
    _shapes.not_empty("x", x)
    return _means(_means(x, k, axis=1), k, axis=2)


def block_mean_backward(dy: np.ndarray, k: int, shape: tuple[int, ...]) -> np.ndarray:
    """Gradient (C, H, W) with respect to x of that `shape`, from dy (C, ceil(H/k), ceil(W/k))."""
    rows, columns = (_sizes(n, k) for n in shape[1:])
    _shapes.equal("dy", dy, (shape[0], len(rows), len(columns)), f"blocks of {k} x {k} in {shape}")
    share = dy / rows.astype(dy.dtype)[:, None] / columns.astype(dy.dtype)
    return np.repeat(np.repeat(share, columns, axis=2), rows, axis=1)


def _means(x: np.ndarray, k: int, axis: int) -> np.ndarray:
    """Means of every k elements along one axis, of those that are left over at its end."""
    lines = np.moveaxis(x, axis, -1)
    sizes = _sizes(lines.shape[-1], k)
    sums = lines[..., ::k].copy(order="K")
    for i in range(1, sizes[0]):  # the i-th of every block; the last block may have none
        part = lines[..., i::k]
        sums[..., : part.shape[-1]] += part
    return np.moveaxis(sums / sizes.astype(x.dtype), -1, axis)


def _sizes(n: int, k: int) -> np.ndarray:
    """How many of n positions each block of k has: k, but for the last."""
    if k < 1:
        raise OptionError(f"k: expected blocks of 1 pixel or more, got {k}")
    return np.diff(np.arange(0, n, k), append=n)
