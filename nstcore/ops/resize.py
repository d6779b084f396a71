"""Resizing: nearest, and bilinear.

        nearest:   y[c,p,q] = x[c,i,j]        i = floor(p H / P),  j = floor(q W / Q)
        bilinear:  y[c,p,q] = sum_{i,j} r_p[i] s_q[j] x[c,i,j]

from (H, W) to (P, Q). Nearest repeats each value P/H times where that is a whole number: the enlargement of networks
that paint, of which a convolution then smooths the steps. (Learned enlargements, transposed convolutions, leave a
chequerboard [1].)

Bilinear takes the pixels for squares of which x has the middles: the middle of p lies at (p + 1/2) H/P - 1/2 in x,
moved into [0, H-1] at the edges. r_p has two numbers that are not 0: with i the whole part of that place and t the
rest, r_p[i] = 1 - t and r_p[i+1] = t. Nothing is smoothed before a picture is made smaller.

Both are linear in x; the backward pass is the adjoint: each dy goes back to where its y came from, by the same weights.
These are the "nearest" of PyTorch and TensorFlow Lite, and their "bilinear" with align_corners off and half-pixel
centres on.

References
----------
.. [1] Odena, Dumoulin, Olah, "Deconvolution and Checkerboard Artifacts", Distill, 2016.
"""

from __future__ import annotations

import numpy as np

from ..errors import OptionError
from . import _shapes
from ._take import take_backward


def resize_nearest_forward(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """The nearest value of x (C, H, W), towards the upper left, at every position of y (C, height, width)."""
    _check("x", x, height, width)
    _, H, W = x.shape
    return x.take(_nearest(H, height), axis=1).take(_nearest(W, width), axis=2)


def resize_nearest_backward(dy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Gradient (C, H, W) with respect to x of that `size` (H, W): the sum of dy over the copies of each value."""
    _check("dy", dy, *size)
    H, W = size
    rows, columns = _nearest(H, dy.shape[1]), _nearest(W, dy.shape[2])
    return take_backward(take_backward(dy, columns, W, axis=2), rows, H, axis=1)


def resize_bilinear_forward(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """x (C, H, W) interpolated between its four neighbours at every position of y (C, height, width)."""
    _check("x", x, height, width)
    return _interpolate(_interpolate(x, height, axis=1), width, axis=2)


def resize_bilinear_backward(dy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Gradient (C, H, W) with respect to x of that `size` (H, W)."""
    _check("dy", dy, *size)
    H, W = size
    return _interpolate_backward(_interpolate_backward(dy, W, axis=2), H, axis=1)


def _nearest(n: int, count: int) -> np.ndarray:
    """floor(p n / count) for each p < count, in whole numbers."""
    return np.arange(count) * n // count


def _between(n: int, count: int, dtype: np.dtype, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """i and i + 1 (count,) for each p < count, and t in a shape that multiplies along that axis of (C, H, W)."""
    below = 2 * count  # the place is a fraction of whole numbers: t is rounded once
    above = np.clip((2 * np.arange(count) + 1) * n - count, 0, (n - 1) * below)
    i, rest = np.divmod(above, below)
    t = (rest.astype(np.promote_types(dtype, np.float64)) / below).astype(dtype)
    return i, np.minimum(i + 1, n - 1), t.reshape(-1, *[1] * (2 - axis))


def _interpolate(x: np.ndarray, count: int, axis: int) -> np.ndarray:
    """Along one axis."""
    i, j, t = _between(x.shape[axis], count, x.dtype, axis)
    return (1 - t) * x.take(i, axis) + t * x.take(j, axis)


def _interpolate_backward(dy: np.ndarray, n: int, axis: int) -> np.ndarray:
    """Along one axis, which has n positions in x."""
    i, j, t = _between(n, dy.shape[axis], dy.dtype, axis)
    # forward: y = (1 - t) x[i] + t x[j]
    return take_backward((1 - t) * dy, i, n, axis) + take_backward(t * dy, j, n, axis)


def _check(name: str, a: np.ndarray, height: int, width: int) -> None:
    _shapes.rank(name, a, "(C, H, W)")
    _shapes.not_empty(name, a)
    if min(height, width) < 1:
        raise OptionError(f"height, width: expected 1 or more, got {height}, {width}")
