"""Total variation: how much neighbouring pixels differ. It keeps the picture smooth.

        TV = scale * ( sum (x[c,p+1,q] - x[c,p,q])^2 + sum (x[c,p,q+1] - x[c,p,q])^2
                       + diagonal * ( sum (x[c,p+1,q+1] - x[c,p,q])^2 + sum (x[c,p+1,q] - x[c,p,q+1])^2 ) )

The squared form of the texture-synthesis and style-transfer programs (not Rudin-Osher-Fatemi's absolute one): smooth,
so that a line search can rely on it. Each difference pushes its two pixels apart in the gradient, with opposite signs.
With `diagonal` above 0 the eight neighbours count, not only four, and smoothness depends less on direction.

References
----------
.. [1] Mahendran, Vedaldi, "Understanding Deep Image Representations by Inverting Them", CVPR 2015, section 2, beta = 2.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def total_variation_forward(x: np.ndarray, scale: float, diagonal: float = 0.0) -> float:
    """Loss of a picture x (C, H, W); `diagonal` is the weight of diagonal neighbours, straight ones having 1."""
    _shapes.rank("x", x, "(C, H, W)")
    wide = np.promote_types(x.dtype, np.float64)
    total = sum(
        weight * float(np.square(first - second).sum(dtype=wide)) for first, second, weight in _pairs(x, diagonal)
    )
    return scale * total


def total_variation_backward(x: np.ndarray, scale: float, diagonal: float = 0.0) -> np.ndarray:
    """Gradient (C, H, W) with respect to x."""
    _shapes.rank("x", x, "(C, H, W)")
    dx = np.zeros_like(x)
    for (first, second, weight), (dfirst, dsecond, _) in zip(_pairs(x, diagonal), _pairs(dx, diagonal), strict=True):
        push = x.dtype.type(2 * scale * weight) * (first - second)
        dfirst += push
        dsecond -= push
    return dx


def _pairs(x: np.ndarray, diagonal: float) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Views of every pair of neighbours, and what their difference weighs: down, right, and the two diagonals."""
    pairs = [(x[:, 1:], x[:, :-1], 1.0), (x[:, :, 1:], x[:, :, :-1], 1.0)]
    if diagonal:
        pairs += [(x[:, 1:, 1:], x[:, :-1, :-1], diagonal), (x[:, 1:, :-1], x[:, :-1, 1:], diagonal)]
    return pairs
