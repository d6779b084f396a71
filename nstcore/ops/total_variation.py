"""Total variation: how much neighbouring pixels differ. It keeps the picture smooth.

        TV = scale * ( sum (x[c,p+1,q] - x[c,p,q])^2 + sum (x[c,p,q+1] - x[c,p,q])^2 )

The squared form of the texture-synthesis and style-transfer programs (not Rudin-Osher-Fatemi's absolute one): smooth,
so that a line search can rely on it. Each difference pushes its two pixels apart in the gradient, with opposite signs.

References
----------
.. [1] Mahendran, Vedaldi, "Understanding Deep Image Representations by Inverting Them", CVPR 2015, section 2, beta = 2.
"""

from __future__ import annotations

import numpy as np

from . import _shapes


def total_variation_forward(x: np.ndarray, scale: float) -> float:
    """Loss of a picture x (C, H, W)."""
    _shapes.rank("x", x, "(C, H, W)")
    wide = np.promote_types(x.dtype, np.float64)
    down = np.square(np.diff(x, axis=1)).sum(dtype=wide)
    right = np.square(np.diff(x, axis=2)).sum(dtype=wide)
    return scale * float(down + right)


def total_variation_backward(x: np.ndarray, scale: float) -> np.ndarray:
    """Gradient (C, H, W) with respect to x."""
    _shapes.rank("x", x, "(C, H, W)")
    dx = np.zeros_like(x)
    down = x.dtype.type(2 * scale) * np.diff(x, axis=1)
    right = x.dtype.type(2 * scale) * np.diff(x, axis=2)
    dx[:, 1:, :] += down
    dx[:, :-1, :] -= down
    dx[:, :, 1:] += right
    dx[:, :, :-1] -= right
    return dx
